"""What is found about one thing, and how all findings are shown."""

import sys
from collections.abc import Iterable
from typing import Literal

import msgspec

State = Literal["ok", "degraded", "missing"]

MARKS: dict[State, str] = {"ok": "ok", "degraded": "--", "missing": "!!"}


class Finding(msgspec.Struct, frozen=True):
    """`found`: what is there. `means`: what bkd does without it, and what to do.

    `missing` is what bkd needs, `degraded` what it does without, `ok` what is as it should be or does not matter.
    """

    name: str
    state: State
    found: str
    means: str = ""


def untried(name: str, why: str) -> Finding:
    """A probe that failed in a way nobody thought of."""
    return Finding(name, "degraded", f"could not be tried: {why}")


def table(topics: Iterable[tuple[str, list[Finding]]], last: str = "") -> str:
    """Every finding under its topic, what is worst once more at the end, and a `last` line (default: a summary)."""
    topics = list(topics)
    every = [finding for _topic, findings in topics for finding in findings]
    width = max((len(finding.name) for finding in every), default=0)
    lines = []
    for topic, findings in topics:
        lines += [topic, *(_line(finding, width) for finding in findings), ""]
    worst = [] if last else [finding for finding in every if finding.state != "ok"]
    lines += [*(_line(finding, width) for finding in worst), ""] if worst else []
    return "\n".join([*lines, last or summary(every)]) + "\n"


def summary(findings: list[Finding]) -> str:
    """`23 ok, 3 bkd does without, 0 missing`."""
    counts = {state: sum(finding.state == state for finding in findings) for state in MARKS}
    return f"{counts['ok']} ok, {counts['degraded']} bkd does without, {counts['missing']} missing"


def printable(text: str) -> str:
    """As standard output can take it."""
    encoding = sys.stdout.encoding or "utf-8"
    return text.encode(encoding, errors="replace").decode(encoding)


def _line(finding: Finding, width: int) -> str:
    means = f"; {finding.means}" if finding.means else ""
    return f"  {MARKS[finding.state]}  {finding.name:<{width}}  {finding.found}{means}"
