"""`bkd shell`: Python inside a live worker, from a terminal and from a script."""

import os
import pty
import select
import signal
import subprocess
import sys
import time

import pytest

from bkd.supervisor import procfs

from .cluster import BKD, CLEAN_ENVIRONMENT, PATIENCE, alive, ended, kill, until
from .test_control import reachable

CTRL_C, CTRL_D = b"\x03", b"\x04"
ATTACH = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
AS_GAMES = """
import os, pwd, sys
from bkd.supervisor.asking import ask
user = pwd.getpwnam("games")
os.setgroups([user.pw_gid])
os.setgid(user.pw_gid)
os.setuid(user.pw_uid)
for verb in ("unhold", "shell"):
    print(ask(verb, {"name": "web.1"}, sock=sys.argv[1]))
"""
LIVES_ON = "with open('ended', 'w') as file: pass"


@pytest.fixture(scope="module")
def cluster(share):
    return share(
        control={"operators": "games"},
        web={"app": "fastapi_app:app", "count": 1, "min_ready": "100ms"},
        plain={"target": "functions:plain"},
        ticker={"target": "functions:ticker", "count": 2},
        cache={"command": ["sleep", "1000"], "ready": "after:0s"},
    )


def run(cluster, name, source, limit=40.0):
    """`bkd shell NAME` with a source on standard input."""
    command = [*BKD, "shell", name]
    options = {"input": source, "capture_output": True, "text": True, "timeout": limit, "check": False}
    return subprocess.run(command, cwd=cluster.folder, env=CLEAN_ENVIRONMENT, **options)


def value(cluster, name, source):
    """What a source that must not fail has printed."""
    result = run(cluster, name, source)
    assert result.returncode == 0, result.stderr
    return result.stdout


class Terminal:
    """`bkd shell NAME` on a terminal of its own."""

    def __init__(self, cluster, name):
        self.name = name
        self._ours, theirs = pty.openpty()
        options = {"stdin": theirs, "stdout": theirs, "stderr": theirs, "start_new_session": True}
        environment = CLEAN_ENVIRONMENT | {"TERM": "dumb"}
        prefix = [sys.executable, "-c", ATTACH]
        self.process = cluster.popen("shell", name, prefix=prefix, env=environment, **options)
        os.close(theirs)
        self._seen = b""

    def __enter__(self):
        self.shows("at hand: ")
        return self.waits()

    def __exit__(self, *_error):
        os.close(self._ours)
        kill(self.process.pid)

    def press(self, key):
        os.write(self._ours, key)

    def interrupt(self):
        """Ctrl-C as soon as the client sleeps: one that comes between the prompt and the wait for a key is heard with
        the next key, in every Python."""
        until(lambda: procfs.read(self.process.pid).state == "S")
        self.press(CTRL_C)

    def type(self, *lines):
        for line in lines:
            self.press(f"{line}\n".encode())

    def waits(self):
        """The prompt has come."""
        self.shows(f"{self.name}>>> ")
        return self

    def shows(self, words, limit=PATIENCE):
        """What was shown until these words."""
        deadline = time.monotonic() + limit
        while words.encode() not in self._seen:
            assert select.select([self._ours], [], [], max(0.0, deadline - time.monotonic()))[0], self._seen
            self._seen += os.read(self._ours, 65536)
        before, _, self._seen = self._seen.partition(words.encode())
        return before.decode()


def test_await_something_of_the_application(cluster):
    """`app` is the application itself, and its coroutines run in its own loop."""
    pid = cluster.pids("web")[0]
    source = "import fastapi_app\nawait fastapi_app.pid(), app is fastapi_app.app, ipc.slot"
    assert value(cluster, "web.1", source) == f"('{pid}', True, 'web.1')\n"


def test_a_change_is_seen_by_the_next_request(cluster):
    """It is the live process; a group of one worker needs no number."""
    assert value(cluster, "web", "import fastapi_app\nfastapi_app.app.state.opened = 'changed'\n") == ""
    assert cluster.get("/pid") == "changed"


