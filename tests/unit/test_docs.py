"""What the documentation says and a program can check: links lead somewhere, commands exist, words are those in use."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from bkd.ipc.stacks import Frame
from bkd.supervisor.cluster import Verdict
from bkd.supervisor.commandline import cli
from bkd.supervisor.forensics.endwords import headline
from bkd.supervisor.forensics.evidence import Evidence, KernelThread, Report

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
CWD = "/srv/shop"

LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
CODE = re.compile(r"`(bkd [^`\n]+)`|^(?:\$| {4}) ?(bkd [^\n]+)$", re.MULTILINE)
COMMAND = re.compile(r"[a-z][a-z-]*(?= |$)")


def named(page: Path) -> Iterator[str]:
    """Every command line of bkd that the page shows."""
    for quoted, typed in CODE.findall(page.read_text()):
        yield re.split(r" {2,}|[|;&#]", quoted or typed)[0].strip()


def anchors(page: Path) -> set[str]:
    """What links into the page may name."""
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in HEADING.findall(page.read_text())}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text()):
        if link.startswith("http"):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page

        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_their_options_exist(page: Path) -> None:
    for line in named(page):
        words = line.split()[1:]
        command: click.Command = cli
        while words and isinstance(command, click.Group) and words[0] in command.commands:
            command = command.commands[words.pop(0)]
        known = {option for part in command.params for option in part.opts} | {"--help", "-h"}

        assert command is not cli or not words or not COMMAND.match(words[0]), line
        assert {word.strip("[]") for word in words if re.match(r"\[?--?[a-z]", word)} <= known, line


def test_every_command_is_documented() -> None:
    said = {line.split()[1] for page in PAGES for line in named(page) if len(line.split()) > 1}

    assert cli.commands.keys() - said == set()


def told(cause: str, frame: Frame | None = None, *, call: str = "", silence: str = "", **more: Any) -> str:
    """The headline of an end; with a `call` or a `silence` there is evidence."""
    report = Report("web.1", 4711, 100, 1, 0.0, ended=True, cwd=CWD, cause=cause, culprit=frame, **more)
    if not call and not silence:
        return headline(report)
    source = "signal" if silence else "worker"
    evidence = Evidence(0.0, kernel=[KernelThread(4711, call=call)], source=source, silence=silence, culprit=frame)
    return headline(
        Report(**{name: getattr(report, name) for name in Report.__struct_fields__} | {"evidence": evidence})
    )


def at(line: int, function: str, text: str) -> Frame:
    return Frame(f"{CWD}/web.py", line, function, text)


RECURSION = "Fatal Python error: Segmentation fault\n\nCurrent thread 0x1 (most recent call first):\n" + 100 * (
    f'  File "{CWD}/web.py", line 57 in total\n'
)
HEADLINES = {
    "loop": told("hung", at(42, "discount", "while price > 0:"), verdict="busy", age=3.0, call="-"),
    "interpreter lock": told(
        "hung",
        at(47, "search", 'return WORDS.fullmatch("a word and another and no end of words after that!")'),
        verdict="busy",
        age=3.0,
        silence="it did not answer",
    ),
    "SIGSEGV": told("crash", at(66, "thumbnail", "return ctypes.string_at(0)"), signal=11),
    "recursion": told("crash", at(57, "total", "return sum(map(total, [basket]))"), signal=11, trace=RECURSION),
    "memory": told("out of memory", signal=9),
    "stopped": told("hung", verdict="stopped", age=3.0),
    "code": told("crash", code=3),
    "SIGKILL": told("killed from outside", signal=9),
    "SIGTERM": told("killed from outside", code=0, reason="somebody sent it SIGTERM"),
}


@pytest.mark.parametrize("case", HEADLINES)
def test_the_page_about_why_has_the_words_that_are_used(case: str) -> None:
    page = " ".join((ROOT / "docs" / "why.md").read_text().split())

    assert HEADLINES[case] in page


def test_the_page_about_why_explains_every_verdict() -> None:
    page = (ROOT / "docs" / "why.md").read_text()

    assert {verdict for verdict in Verdict if f"| `{verdict}` |" not in page} == {Verdict.OK}
