"""`bkd top` in a real terminal: what is seen, what keys do, and that the terminal is as before afterwards."""

import os
import shlex
import shutil
import signal
import subprocess
from contextlib import contextmanager
from itertools import count

import pytest

from .cluster import BKD, CLEAN_ENVIRONMENT, kill, until

TMUX = shutil.which("tmux")
PROMPT = "prompt>"

pytestmark = pytest.mark.skipif(TMUX is None, reason="needs tmux")


class Pane:
    """A shell in a terminal of 80x24, in the cluster's folder."""

    def __init__(self, cluster, folder):
        self._socket = str(folder / "tmux")
        environment = {name: value for name, value in CLEAN_ENVIRONMENT.items() if name != "TMUX"} | {
            "LC_ALL": "C.UTF-8"
        }
        size = ["-x", "80", "-y", "24"]
        self._tmux("-f", "/dev/null", "new-session", "-d", *size, "exec sh", env=environment, cwd=cluster.folder)

    def begin(self):
        """Wait for the shell."""
        self.run(f"PS1='{PROMPT[:3]}''{PROMPT[3:]}'")
        self.sees(PROMPT)

    def _tmux(self, *arguments, **options):
        command = [TMUX, "-S", self._socket, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10, **options).stdout

    def lines(self):
        return self._tmux("capture-pane", "-p").split("\n")

    def screen(self):
        return "\n".join(self.lines())

    def keys(self, *keys):
        self._tmux("send-keys", *keys)

    def sees(self, *texts):
        """Wait until all of this is on the screen; gives the screen."""
        found = []

        def is_there():
            found[:] = [self.screen()]
            return all(text in found[0] for text in texts) or None

        try:
            until(is_there)
        except AssertionError as error:
            raise AssertionError(f"no {texts} in:\n{found[0]}") from error
        return found[0]

    def loses(self, text):
        until(lambda: text not in self.screen())

    def run(self, command):
        self.keys("-l", command)
        self.keys("Enter")

    def top(self, *arguments):
        self.run(shlex.join([*BKD, "top", *arguments]))
        return self.sees("shop running for ", "? help")

    def leave(self):
        self.keys("q")
        self.sees(PROMPT)
        self.loses("SLOT")

    def resize(self, width, height):
        self._tmux("resize-window", "-x", str(width), "-y", str(height))

    def flags(self):
        """Whether the cursor is seen and the alternate screen is on."""
        return self._tmux("display-message", "-p", "#{cursor_flag} #{alternate_on}").strip()

    def descendant(self):
        """The pid of `bkd top`."""
        shell = self._tmux("display-message", "-p", "#{pane_pid}").strip()
        children = f"/proc/{shell}/task/{shell}/children"
        with open(children) as file:
            return int(file.read().split()[0])

    def close(self):
        self._tmux("kill-server")


@pytest.fixture(scope="module")
def cluster(share):
    return share(
        web={"app": "shop:app", "count": 3, "min_ready": "100ms"},
        ticker={"target": "functions:ticker", "restart": "always"},
    )


@pytest.fixture
def pane(cluster, tmp_path):
    with terminal(cluster, tmp_path) as pane:
        yield pane


@contextmanager
def terminal(cluster, folder):
    pane = Pane(cluster, folder)
    try:
        pane.begin()
        yield pane
        print(pane.screen())
    finally:
        pane.close()


def test_groups_and_slots_are_shown(cluster, pane):
    """Everything `bkd status` knows, in 24 lines of 80; the selection moves, help and filter are there."""
    screen = pane.top()
    assert screen.startswith("shop running for ")
    assert "web (web)  3/3 ready  release 1" in screen and "ticker (python)  1/1 ready" in screen
    for name in ("web.1", "web.2", "web.3", "ticker.1"):
        (row,) = (line for line in screen.split("\n") if name in line.split() or f">{name}" in line.split())
        assert str(cluster.worker(name)["pid"]) in row
    assert max(map(len, screen.split("\n"))) <= 80
    pane.sees(">web.1")
    pane.keys("Down", "j")
    pane.sees(">web.3")
    pane.keys("End")
    pane.sees(">ticker.1")
    pane.keys("?")
    pane.sees("keys", "restart the slot", "q back")
    pane.keys("Escape")
    pane.sees("SLOT")
    pane.keys("/", "web.2", "Enter")
    pane.sees(">web.2", "only web.2")
    pane.loses("ticker.1")
    pane.keys("Escape")
    pane.sees("ticker.1")
    pane.leave()


def test_a_slot_and_a_group_are_restarted(cluster, pane):
    """`r` and `R` do nothing before the y; then the slot, or all of them, have other processes."""
    before = cluster.pids("web")
    pane.top()
    pane.keys("j", "r")
    pane.sees("restart web.2? y/n")
    pane.keys("n")
    pane.loses("y/n")
    pane.keys("r", "y")
    pane.sees("web.2 has a fresh worker")
    first, second, third = cluster.pids("web")
    assert (first, third) == (before[0], before[2]) and second != before[1]
    pane.keys("R")
    pane.sees("restart web? y/n")
    pane.keys("y")
    pane.sees("web: release 2 is live")
    assert not set(cluster.pids("web")) & {first, second, third}
    pane.leave()


def test_a_slot_is_held_and_given_back(cluster, pane):
    pane.top()
    pane.keys("End", "h")
    pane.sees("ticker.1: held", ">ticker.1 held")
    assert cluster.worker("ticker.1")["state"] == "held"
    pane.keys("h")
    pane.sees("ticker.1: supervised again")
    until(lambda: cluster.worker("ticker.1")["state"] == "ready")
    pane.keys("x")
    pane.sees("ticker.1: back-off, breaker and failures forgotten")
    pane.leave()


