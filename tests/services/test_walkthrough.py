"""docs/fleet.md as somebody types it in: one block after the other, with a real Redis and two real hosts."""

import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from ..cluster.cluster import CLEAN_ENVIRONMENT, free_port
from .servers import BINARIES

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NEXT = "-- the next block --"
# how far hosts are is told as often as somebody looks: which of these lines are seen, and when, is chance
STEP = re.compile(r"h\d: (accepted|running|web: loading)")
CHANGING = [
    (re.compile(r"[0-9a-f]{24}"), "ID"),
    (re.compile(r"\b[\d.]+ ?(ms|s|m\d+s|m)\b"), "TIME"),
    (re.compile(r"\w+@"), "SOMEBODY@"),
    (re.compile(r"/\S+/(?=h\d/)"), "/FOLDER/"),
    (re.compile(r" +"), " "),
]
PATIENCE = 120.0


def said(text):
    """The lines that have to be there: without what is different each time, the steps between, and their order."""
    for pattern, word in CHANGING:
        text = pattern.sub(word, text)
    return sorted(line.strip() for line in text.splitlines() if line.strip() and STEP.match(line) is None)


def walk():
    """The blocks of commands, and of each what it says according to the text."""
    section = (ROOT / "docs/fleet.md").read_text().partition("## Two hosts")[2].partition("\n## ")[0]
    blocks = [(match[1], match[2]) for match in BLOCK.finditer(section)]
    assert {kind for kind, _ in blocks} == {"sh", ""}
    return [
        (text, blocks[number + 1][1] if number + 1 < len(blocks) and blocks[number + 1][0] == "" else "")
        for number, (kind, text) in enumerate(blocks)
        if kind == "sh"
    ]


@pytest.fixture
def typed(tmp_path):
    """Runs a script in an empty folder, with Redis on the PATH; whatever it leaves behind is ended."""
    binary = BINARIES["redis"] or BINARIES["redis62"]
    if binary is None:
        pytest.skip("there is no Redis here")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/redis-server").symlink_to(binary)
    folder = tmp_path / "walk"
    folder.mkdir()
    path = os.pathsep.join([str(tmp_path / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])

    def run(script):
        order = ["bash", "-c", script]
        options = {"cwd": folder, "env": CLEAN_ENVIRONMENT | {"PATH": path}, "stdin": subprocess.DEVNULL}
        return subprocess.run(order, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=PATIENCE, **options)

    yield run
    end_below(folder)


def end_below(folder):
    """SIGKILL for every process that works in this folder."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if Path(process.cwd()).is_relative_to(folder):
                process.send_signal(signal.SIGKILL)


def test_the_walk_says_what_the_text_says(typed):
    blocks = walk()
    script = f"echo '{NEXT}'\n".join(commands for commands, _ in blocks)
    assert (script.count("7379"), script.count("800$n")) == (2, 1)
    script = script.replace("7379", str(free_port())).replace("800$n", "${PORTS[n]}")
    script = f"PORTS=(0 {free_port()} {free_port()})\n{script}"

    outputs = typed(script).stdout.decode().split(f"{NEXT}\n")

    assert len(outputs) == len(blocks), outputs
    for (commands, text), output in zip(blocks, outputs, strict=True):
        if text:
            assert said(output) == said(text), f"{commands}\n{output}"


@pytest.mark.parametrize("telling", ["exit 0", "exit 1", "restart: 2 of 2 hosts done", "1 of 2 hosts done, 1 failed"])
def test_the_walk_is_compared(telling):
    """What the comparison leaves out is not what matters."""
    assert any(line.endswith(telling) for _, text in walk() for line in said(text))
