"""Zygotes and workers as processes of their own, and what they say to their master."""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from bkd.ipc.frames import frame
from bkd.ipc.message import (
    NO_BKD,
    OTHER_VERSION,
    ConfigChanged,
    Drain,
    FunctionWork,
    Imported,
    Load,
    Loaded,
    LoadFailed,
    Message,
    Pace,
    Ping,
    Ready,
    Refused,
    WebWork,
)

from .group import DEADLINE, Client, listen, until
from .master import Master

LISTENING = Path(__file__).parent / "listening.py"
APP = Path(__file__).parent / "asgi.py"
RARELY = 50.0


class Disguised(Message, frozen=True):
    op = "disguised"


class Fails(Message, frozen=True):
    op = "fails"


class Blocks(Message, frozen=True):
    op = "blocks"


class Unheard(Message, frozen=True):
    op = "nobody:listens"


@pytest.fixture
def master(tmp_path):
    with Master(tmp_path) as master:
        yield master


def listening(master, target="main", **options):
    """A worker that has handlers, is ready and has sent a ping: the connections of its heartbeat and application."""
    shutil.copy(LISTENING, master.folder)
    worker = master.fork(master.load(FunctionWork(f"listening:{target}"), **options))
    application = master.admit("application")
    said = set()
    while said != {Ready, Ping}:
        said.add(type(worker.hear(Ready, Ping)))
    return worker, application


def heard(master, line):
    """Wait for a line of the worker's output."""
    until(lambda: line in master.said().splitlines(), line)


# -- events


def test_async_handlers_run_in_the_main_loop_and_plain_ones_in_a_thread(master):
    """Both hear the same event; what only turns out to be async when it is called ends up in the loop as well."""
    _worker, application = listening(master)
    application.send(Unheard())
    application.send(ConfigChanged(["ping.kill"]))
    application.send(Disguised())
    heard(master, "async: MainThread, main loop config:init {'changed': ['ping.kill']}")
    heard(master, "plain: bkd-events, no loop config:init {'changed': ['ping.kill']}")
    heard(master, "disguised: MainThread, main loop disguised {}")


def test_in_a_plain_function_async_handlers_have_a_loop_of_their_own(master):
    """The function itself is not interrupted."""
    _worker, application = listening(master, "plain")
    application.send(ConfigChanged([]))
    heard(master, "async: bkd-events, a loop config:init {'changed': []}")
    heard(master, "plain: bkd-events, no loop config:init {'changed': []}")


def test_an_event_that_comes_early_waits_for_the_applications_code(master):
    """No handler runs before what it belongs to."""
    shutil.copy(LISTENING, master.folder)
    worker = master.fork(master.load(FunctionWork("listening:asks_first", notify=True)))
    application = master.admit("application")
    application.send(ConfigChanged([]))
    for _ in range(3):
        worker.hear(Ping)
    assert "config:init" not in master.said()

    (master.folder / "open").touch()
    heard(master, "plain: bkd-events, no loop config:init {'changed': []}")


def test_a_worker_that_listens_is_ready_when_it_hears(master):
    """No event is missed; one whose application nobody takes is ready all the same, a moment later."""
    shutil.copy(LISTENING, master.folder)
    worker = master.fork(master.load(FunctionWork("listening:main")))
    worker.hear(Ready)
    master.admit("application").send(ConfigChanged([]))
    heard(master, "plain: bkd-events, no loop config:init {'changed': []}")


def test_events_do_not_come_by_the_heartbeat(master):
    """What is no order there is said so."""
    worker, _application = listening(master)
    worker.send(ConfigChanged([]))
    until(lambda: "no worker knows: config:init" in master.said(), "a line about it")


def test_handlers_that_fail_end_nothing(master):
    """Not the loop, not the thread, not the heartbeat, even by SystemExit; the log has both tracebacks."""
    worker, application = listening(master)
    application.send(Fails())
    application.send(ConfigChanged([]))
    heard(master, "plain: bkd-events, no loop config:init {'changed': []}")
    heard(master, "async: MainThread, main loop config:init {'changed': []}")
    for kind in ("async", "plain"):
        until(lambda kind=kind: master.said().count(f"SystemExit: {kind}\n") == 1, f"the traceback of {kind}")
    assert worker.hear(Ping).lag is not None


