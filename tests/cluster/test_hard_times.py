"""Bad moments: deaths during a start, terminals nobody reads, orders that are too large, odd applications."""

import contextlib
import fcntl
import os
import resource
import signal
import socket
import stat
import struct
import sys
from pathlib import Path

import pytest

from .cluster import CLEAN_ENVIRONMENT, alive, kill, title, until

OFTEN = 0.002
ONCE = "86399"
NAP = {"command": ["sleep", ONCE], "restart": "always"}
STUBBORN = {"command": [sys.executable, "stubborn.py"], "ready": "log:pid"}
WAITING = """
import os, time
while not os.path.exists("open"):
    time.sleep(0.02)
"""
UNBORN = """
import sys, time
if "supervisor.master" in " ".join(sys.orig_argv):
    time.sleep(600)
"""


def in_shell(script):
    """A prefix that lets a shell prepare something for the command."""
    return ["sh", "-c", f'{script}; exec "$@"', "sh"]


def titled(cluster, *words):
    """Pids of the cluster's processes with one of the words in their command line."""
    found = []
    for pid in cluster.processes():
        with contextlib.suppress(OSError):
            if any(word in title(pid) for word in words):
                found.append(pid)
    return found


def first_titled(cluster, *words):
    """The first one, as soon as it is there."""
    return until(lambda: titled(cluster, *words), pause=OFTEN)[0]


def next_master(cluster, old):
    """The status of a master that is not the old one."""
    return until(lambda: (status := cluster.answered()) and status["master_pid"] != old and status)


@contextlib.contextmanager
def stopped(pid):
    """A process that does nothing meanwhile."""
    kill(pid, signal.SIGSTOP)
    until(lambda: state(pid) == "T", pause=OFTEN)
    try:
        yield
    finally:
        kill(pid, signal.SIGCONT)