def test_what_the_code_prints_is_not_in_the_log(cluster):
    """And the reverse: what the application prints meanwhile is not shown."""
    result = run(
        cluster, "web.1", "import os, sys\nprint('to', 'me')\nprint('trouble', file=sys.stderr)\nos.write(1, b'log\\n')"
    )
    assert (result.stdout, result.stderr) == ("to me\n4\n", "trouble\n")
    until(lambda: "log" in cluster.log("web.1"))
    assert "to me" not in cluster.log("web.1") and "trouble" not in cluster.log("web.1")


def test_an_error_is_told_and_harms_nobody(cluster):
    """Exit code 1 and the traceback; the worker goes on, even after `sys.exit`."""
    pids = cluster.pids("web")
    failed = run(cluster, "web.1", "def f():\n    raise ValueError('no')\nprint('before')\nf()\n")
    assert (failed.returncode, failed.stdout) == (1, "before\n")
    assert failed.stderr.startswith('Traceback (most recent call last):\n  File "<shell>", line 4, in <module>\n')
    assert failed.stderr.endswith("ValueError: no\n")
    for source in (
        "import sys; sys.exit(3)",
        "await app.nothing",
        "import sys\nif await app.router.startup() is None: sys.exit(3)",
    ):
        assert run(cluster, "web.1", source).returncode == 1
    assert cluster.pids("web") == pids and cluster.get("/pid")


def test_much_output_is_cut(cluster):
    """More than a mebibyte is not for a terminal, and that is said; the heartbeat goes on."""
    result = run(cluster, "web.1", "for _ in range(5000): print('x' * 999)")
    assert result.returncode == 0 and "cut here" in result.stderr
    assert len(result.stdout) == 1 << 20
    assert cluster.worker("web.1")["ping_age"] < 5


def test_a_worker_without_a_loop(cluster):
    """A plain function goes on in the main thread; code with `await` has a loop of the shell's own."""
    assert value(cluster, "plain.1", "import asyncio\nawait asyncio.sleep(0.01, 'slept')") == "'slept'\n"
    assert value(cluster, "plain", "import threading\nthreading.current_thread().name") == "'bkd-shell'\n"


def test_usage(cluster):
    """What cannot be is said in a line."""
    for name, words in {
        "ticker": "ticker.1, ticker.2",
        "cache": "cache is a command",
        "nobody": "no group or slot",
    }.items():
        result = run(cluster, name, "1")
        assert result.returncode == 2 and words in result.stderr and result.stderr.count("\n") == 1, result


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become somebody else")
def test_operators_have_no_shell(cluster):
    """They may operate, but not become the application."""
    command = [sys.executable, "-c", AS_GAMES, str(cluster.run_dir / "control.sock")]
    with reachable(cluster):
        asked = subprocess.run(command, capture_output=True, text=True, env=CLEAN_ENVIRONMENT, check=False)
    assert asked.stdout.splitlines() == ["web.1: supervised again", "0", "1"], asked.stderr
    assert asked.stderr == "bkd: shell is for the role owner, yours is operator\n"
    refused = [event for event in cluster.events("command") if event["verb"] == "shell" and event["user"] == "games"]
    assert [event["arguments"]["name"] for event in refused] == ["web.1"]
    assert "owner" in refused[0]["outcome"]


def test_the_journal_says_who_ran_what(cluster):
    """The user, the slot and the first line of the source, before it is run."""
    long = "x = '" + "y" * 500 + "'\nsecret = 1"
    run(cluster, "web.1", long)
    event = cluster.events("command")[-1]
    assert (event["verb"], event["uid"]) == ("shell", os.getuid())
    assert event["arguments"] == {"name": "web.1", "source": long[:200]}