def test_a_handler_that_blocks_holds_up_neither_the_heartbeat_nor_the_loop(master):
    """Only other plain handlers wait for it, and the drain does not."""
    worker, application = listening(master)
    application.send(Blocks())
    application.send(ConfigChanged([]))
    heard(master, "blocked: bkd-events, no loop")
    heard(master, "async: MainThread, main loop config:init {'changed': []}")
    until(lambda: worker.hear(Ping).lag < 1.0, "a loop that turns")
    assert "plain" not in master.said()

    (master.folder / "open").touch()
    heard(master, "plain: bkd-events, no loop config:init {'changed': []}")


def test_data_that_nobody_can_read_cost_the_event_alone(master):
    """The worker says so and goes on on the same connection."""
    _worker, application = listening(master)
    application.sock.sendall(frame(b"\x82\xa2op\xabconfig:init\xa4data\x81\x80\xc0"))  # a map as a key
    application.send(ConfigChanged([]))
    heard(master, "plain: bkd-events, no loop config:init {'changed': []}")
    assert "config:init: the event cannot be read" in master.said()


# -- heartbeat


def test_the_pace_changes_at_once(master):
    """A heartbeat that would come in a minute comes now."""
    worker, _application = listening(master, ping=RARELY)
    started = time.monotonic()
    worker.send(Pace(0.1))
    for _ in range(3):
        worker.hear(Ping)
    assert 0.2 < time.monotonic() - started < DEADLINE


@pytest.mark.parametrize("period", [0.0, -1.0, float("nan"), float("inf")])
def test_no_pace_makes_a_worker_spin_or_fall_silent(master, period):
    """It goes on living with the fastest or slowest there is."""
    worker, _application = listening(master, ping=RARELY)
    worker.send(Pace(period))
    worker.send(Pace(0.1))
    pings = [worker.hear(Ping) for _ in range(5)]
    assert pings[-1].cpu - pings[0].cpu < 0.2
    assert "heartbeat failed" not in master.said()


def test_what_was_served_is_told_and_where(master):
    """The heartbeat counts requests that are over, and the worker sits on the seat it was given."""
    shutil.copy(APP, master.folder)
    slots = master.folder / "slots"
    slots.write_bytes(b"\xff" * 8)
    with listen() as listener:
        worker = master.fork(master.load(WebWork("asgi:app", ["a"], 0.1, str(slots)), [listener]), seat=5)
        worker.hear(Ready)
        assert slots.read_bytes() == b"\xff" * 5 + b"\0" + b"\xff" * 2
        with Client(listener) as client:
            for _ in range(7):
                client.get()
            until(lambda: worker.hear(Ping).served == 7, "seven requests")
        worker.send(Drain(last=True))
        until(lambda: slots.read_bytes() == b"\xff" * 8, "the byte of a worker that has left")


# -- other interpreters


def test_an_interpreter_without_bkd_says_so_by_its_exit_code(tmp_path):
    """One line, and no traceback."""
    with Master(tmp_path, "-S", "-E") as master:
        code, said = master.ended()
    assert code == NO_BKD
    assert said.splitlines() == [f"bkd: {sys.executable} cannot import bkd: ModuleNotFoundError: No module named 'bkd'"]


def test_a_process_that_the_master_refuses_says_so_by_its_exit_code(master):
    """The reason is the master's."""
    sock, _address = master.listener.accept()
    with sock:
        sock.sendall(frame(b"\x82\xa2op\xa7refused\xa4data\x81\xa6reason\xa9other bkd"))
        code, said = master.ended()
    assert (code, said) == (OTHER_VERSION, "bkd: other bkd\n")
    assert Refused.op == "refused"


# -- source files


def write(folder, **modules):
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text)


def named(message, folder):
    """The names of those files of a message that lie in the folder."""
    assert all(file.endswith(".py") and os.path.realpath(file) == file for file in message.files)
    assert not [file for file in message.files if "site-packages" in file or file == os.__file__]
    return {Path(file).name for file in message.files if Path(file).parent == folder}