def state(pid):
    """The letter that `ps` shows."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


# -- the start


@pytest.mark.parametrize("group", [{"app": "shop:app"}, {"target": "functions:ticker"}])
def test_no_blank_interpreter_is_left(launch, group):
    """The interpreter that is started early is used or dismissed: once all is ready there is none left."""
    cluster = launch(work=group)
    until(lambda: not titled(cluster, "bkd: blank", "warm"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_start_leaves_nothing(prepare, number):
    """Whatever interrupts a waiting `bkd start -d`: nothing of the cluster is left when it returns."""
    cluster = prepare(web={"app": "waiting:app", "start_timeout": "60s"})
    (cluster.folder / "waiting.py").write_text(f"{WAITING}\nfrom shop import app as app\n")
    with cluster.console.open("wb") as console:
        command = cluster.popen("start", "-d", stderr=console)
    first_titled(cluster, "zygote r1 loading")
    kill(command.pid, number)
    assert command.wait(60) == 128 + number
    assert cluster.is_gone()
    assert "Traceback" not in cluster.said()


def test_a_failed_start_after_the_death_of_its_master(prepare):
    """A start whose first master was killed still ends with its reason when the application does not import."""
    cluster = prepare(web={"app": "waiting:app", "start_timeout": "60s", "count": 1})
    (cluster.folder / "waiting.py").write_text(f"{WAITING}\nraise LookupError('no such moon')\n")
    with cluster.console.open("wb") as console:
        command = cluster.popen("start", "-d", stderr=console)
    first_titled(cluster, "zygote r1 loading")
    first = until(cluster.answered)["master_pid"]
    kill(first)
    next_master(cluster, first)
    (cluster.folder / "open").touch()
    assert command.wait(60) == 1
    assert "no such moon" in cluster.said()
    assert cluster.is_gone()


def test_nothing_is_left_when_a_start_has_failed(prepare):
    """`bkd start -d` exits 1 when all it began has ended, not before."""
    cluster = prepare(tree=STUBBORN | {"drain": "1s", "term": "1s"}, web={"app": "waiting:app"})
    (cluster.folder / "waiting.py").write_text(f"{WAITING}\nraise LookupError('no such moon')\n")
    command = cluster.popen("start", "-d")
    until(lambda: cluster.log("tree.1").count("pid") == 4)
    (cluster.folder / "open").touch()
    assert command.wait(60) == 1
    assert cluster.is_gone()


@pytest.mark.parametrize("background", [[], ["-d"]])
def test_a_master_that_dies_at_its_birth(prepare, background):
    """A master that is killed before it could say anything fails the start, and the keeper says so."""
    cluster = prepare(job={"target": "functions:ticker"})
    (cluster.folder / "late").mkdir()
    (cluster.folder / "late" / "sitecustomize.py").write_text(UNBORN)
    environment = CLEAN_ENVIRONMENT | {"PYTHONPATH": str(cluster.folder / "late")}
    with cluster.console.open("wb") as console:
        command = cluster.popen("start", *background, stdout=console, stderr=console, env=environment)
    kill(first_titled(cluster, "supervisor.master"))
    assert command.wait(60) == 1
    assert "the master ended while it was starting (SIGKILL)" in cluster.said()
    until(cluster.is_gone)


def test_an_odd_import_error_is_told(prepare):
    """An error whose text no message can hold fails the start with its traceback all the same."""
    cluster = prepare(web={"app": "odd:app"})
    (cluster.folder / "odd.py").write_text(r'raise ValueError("\udcff" + "x" * 2_000_000)')
    result = cluster.bkd("start", "-d")
    assert result.returncode == 1
    assert r"ValueError: \udcff" in result.stderr.splitlines()[-1]
    assert "the zygote ended" not in result.stderr


# -- the keeper


def test_the_blank_interpreter_is_killed(prepare):
    """The keeper outlives the early interpreter and, after that, a master: the cluster comes up and stays up."""
    cluster = prepare(web={"app": "shop:app"}).start(ready=False)
    kill(first_titled(cluster, "warm", "bkd: blank"))
    until(cluster.is_ready, 40.0)
    before, first = cluster.pids("web"), cluster.status()["master_pid"]
    kill(first)
    assert next_master(cluster, first)["keeper_pid"] == cluster.process.pid
    until(cluster.is_ready)
    assert cluster.pids("web") == before
    assert "Traceback" not in cluster.said()


@pytest.mark.parametrize("value", ["x" * 100_000, "ä" * 45_000])
def test_an_order_over_the_limit(prepare, value):
    """An environment that is too large for the keeper fails its slot, which says why; everything else goes on."""
    huge = NAP | {"env": dict.fromkeys("ABC", value)}
    cluster = prepare(huge=huge, nap=NAP).start(ready=False)
    until(lambda: "over the limit of" in cluster.said() and cluster.group("nap")["ready"] == 1)
    assert cluster.process.poll() is None
    assert any("over the limit of" in str(event) and "huge.1" in str(event) for event in cluster.events())
    assert "Traceback" not in cluster.said()
    assert cluster.stop().returncode == 0


def test_no_room_for_a_new_master(launch):
    """With no file left to open the keeper waits until a new master can be started; workers do not notice."""
    cluster = launch(nap=NAP, ticker={"target": "functions:ticker"})
    keeper, first = cluster.process.pid, cluster.status()["master_pid"]
    before = cluster.pids("nap") + cluster.pids("ticker")
    limits = resource.prlimit(keeper, resource.RLIMIT_NOFILE)
    resource.prlimit(keeper, resource.RLIMIT_NOFILE, (3, limits[1]))
    kill(first)
    until(lambda: "no new master can be started" in cluster.said())
    resource.prlimit(keeper, resource.RLIMIT_NOFILE, limits)
    assert next_master(cluster, first)["keeper_pid"] == keeper
    until(cluster.is_ready)
    assert cluster.pids("nap") + cluster.pids("ticker") == before


def test_a_program_that_was_ordered_from_a_dead_master(launch):
    """A program that is spawned after the death of the master who ordered it is adopted, not started twice."""
    cluster = launch(nap=NAP)
    first = cluster.status()["master_pid"]
    with stopped(cluster.process.pid):
        assert cluster.bkd("scale", "nap=2").returncode == 0
        until(lambda: b"nap.2" in (cluster.run_dir / "state").read_bytes())
        kill(first)
    next_master(cluster, first)
    until(lambda: {*cluster.pids("nap")} == {*titled(cluster, ONCE)} and cluster.is_ready())
    assert len({*cluster.pids("nap")}) == 2
    assert [event["slot"] for event in cluster.events("worker-exited")] == []


def test_a_program_that_no_master_remembers(launch):
    """A program that was started behind the back of the state file is ended, not left beside its successor."""
    cluster = launch(nap=NAP)
    keeper, first, old = cluster.process.pid, cluster.status()["master_pid"], cluster.pids("nap")[0]
    before = (cluster.run_dir / "state").read_bytes()
    kill(old)
    forgotten = until(lambda: cluster.is_ready() and (pid := cluster.pids("nap")[0]) != old and pid)
    with stopped(keeper):
        kill(first)
        until(lambda: not alive(first))
        wipe_slate(keeper)
        (cluster.run_dir / "state").write_bytes(before)
    next_master(cluster, first)
    until(lambda: cluster.is_ready() and cluster.pids("nap") == titled(cluster, ONCE))
    assert cluster.pids("nap") != [forgotten]


def wipe_slate(keeper):
    """The keeper's own copy of the state, gone."""
    for link in Path(f"/proc/{keeper}/fd").iterdir():
        with contextlib.suppress(OSError):
            if "bkd-state" in os.readlink(link):
                os.truncate(link, 0)