def test_a_terminal(cluster):
    """Names stay, blocks are continued, Ctrl-C drops a line, Ctrl-D leaves."""
    with Terminal(cluster, "web.1") as terminal:
        terminal.type("x = 6")
        terminal.waits().type("for i in range(2):", "    print('turn', i * x)", "")
        terminal.shows("turn 0\r\nturn 6")
        terminal.waits().type("1 +")
        terminal.shows("SyntaxError")
        terminal.waits().type("(x,")
        terminal.shows(" ... ")
        terminal.interrupt()
        terminal.shows("KeyboardInterrupt")
        terminal.waits().type("x * 7")
        terminal.shows("42")
        terminal.waits().press(CTRL_D)
        assert terminal.process.wait(PATIENCE) == 0


def test_an_endless_loop_stops_no_heartbeat(cluster):
    """The worker serves and is well meanwhile; Ctrl-C ends the loop, and the shell goes on."""
    with Terminal(cluster, "web.1") as terminal:
        terminal.type("print('be' + 'gun')", "while True: pass", "")
        terminal.shows("begun")
        served = cluster.worker("web.1")
        for _ in range(3):
            cluster.get("/pid")
        row = until(lambda: (row := cluster.worker("web.1"))["cpu"] > 0.1 and row["verdict"] == "ok" and row)
        assert (row["state"], row["pid"]) == ("ready", served["pid"])
        assert row["ping_age"] < 5
        terminal.interrupt()
        terminal.shows("KeyboardInterrupt")
        terminal.waits().type("40 + 2")
        terminal.shows("42")


def test_ctrl_c_while_awaiting(cluster):
    """The task is cancelled; the second Ctrl-C leaves what does not end."""
    with Terminal(cluster, "web.1") as terminal:
        terminal.type("import asyncio, time")
        terminal.waits().type("print('be' + 'gun'); await asyncio.sleep(600)")
        terminal.shows("begun")
        terminal.interrupt()
        terminal.shows("KeyboardInterrupt")
        terminal.waits().type("print('a' + 'sleep'); time.sleep(600)")
        terminal.shows("asleep")
        terminal.interrupt()
        terminal.shows("Ctrl-C again leaves")
        terminal.interrupt()
        assert terminal.process.wait(PATIENCE) == 130


def test_what_a_client_leaves_behind_is_ended(cluster):
    """Whoever is gone cannot interrupt any more."""
    with Terminal(cluster, "ticker.1") as terminal:
        terminal.type("try:", "    print('be' + 'gun')", "    while True: pass", "finally:", f"    {LIVES_ON}", "")
        terminal.shows("begun")
        kill(terminal.process.pid)
        until((cluster.folder / "ended").exists)


def test_no_more_than_four(cluster):
    """One more is refused and leaves nothing."""
    shells = [Terminal(cluster, "ticker.2") for _ in range(4)]
    try:
        for terminal in shells:
            terminal.shows("at hand: ")
        fifth = run(cluster, "ticker.2", "1")
        assert fifth.returncode == 1 and "4 shells already" in fifth.stderr
    finally:
        for terminal in shells:
            terminal.__exit__()
    until(lambda: run(cluster, "ticker.2", "1").returncode == 0)


def test_a_worker_that_does_not_answer(cluster):
    """After five seconds that is said, with what the status says; when it goes the shell ends."""
    assert cluster.bkd("hold", "ticker.1").returncode == 0
    pid = cluster.pids("ticker")[0]
    kill(pid, signal.SIGSTOP)
    command = [*BKD, "shell", "ticker.1"]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    waiting = subprocess.Popen(command, cwd=cluster.folder, env=CLEAN_ENVIRONMENT, text=True, **pipes)
    try:
        waiting.stdin.write("1\n")
        waiting.stdin.close()
        said = waiting.stderr.readline()
        assert f"ticker.1 (pid {pid}) does not answer; bkd status says held" in said and alive(pid)
        kill(pid)
        assert ended(pid) and waiting.wait(PATIENCE) == 3
        assert "is gone" in waiting.stderr.read()
    finally:
        waiting.kill()
        waiting.wait()
        waiting.stdout.close()
        waiting.stderr.close()
        cluster.bkd("unhold", "ticker.1")