def test_the_source_files_of_an_application_are_told(master):
    """Its own, wherever they are; neither the standard library's nor what is installed. Without `watch` none."""
    write(master.folder, app="import json, click, part\ndef main(): pass\n", part="")
    assert named(master.load(FunctionWork("app:main"), watch=True).hear(Loaded), master.folder) == {"app.py", "part.py"}


def test_nobody_asks_nothing_is_told(master):
    write(master.folder, app="def main(): pass\n")
    assert master.load(FunctionWork("app:main")).hear(Loaded).files == []


@pytest.mark.parametrize("fault", ["def main(:\n", "raise RuntimeError\n", "import nowhere\n"])
def test_the_file_that_cannot_be_imported_is_told_as_well(master, fault):
    """It is what will be repaired, though no module of that name is left."""
    write(master.folder, app="import part, broken\ndef main(): pass\n", part="", broken=fault)
    failed = master.load(FunctionWork("app:main"), watch=True).hear(LoadFailed)
    assert named(failed, master.folder) == {"app.py", "part.py", "broken.py"}


def test_what_is_imported_late_is_told_late(master):
    """Once, and only what is new; the next master hears of it again."""
    waiting = "while not os.path.exists('open'):\n        time.sleep(0.01)"
    write(
        master.folder,
        part="",
        app=f"import os, time\ndef main():\n    {waiting}\n    import part\n    time.sleep(60)\n",
    )
    worker = master.fork(master.load(FunctionWork("app:main"), watch=True))
    worker.hear(Ping)
    (master.folder / "open").touch()
    assert worker.hear(Imported).files == [str(master.folder / "part.py")]

    worker.sock.shutdown(socket.SHUT_RDWR)
    assert master.admit("worker").hear(Imported).files == [str(master.folder / "part.py")]


# -- releases


LATE = """
import os, sys, time
def main():
    while not os.path.exists("open"):
        time.sleep(0.01)
    import late, deep, shared.late
    print("late", late.VALUE, deep.VALUE, shared.late.VALUE, flush=True)
    time.sleep(60)
"""


def release(folder, number):
    """A release: its application, a folder on PYTHONPATH, and a package that the interpreter imports at its start."""
    for name in ("", "lib", "lib/shared"):
        (folder / str(number) / name).mkdir(parents=True, exist_ok=True)
    write(folder / str(number), app=LATE, late=f"VALUE = {number}\n")
    write(folder / str(number) / "lib", deep=f"VALUE = {number}\n", sitecustomize="import shared\n")
    write(folder / str(number) / "lib" / "shared", __init__="", late=f"VALUE = {number}\n")


def test_what_is_imported_late_comes_from_the_release_it_belongs_to(tmp_path):
    """A symlink that leads to the next release by now changes nothing for those who came along it before."""
    for number in (1, 2):
        release(tmp_path, number)
    current = tmp_path / "current"
    current.symlink_to("1")
    with Master(tmp_path, env={"PYTHONPATH": str(current / "lib")}) as master:
        worker = master.fork(master.load(FunctionWork("app:main"), cwd=str(current)))
        worker.hear(Ping)
        (tmp_path / "next").symlink_to("2")
        (tmp_path / "next").rename(current)
        (tmp_path / "1" / "open").touch()
        heard(master, "late 1 1 1")


def test_a_trial_imports_as_a_zygote_does(tmp_path):
    """From the folder it is given."""
    write(tmp_path, app="def main(): pass\n")
    (tmp_path / "current").symlink_to(tmp_path)
    answers, answer = os.pipe()
    code = "from bkd.workers.trial import main; main()"
    order = msgspec.msgpack.encode(Load(work=FunctionWork("app:main"), cwd=str(tmp_path / "current")))
    subprocess.run(
        [sys.executable, "-P", "-c", code, str(answer)], input=order, pass_fds=[answer], timeout=30, check=True
    )
    os.close(answer)
    with os.fdopen(answers, "rb") as said:
        assert msgspec.msgpack.decode(said.read(), type=LoadFailed).reason == ""