def test_two_signals_at_once(launch):
    """Asked to stop twice in the same moment, the cluster does not wait for anybody."""
    cluster = launch(tree=STUBBORN | {"drain": "60s", "term": "60s"})
    keeper, master = cluster.process.pid, cluster.status()["master_pid"]
    with stopped(master):
        with stopped(keeper):
            kill(keeper, signal.SIGINT)
            kill(keeper, signal.SIGTERM)
        until(lambda: state(keeper) == "S" and not pending(keeper), pause=OFTEN)
    assert cluster.exit_code() == 3
    until(cluster.is_gone)


def pending(pid):
    """Whether a signal waits for a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return any(int(line.split()[1], 16) for line in lines if line.startswith(("SigPnd", "ShdPnd")))


# -- the terminal


@pytest.mark.parametrize("streams", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_in_the_background(prepare, streams):
    """`bkd start -d` and the commands after it do their work with standard streams closed."""
    cluster = prepare(job={"target": "functions:ticker"})
    for command in (["start", "-d"], ["status"], ["stop"]):
        ran = cluster.popen(*command, prefix=in_shell(f"exec {streams}"))
        assert ran.wait(60) == 0, command
    until(cluster.is_gone)


@pytest.mark.parametrize("streams", ["2>&-", "<&- >&- 2>&-"])
def test_closed_streams_in_the_foreground(prepare, streams):
    """`bkd start` with standard streams closed supervises as ever."""
    cluster = prepare(web={"app": "shop:app", "count": 1}).start(prefix=in_shell(f"exec {streams}"))
    old = cluster.pids("web")
    kill(old[0])
    until(lambda: cluster.is_renewed(*old))
    assert cluster.stop().returncode == cluster.exit_code() == 0


def test_a_full_device(launch):
    """Output that cannot be written is exit code 1 and one line."""
    cluster = launch(job={"target": "functions:ticker"})
    for command in ("status", "events"):
        with open("/dev/full", "w") as full:
            result = cluster.bkd(command, capture_output=False, stdout=full, stderr=-1)
        assert (result.returncode, len(result.stderr.splitlines())) == (1, 1), (command, result.stderr)
        assert "No space left" in result.stderr, command


def test_a_terminal_nobody_reads(prepare):
    """With its output's pipe full the cluster obeys, replaces the dead, outlives a master, and hears Ctrl-C."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    try:
        cluster = prepare(job={"target": "functions:ticker", "restart": "always"}).start(stdout=writer, stderr=writer)
        fill(writer)
        old, first = cluster.pids("job"), cluster.status()["master_pid"]
        for _ in range(2):
            assert cluster.bkd("hold", "job").returncode == cluster.bkd("unhold", "job").returncode == 0
        kill(old[0])
        until(lambda: cluster.is_renewed(*old))
        kill(first)
        next_master(cluster, first)
        kill(cluster.process.pid, signal.SIGINT)
        assert cluster.exit_code() == 0
    finally:
        os.close(writer)
        os.close(reader)


def fill(pipe):
    """Write until there is no room; the pipe is opened once more, since the flag would be the cluster's as well."""
    own = os.open(f"/proc/self/fd/{pipe}", os.O_WRONLY | os.O_NONBLOCK)
    try:
        for size in (4096, 1):
            with contextlib.suppress(BlockingIOError):
                while True:
                    os.write(own, b"x" * size)
    finally:
        os.close(own)