def test_panes(cluster, pane):
    """The log goes on while one looks; the journal, `why` and `dump` answer."""
    pane.top()
    pane.keys("l")
    pane.sees("logs -f web.1")
    until(lambda: "hello-of-the-log" in cluster.log("web.1") or not cluster.get("/say?hello-of-the-log"))
    pane.sees("hello-of-the-log")
    pane.keys("q", "e")
    pane.sees("events -f")
    cluster.bkd("hold", "ticker.1")
    cluster.bkd("unhold", "ticker.1")
    pane.sees("unhold name=ticker.1")
    for key, title in (("w", "why web.1"), ("d", "dump web.1")):
        pane.keys("q", key)
        pane.sees(title)
        pane.loses("asking …")
        assert len("".join(pane.lines()[2:22]).strip()) > 20
    pane.keys("q")
    pane.sees("SLOT")
    pane.leave()


def test_the_terminal_is_as_before(pane):
    """After q, Ctrl-C, SIGTERM, SIGHUP, and while it is stopped by Ctrl-Z: modes, cursor and screen."""

    def modes():
        """Each time by another name: what was said before is still on the screen."""
        name = f"modes{next(number)}="
        pane.run(f"clear; echo {name[:2]}''{name[2:]}$(stty -g)=")
        screen = pane.sees(name, "=\n")
        return screen.partition(name)[2].partition("=\n")[0].replace("\n", "")

    def leave(end):
        pane.top()
        assert pane.flags() == "0 1"
        end()
        pane.sees(PROMPT)
        until(lambda: pane.flags() == "1 0")
        assert modes() == before

    number = count()
    before = modes()
    leave(lambda: pane.keys("q"))
    leave(lambda: pane.keys("C-c"))
    leave(lambda: kill(pane.descendant(), signal.SIGTERM))
    leave(lambda: kill(pane.descendant(), signal.SIGHUP))
    leave(lambda: pane.keys("C-z"))
    pane.run("fg")
    pane.sees("SLOT", ">web.1")
    pane.keys("j")
    pane.sees(">web.2")
    pane.leave()
    assert modes() == before


def test_another_size(pane):
    """It is drawn anew at once; what is too small says so."""
    pane.top()
    pane.resize(150, 30)
    until(lambda: pane.lines()[29].startswith("r/R restart"))
    pane.resize(59, 24)
    pane.sees("bkd top needs 60x10, this is 59x24")
    pane.resize(60, 10)
    until(lambda: len(pane.lines()[1]) <= 60 and "SLOT" in pane.lines()[1] and "? help" in pane.lines()[9])
    pane.keys("End")
    pane.sees(">ticker.1")
    pane.leave()


def test_a_picture_without_a_terminal(cluster):
    result = cluster.bkd("top", "--once")
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0].startswith("shop running") and max(map(len, lines)) <= 80 and "\x1b" not in result.stdout
    assert [line.split()[0] for line in lines[2:]] == ["web", "web.1", "web.2", "web.3", "ticker", "ticker.1"]
    refused = cluster.bkd("top")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr == "bkd: bkd top needs a terminal; `bkd top --once` prints one picture\n"


def test_colours_only_where_they_are_wanted(cluster):
    """On a terminal, unless NO_COLOR is set."""
    command = f"{shlex.join([*BKD, 'top', '--once'])}"
    shown = {}
    for name, wish in (("coloured", {}), ("plain", {"NO_COLOR": "1"})):
        environment = {**CLEAN_ENVIRONMENT, "TERM": "xterm-256color", **wish}
        program = ["script", "-qec", command, "/dev/null"]
        options = {"capture_output": True, "text": True, "timeout": 20, "stdin": subprocess.DEVNULL}
        shown[name] = subprocess.run(program, env=environment, cwd=cluster.folder, check=True, **options).stdout
    assert "\x1b[32m" in shown["coloured"] and "\x1b[32m" not in shown["plain"]
    assert "web.1" in shown["plain"]


def test_the_master_is_killed(cluster, pane):
    """The picture stays and says so, and goes on with the next master."""
    pane.top()
    master, keeper = cluster.status()["master_pid"], cluster.process.pid
    os.kill(keeper, signal.SIGSTOP)
    try:
        kill(master)
        pane.sees("the master does not answer for ", " s; it is being restarted", "web.1")
    finally:
        os.kill(keeper, signal.SIGCONT)
    pane.loses("does not answer")
    assert f"master {master} " not in pane.screen()
    pane.keys("j", "h")
    pane.sees(">web.2    held", "web.2: held")
    pane.keys("h")
    pane.sees("web.2: supervised again")
    pane.leave()


def test_the_cluster_ends(launch, tmp_path):
    """It says so and exits with 4. What was not written into files was said to be elsewhere."""
    cluster = launch(ticker={"target": "functions:ticker"}, log={"mode": "inherit"})
    with terminal(cluster, tmp_path) as pane:
        pane.run(f"{shlex.join([*BKD, 'top'])}; echo code=$?=")
        pane.sees(">ticker.1")
        pane.keys("l")
        pane.sees("ticker.1 has printed nothing into", 'with [log] mode = "inherit" it is')
        cluster.stop()
        pane.sees("bkd: ", "code=4=")
    result = cluster.bkd("top", "--once")
    assert (result.returncode, result.stderr.startswith("bkd: ")) == (4, True)