@pytest.mark.parametrize(
    ("sections", "environment"), [({"log": {"mode": "inherit"}}, {}), ({}, {"JOURNAL_STREAM": "8:4711"})]
)
def test_output_in_the_background_always_has_a_reader(prepare, sections, environment):
    """After `bkd start -d` workers and programs print into files, whatever `[log] mode` or a stray variable say."""
    loop = {"command": ["sh", "-c", "while echo tick; do sleep 0.05; done"], "restart": "always"}
    cluster = prepare(web={"app": "shop:app", "count": 1}, loop=loop, **sections)
    assert cluster.bkd("start", "-d", env=CLEAN_ENVIRONMENT | environment).returncode == 0
    assert cluster.get("/say?something") == "said"
    until(lambda: "something" in cluster.log("web.1") and cluster.log("loop.1").count("tick") > 5)
    assert cluster.events("worker-exited") == []
    assert cluster.stop().returncode == 0


# -- applications with habits of their own


def test_an_application_that_ignores_its_children(launch_with):
    """What an application does with SIGCHLD at import fails no fork."""
    source = "import signal\nfrom shop import app as app\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
    cluster = launch_with(source, count=3)
    assert len(cluster.events("worker-started")) == 3
    old = cluster.pids("web")
    kill(old[0])
    until(lambda: cluster.is_renewed(old[0]))
    assert cluster.pids("web")[1:] == old[1:]
    assert cluster.events("worker-failed") == []


@pytest.fixture
def launch_with(prepare):
    """A ready cluster of one web group with the source of its application: `launch_with(source, count=1)`."""

    def launch(source, **settings):
        cluster = prepare(web={"app": "habits:app", **settings})
        (cluster.folder / "habits.py").write_text(source)
        return cluster.start()

    return launch


def test_a_thread_that_never_ends(launch_with):
    """An ordinary thread of the application has until the end of `drain`; then its process ends, not killed."""
    source = "import shop, threading\n\nasync def app(scope, *channels):\n"
    source += "    if scope['type'] == 'lifespan':\n        threading.Thread(target=threading.Event().wait).start()\n"
    source += "    await shop.app(scope, *channels)\n"
    cluster = launch_with(source, count=1, drain="1s", term="60s")
    result = cluster.stop()
    assert (result.returncode, result.stderr.count("SIGKILL")) == (0, 0)
    until(cluster.is_gone)


# -- strangers


def test_numbers_that_are_none(launch):
    """What only looks like a number is refused at once, in one line."""
    cluster = launch(job={"target": "functions:ticker"})
    for number in ("+-4", "²", "9" * 5000):
        result = cluster.bkd("scale", f"job={number}")
        assert (result.returncode, len(result.stderr.splitlines())) == (2, 1), result
    assert cluster.group("job")["count"] == 1


def test_no_file_is_open_to_others(prepare):
    """Whatever the umask: others can read nothing of the run directory, and the state is its owner's alone."""
    web = {"app": "shop:app", "env": {"SECRET": "sesame"}}
    cluster = prepare(web=web, nap=NAP, control={"viewers": "nogroup"})
    assert cluster.popen("start", "-d", prefix=in_shell("umask 000")).wait(40) == 0
    until(cluster.is_ready)
    modes = modes_below(cluster.run_dir)
    files = {path.name: stat.S_IMODE(mode) for path, mode in modes.items() if stat.S_ISREG(mode)}
    assert {"state", "lock", "events.jsonl", "bkd.log", "web.1.log", "nap.1.log"} <= set(files)
    assert {name: oct(mode) for name, mode in files.items() if mode & 0o027} == {}
    assert (files["state"], files["lock"]) == (0o600, 0o600)
    assert [path for path, mode in modes.items() if stat.S_ISDIR(mode) and mode & 0o026] == []


def modes_below(folder):
    """The modes of all that is there; what is written anew may be gone by now."""
    modes = {}
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            modes[path] = path.lstat().st_mode
    return modes


BOMB, ENDLESS = b"\x81\xa1x" * 300_000, b"\x91" * 900_000
HELLO = b"\x82\xa2op\xa5hello\xa4data\x80"


@pytest.mark.parametrize("payload", [BOMB, b"\x82\xa2op\xabcommand:run\xa4data" + ENDLESS])
def test_a_bomb(launch, payload):
    """Lists within lists without end are one refused frame; the master goes on without a word."""
    cluster = launch(job={"target": "functions:ticker"})
    master = cluster.status()["master_pid"]
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(cluster.run_dir / "control.sock"))
        for each in (HELLO, payload):
            client.sendall(struct.pack("<I", len(each)) + each)
        with contextlib.suppress(ConnectionResetError):
            while client.recv(4096):
                pass
    assert len(until(lambda: cluster.events("frame-rejected"))) == 1
    assert cluster.status()["master_pid"] == master
    assert "Traceback" not in cluster.said() and "Error" not in cluster.said()
