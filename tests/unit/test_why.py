"""What `bkd why` says of each case: the headline, the page, and what a hostile process cannot do with it."""

import io
import json
import sys
import time

import pytest
from msgspec.structs import replace

from bkd.ipc.stacks import DUMP_SIGNAL, Frame, OpenWork, Stacks, TaskStack, ThreadStack
from bkd.supervisor.asking import USAGE, show
from bkd.supervisor.commandline import main
from bkd.supervisor.forensics import why
from bkd.supervisor.forensics.culprit import Home
from bkd.supervisor.forensics.endwords import headline, how
from bkd.supervisor.forensics.evidence import Evidence, KernelThread, LateSample, Report, Sample

CWD = "/srv/shop"
HOME = Home(CWD)
AT = 1_763_800_000.0
LIB, SITE = "/usr/lib/python3.11", "/srv/shop/.venv/lib/python3.11/site-packages"
TAKE = Frame("/srv/shop/app.py", 31, "deadlock", "LOCK.acquire()")
SPIN = Frame("/srv/shop/app.py", 40, "spin", "while True:")
POWER = Frame("/srv/shop/app.py", 44, "crunch", "7**100_000_000")
READ = Frame("/srv/shop/app.py", 50, "fetch", "peer.recv(1)")
IMPORT = Frame("/srv/shop/app.py", 3, "<module>", "import pandas")
SEGV = Frame("/srv/shop/app.py", 60, "segv", "ctypes.string_at(0)")
DOWN = Frame("/srv/shop/app.py", 70, "down", "return down(n + 1)")
BELOW = [
    Frame(f"{SITE}/starlette/routing.py", 73, "app"),
    Frame(f"{SITE}/starlette/_exception_handler.py", 42, "wrapped_app"),
    Frame(f"{SITE}/uvicorn/protocols/http/httptools_impl.py", 409, "run_asgi"),
    Frame(f"{LIB}/asyncio/events.py", 80, "_run"),
    Frame(f"{LIB}/asyncio/runners.py", 118, "run"),
]
OTHER = 'Thread 0x01 (most recent call first):\n  File "/usr/lib/python3.11/threading.py", line 982 in run\n'
RECURSION = (
    f"Fatal Python error: Segmentation fault\n\n{OTHER}\nCurrent thread 0x00007f (most recent call first):\n"
    + ('  File "/srv/shop/app.py", line 70 in down\n' * 100 + "  ...\n")
)
TRACE = (
    'Traceback (most recent call last):\n  File "/srv/shop/app.py", line 3, in <module>\n    import pandas\n'
    "ModuleNotFoundError: No module named 'pandas'\n"
)
RAISED = (
    'Traceback (most recent call last):\n  File "/srv/shop/clock.py", line 9, in main\n    tick()\nValueError: no\n'
)


def report(cause, **more):
    return Report("web.2", 4711, 100, 3, AT, True, cwd=CWD, cause=cause, uptime=7512.0, **more)


def evidence(frame, call="", *, state="S", wchan="", source="worker", **more):
    main = ThreadStack("MainThread", [frame, *BELOW], main=True, tid=4711)
    kernel = [KernelThread(4711, "python", state, wchan, call)]
    return Evidence(AT, 0.03, state, kernel, Stacks([main]), source, culprit=frame, **more)


def hung(verdict, found, **more):
    return report("hung", verdict=verdict, age=30.0, signal=15, evidence=found, **more)


WSGI = Evidence(
    AT,
    stacks=Stacks(
        [
            ThreadStack("MainThread", [Frame(f"{LIB}/selectors.py", 468, "select")], main=True, tid=4711),
            ThreadStack("T", [READ, Frame(f"{LIB}/concurrent/futures/thread.py", 58, "run")], tid=4714),
        ],
        work=[OpenWork("GET /fast", 0.1), OpenWork("GET /slow", 61.0)],
    ),
    source="worker",
    kernel=[KernelThread(4711, call="waits for events"), KernelThread(4714, call="read from 127.0.0.1:5432")],
)
PACKING = replace(
    WSGI,
    stacks=Stacks(
        [
            ThreadStack("MainThread", [Frame(f"{LIB}/selectors.py", 468, "select")], main=True, tid=4711),
            ThreadStack("order.send 3", [SPIN], tid=4713),
            ThreadStack("order.pack 7", [READ], tid=4714),
        ],
        work=[OpenWork("order.send 3", 99.0), OpenWork("order.pack 7", 5.0)],
    ),
)
HOLDING = "it did not answer within 100 ms: C code holds the interpreter lock; its stacks are by faulthandler"

HEADLINES = {
    "deadlock": (
        hung("stuck", evidence(TAKE, "waits for a lock")),
        "hung (stuck): no progress for 30 s, waits for a lock at app.py:31 in deadlock: LOCK.acquire()",
    ),
    "busy loop": (
        hung("busy", evidence(SPIN, state="R")),
        "hung (busy): no progress for 30 s, computes at app.py:40 in spin: while True:",
    ),
    "C loop with GIL": (
        hung("busy", evidence(POWER, state="R", source="signal", silence=HOLDING)),
        "hung (busy): no progress for 30 s, in C code that does not let go of the interpreter lock "
        "at app.py:44 in crunch: 7**100_000_000",
    ),
    "sleep with GIL": (
        hung("stuck", evidence(POWER, "sleeps", source="signal", silence=HOLDING)),
        "hung (stuck): no progress for 30 s, sleeps in C code that does not let go of the interpreter lock "
        "at app.py:44 in crunch: 7**100_000_000",
    ),
    "blocked read": (
        hung("stuck", evidence(READ, "read from 127.0.0.1:5432")),
        "hung (stuck): no progress for 30 s, waits in read from 127.0.0.1:5432 at app.py:50 in fetch: peer.recv(1)",
    ),
    "nothing to be had": (hung("stuck", None), "hung (stuck): no progress for 30 s"),
    "SIGSTOP": (
        hung("stopped", Evidence(AT, state="T", kernel=[KernelThread(4711, state="T")])),
        "hung (stopped): SIGSTOP or a terminal stopped it; no progress for 30 s",
    ),
    "D state": (
        hung(
            "uninterruptible",
            Evidence(AT, state="D", kernel=[KernelThread(1, "", "D", "nfs_wait", "read from /mnt/x")]),
        ),
        "hung (uninterruptible): no progress for 30 s, the kernel does not let it go, "
        "it waits in read from /mnt/x (nfs_wait)",
    ),
    "D state, nothing known": (
        hung("uninterruptible", Evidence(AT, state="D")),
        "hung (uninterruptible): no progress for 30 s, the kernel does not let it go",
    ),
    "starved": (hung("starved", None), "hung (starved): no progress for 30 s, while other processes had the CPU"),
    "starved with GIL": (
        hung("starved", evidence(POWER, state="R", source="signal", silence=HOLDING)),
        "hung (starved): no progress for 30 s, in C code that does not let go of the interpreter lock "
        "while other processes had the CPU at app.py:44 in crunch: 7**100_000_000",
    ),
    "overdue request": (
        hung("overdue", WSGI),
        "hung (overdue): a request (GET /slow) is not answered after 61 s, which is over request_timeout, "
        "waits in read from 127.0.0.1:5432 at app.py:50 in fetch: peer.recv(1)",
    ),
    "overdue message": (
        hung(
            "overdue", PACKING, kind="messages", reason="message 7 (order.pack) did not end within its timeout of 5 s"
        ),
        "hung (overdue): message 7 (order.pack) did not end within its timeout of 5 s, "
        "waits in read from 127.0.0.1:5432 at app.py:50 in fetch: peer.recv(1)",
    ),
    "recursion crash": (
        report("crash", signal=11, trace=RECURSION, culprit=DOWN),
        "crashed: SIGSEGV: endless recursion used up its stack at app.py:70 in down: return down(n + 1)",
    ),
    "SIGSEGV": (
        report("crash", signal=11, culprit=SEGV, trace=RECURSION[:400]),
        "crashed: SIGSEGV (it touched memory that is not its own) at app.py:60 in segv: ctypes.string_at(0)",
    ),
    "OOM": (
        report("out of memory", signal=9, pss=412 << 20, rss=500 << 20),
        "out of memory: the kernel ended it with SIGKILL; it had 412 MB when it was heard last",
    ),
    "os._exit(3)": (report("crash", code=3), "exited with code 3 by itself"),
    "137": (
        report("crash", code=137),
        "exited with code 137 by itself (128 + SIGKILL: a shell or container reports it like that)",
    ),
    "exception of a function": (
        report("crash", code=1, trace=RAISED, culprit=Frame("/srv/shop/clock.py", 9, "main", "tick()")),
        "crashed with exit code 1: ValueError: no at clock.py:9 in main: tick()",
    ),
    "own words": (
        report("crash", code=1, reason="ValueError: no", culprit=IMPORT),
        "crashed: ValueError: no (app.py:3, exit code 1)",
    ),
    "exception at import": (
        report("boot failure", code=1, reason="ModuleNotFoundError: No module named 'pandas'", culprit=IMPORT),
        "failed to start: ModuleNotFoundError: No module named 'pandas' (app.py:3)",
    ),
    "exit at import": (
        report("boot failure", code=78),
        "failed to start: exit code 78 (EX_CONFIG: its configuration is wrong)",
    ),
    "slow boot": (
        report("boot failure", verdict="slow boot", age=120.0, evidence=evidence(IMPORT, "sleeps")),
        "failed to start (slow boot): not ready after 2 min, sleeps at app.py:3 in <module>: import pandas",
    ),
    "hanging import": (
        report(
            "boot failure", verdict="slow boot", reason="the import took more than 120 s", evidence=evidence(IMPORT)
        ),
        "failed to start (slow boot): the import took more than 120 s, at app.py:3 in <module>: import pandas",
    ),
    "SIGKILL from outside": (
        report("killed from outside", signal=9, sender="another process; the kernel does not tell which"),
        "killed from outside: SIGKILL; bkd did not send it",
    ),
    "SIGTERM from outside": (
        report("killed from outside", signal=15),
        "killed from outside: SIGTERM; bkd did not send it",
    ),
    "nobody saw it": (report("killed from outside"), "ended, and nobody saw how"),
    "slow leak recycled": (
        report("planned", code=0, reason="412MB of memory (max_memory = 400MB); it grew from 80MB", sender="bkd: …"),
        "recycled as planned: 412MB of memory (max_memory = 400MB); it grew from 80MB",
    ),
    "planned": (
        report("planned", code=0, reason="release 4 takes its place"),
        "ended as planned: release 4 takes its place",
    ),
    "planned, by force": (
        report("planned", signal=9, reason="release 4 takes its place", sender="bkd: SIGKILL"),
        "ended as planned: release 4 takes its place; it did not end in time and got SIGKILL",
    ),
    "by an operator": (
        report("planned", signal=9, sender="alice, by `bkd signal web.2 SIGKILL`"),
        "ended on request: SIGKILL (it cannot be caught), sent by alice, by `bkd signal web.2 SIGKILL`",
    ),
    "finished": (report("finished", code=0), "finished its work: exit code 0"),
}


@pytest.mark.parametrize("case", HEADLINES)
def test_a_case_is_named_for_what_it_is(case):
    what, expected = HEADLINES[case]
    assert headline(what) == expected


@pytest.mark.parametrize(
    ("code", "signal", "expected"),
    [
        (0, None, "exit code 0"),
        (3, None, "exit code 3"),
        (78, None, "exit code 78 (EX_CONFIG: its configuration is wrong)"),
        (126, None, "exit code 126 (a shell says so when the command cannot be executed)"),
        (127, None, "exit code 127 (a shell says so when the command is not found)"),
        (128, None, "exit code 128"),
        (137, None, "exit code 137 (128 + SIGKILL: a shell or container reports it like that)"),
        (255, None, "exit code 255"),
        (None, 6, "SIGABRT (it aborted itself; its last lines may say why)"),
        (None, 9, "SIGKILL (it cannot be caught)"),
        (None, 11, "SIGSEGV (it touched memory that is not its own)"),
        (None, 31, "SIGSYS (a system call that a filter (seccomp) forbids)"),
        (None, 18, "SIGCONT"),
        (None, 36, "signal 36 (real-time, SIGRTMIN+2)"),
        (None, None, "unknown: nobody could learn how it ended"),
    ],
)
def test_an_exit_status_in_words(code, signal, expected):
    assert how(code, signal) == expected


def test_every_signal_has_words():
    assert all(how(None, number) for number in range(1, 65))
    assert "bkd asks for stacks with it" in how(None, DUMP_SIGNAL)


@pytest.fixture(autouse=True)
def utc(monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def page(*reports, name="web.2", width=80, **more):
    return why.text(list(reports), name, AT + 720, width=width, **more)


DEADLOCK = hung(
    "stuck",
    Evidence(
        AT,
        0.03,
        "S",
        [
            KernelThread(4711, "python", "S", "futex_wait_queue", "waits for a lock"),
            KernelThread(4712, "bkd-pulse", "S", "", "waits for events"),
            KernelThread(4713, "pool", "S", "", "waits for a lock"),
            KernelThread(4714, "pool", "S", "", "waits for a lock"),
        ],
        Stacks(
            [
                ThreadStack("pool_0", [Frame(f"{LIB}/concurrent/futures/thread.py", 81, "_worker")]),
                ThreadStack("MainThread", [Frame(f"{LIB}/threading.py", 990, "join"), TAKE, *BELOW], main=True),
            ],
            [
                TaskStack("Task-99", [TAKE, *BELOW[:3]]),
                TaskStack("Task-98", [BELOW[2]], "Event.wait"),
                *[TaskStack(f"Task-{number}", [SPIN, *BELOW[:3]], "sleep") for number in range(12)],
            ],
            [OpenWork("GET /deadlock", 30.4)],
            tasks_left_out=3,
        ),
        "worker",
        culprit=TAKE,
        trend=[Sample(58.2, 80 << 20, 0, 0.021, 0.001, 1), Sample(0.4, 412 << 20, 0, 0.0, 29.9, 4)],
        late=LateSample(29.0, 1.04, [TAKE, *BELOW]),
        lates=2,
        lines=["starting", "about to lock"],
    ),
    sender="bkd: SIGTERM",
    served=30112,
    rss=412 << 20,
    decision="its successor was started when it was found hung",
)

DEADLOCK_PAGE = """\
web.2: hung (stuck): no progress for 30 s, waits for a lock
  at app.py:31 in deadlock: LOCK.acquire()

  when      2025-11-22 08:26:40, 12 min ago
  process   pid 4711, release 3, up 2.1 h, 30,112 requests, 412 MB of memory
  ended     SIGTERM (asked to end)
  by        bkd: SIGTERM
  then      its successor was started when it was found hung

main thread, innermost call first
  threading.py:990 in join
> app.py:31 in deadlock: LOCK.acquire()
  … 5 frames of starlette, uvicorn, asyncio

other threads
  idle      pool_0

16 asyncio tasks waiting, innermost await first
"""

BOOT_PAGE = """\
web.2: failed to start: ModuleNotFoundError: No module named 'pandas' (app.py:3)

  when      2025-11-22 08:26:40, 12 min ago
  process   pid 4711, release 3, up 2.1 h
  ended     exit code 1
  then      tried again after 3.1 s (2 charged deaths in 10 minutes)

traceback
  Traceback (most recent call last):
    File "/srv/shop/app.py", line 3, in <module>
      import pandas
  ModuleNotFoundError: No module named 'pandas'

before that
  11-22 08:26  pid 4711  release 3  exited with code 3 by itself
  11-22 08:26  pid 4711  release 3  crashed: SIGSEGV (it touched memory that is
      not its own) at app.py:60 in segv: ctypes.string_at(0)
"""

OOM_PAGE = """\
web.2: out of memory: the kernel ended it with SIGKILL; it had 412 MB when it was heard last

  when      2025-11-22 08:26:40, 12 min ago
  process   pid 4711, release 3, up 2.1 h, 7 requests, 412 MB of memory
  ended     SIGKILL (it cannot be caught)
  by        the kernel: out of memory
  hint      the cgroup may use 512 MB and uses 511 MB now
  hint      Memory cgroup out of memory: Killed process 4711 (python)
            total-vm:912340kB, anon-rss:421340kB
  then      started again at once

the last it printed
  reading orders
"""


def test_a_deadlock_on_a_page():
    told = page(DEADLOCK)
    assert told.startswith(DEADLOCK_PAGE)
    assert told.endswith(
        """\
  … 5 more
  … 1 task of uvicorn

1 open request
      30 s  GET /deadlock

the process as the kernel sees it
  main      state S, sleeping; waits for a lock; wchan futex_wait_queue
  thread    bkd-pulse: state S, sleeping; waits for events
  2 threads pool: state S, sleeping; waits for a lock
  memory    rss 80 MB → 412 MB in 58 s
  cpu       2 % → 0 % of one CPU in 58 s
  load      at most 4 requests in flight, loop at most 30 s late

its loop was 1.0 s late 29 s before, late 2 times in all
> app.py:31 in deadlock: LOCK.acquire()
  … 5 frames of starlette, uvicorn, asyncio

the last it printed
  starting
  about to lock
"""
    )
    assert (
        "  Task-9 waits for sleep\n    > app.py:40 in spin: while True:\n      … 3 frames of starlette, uvicorn\n"
        in told
    )
    assert "Task-10" not in told
    assert "Task-9" + "9" not in told
    assert max(map(len, told.splitlines())) <= 80


def test_a_failed_start_on_a_page():
    newest = report(
        "boot failure",
        code=1,
        reason="ModuleNotFoundError: No module named 'pandas'",
        culprit=IMPORT,
        trace=TRACE,
        lines=TRACE.splitlines(),
        decision="tried again after 3.1 s (2 charged deaths in 10 minutes)",
    )
    assert page(newest, HEADLINES["os._exit(3)"][0], HEADLINES["SIGSEGV"][0]) == BOOT_PAGE


def test_an_end_for_want_of_memory_on_a_page():
    newest = report(
        "out of memory",
        signal=9,
        pss=412 << 20,
        served=7,
        sender="the kernel: out of memory",
        hints=[
            "the cgroup may use 512 MB and uses 511 MB now",
            "Memory cgroup out of memory: Killed process 4711 (python) total-vm:912340kB, anon-rss:421340kB",
        ],
        decision="started again at once",
        lines=["reading orders"],
    )
    assert page(newest) == OOM_PAGE


def test_all_of_them_as_a_whole():
    told = page(DEADLOCK, HEADLINES["SIGSEGV"][0], full=True)
    assert told.count("  process   pid 4711") == 2
    assert "before that" not in told


def test_planned_ends_do_not_hide_what_went_wrong_before_them():
    stopped, crashed = (HEADLINES[case][0] for case in ("planned", "os._exit(3)"))
    told = page(stopped, stopped, crashed, HEADLINES["SIGSEGV"][0])
    assert told.startswith("web.2: ended as planned: release 4 takes its place\n")
    assert "\nweb.2: exited with code 3 by itself\n\n  when" in told
    assert told.index("the others") < told.index("11-22 08:26  pid 4711  release 3  crashed: SIGSEGV")


def test_a_group_says_which_slot_it_was():
    older = HEADLINES["os._exit(3)"][0]
    assert "11-22 08:26  web.2  pid 4711" in page(DEADLOCK, older, name="web")
    assert page(name="web.7") == "web.7 has not ended yet: nothing to explain\n"


def test_a_report_that_is_not_complete_says_so():
    assert "ended     not yet, it is being ended\n" in page(Report("web.2", 1, 2, 3, AT, cause="hung", verdict="stuck"))
    assert page(Report("web.2", 0, 2, 3, AT)).startswith("web.2: is being looked at\n")


def test_tracebacks_and_lines_of_source_are_never_cut():
    long = Frame("/srv/shop/app.py", 9, "f", f"return {'x' * 120}")
    raised = f"Traceback (most recent call last):\n{'y' * 300}\nValueError: {'z' * 300}\n"
    told = page(report("crash", signal=11, culprit=long, trace=raised, evidence=evidence(long)), width=60)
    assert "y" * 300 in told
    assert f"ValueError: {'z' * 300}" in told
    assert f"> app.py:9 in f:\n      return {'x' * 120}\n" in told


def test_of_a_fatal_signal_the_thread_that_died_comes_first_and_recursion_is_counted():
    told = page(report("crash", signal=11, trace=RECURSION))
    assert told.index("Current thread") < told.index("Thread 0x01")
    assert '    File "/srv/shop/app.py", line 70 in down\n    … the same line 99 times more\n    ...\n' in told


def test_a_process_gets_no_power_over_the_terminal():
    evil = "\x1b]0;title\x07\x1b[2J\r\x9b31m\u202e"
    frame = Frame(f"/srv/shop/{evil}.py", 1, evil, evil)
    told = hung(
        "stuck",
        Evidence(
            AT,
            state=evil,
            kernel=[KernelThread(1, evil, evil, evil, evil), KernelThread(2, evil, "S")],
            stacks=Stacks(
                [ThreadStack(evil, [frame, *BELOW], main=True), ThreadStack(evil, [frame])],
                [TaskStack(evil, [frame], evil)],
                [OpenWork(evil, 1.0)],
            ),
            silence=evil,
            late=LateSample(1.0, 1.0, [frame]),
            lines=[evil],
        ),
        sender=evil,
        hints=[evil],
        trace=evil,
        lines=[f"{evil}\x1b[31mred"],
        decision=evil,
    )
    for colours in (False, True):
        shown = page(told, report("crash", reason=evil), colours=colours)
        shown += why.dump_text(told.evidence, "web.2", 1, HOME, width=80, colours=colours)
        for plain in ("\x1b[1m", "\x1b[2m", "\x1b[0m", "\x1b[31m") if colours else ():
            shown = shown.replace(plain, "")
        assert {letter for letter in shown if not letter.isprintable()} == {"\n"}


def test_colours_only_when_they_are_asked_for():
    assert "\x1b" not in page(report("crash", code=3, lines=["\x1b[31mred\x1b[0m"]))
    coloured = page(DEADLOCK, colours=True)
    assert coloured.startswith("\x1b[1mweb.2: hung (stuck)")
    assert "\x1b[2m  … 5 frames of starlette, uvicorn, asyncio\x1b[0m\n" in coloured


def test_a_dump_has_every_task_and_thread_of_a_live_process():
    told = why.dump_text(DEADLOCK.evidence, "web.2", 4711, HOME, width=80)
    assert told.startswith(
        "web.2 (pid 4711) at 2025-11-22 08:26:40, looked at in 30 ms\n\n  at        app.py:31 in deadlock"
    )
    assert "Task-11 waits for sleep" in told
    assert "  idle      pool_0\n" in told
    assert told.endswith("the last it printed\n  starting\n  about to lock\n")


WAITS = KernelThread(4711, state="S", call="waits for events")


@pytest.mark.parametrize(
    ("work", "state", "expected"),
    [
        ([OpenWork("GET /a", 1.0)], "S", "  request   GET /a waits at app.py:50 in fetch: peer.recv(1)\n"),
        ([OpenWork("GET /a", 1.0)], "R", "  request   GET /a is at app.py:50 in fetch: peer.recv(1)\n"),
        (
            [OpenWork("GET /b", 1.0), OpenWork("GET /a", 2.0)],
            "S",
            "  request   GET /a, the oldest of 2; one waits at app.py:50 in fetch: peer.recv(1)\n",
        ),
        ([], "S", "  at        app.py:50 in fetch: peer.recv(1)\n"),
    ],
)
def test_a_dump_of_a_process_whose_loop_turns_says_so_and_where_its_work_is(work, state, expected):
    stacks = Stacks(WSGI.stacks.threads, work=work)
    found = Evidence(AT, stacks=stacks, culprit=READ, kernel=[WAITS, KernelThread(4714, state=state)])
    told = why.dump_text(found, "web.2", 1, HOME, width=100)
    assert f"\n\n  idle      its main thread waits in its event loop\n{expected}\nmain thread" in told


def test_what_was_done_when_it_was_stopped_is_past():
    calls = {
        "waits for events": "was waiting for events",
        "sleeps": "was sleeping",
        "read from a pipe": "was in read from a pipe",
    }
    for call, expected in calls.items():
        found = Evidence(AT, state="T", kernel=[KernelThread(1, "", "T", "do_signal_stop", call)])
        told = why.dump_text(found, "web.2", 1, HOME, width=120)
        assert f"state T, stopped by a signal; {expected}; wchan do_signal_stop\n" in told


def test_threads_of_the_kernel_are_called_as_python_calls_them():
    title = "bkd: shop web.1"
    kernel = [KernelThread(n, title, "S", "", call) for n, call in ((1, ""), (2, "waits for a lock"), (3, "sleeps"))]
    stacks = Stacks([ThreadStack("MainThread", [TAKE], main=True, tid=1), ThreadStack("stocktaking", [TAKE], tid=2)])
    for source, name in (("worker", "heartbeat of bkd"), ("signal", "without a name")):
        found = Evidence(AT, stacks=stacks, kernel=kernel, source=source)
        told = why.dump_text(found, "web.1", 1, HOME, width=80)
        assert "  thread    stocktaking: state S, sleeping; waits for a lock\n" in told
        assert f"  thread    {name}: state S, sleeping; sleeps\n" in told


def test_a_time_that_no_calendar_has():
    assert "at an unknown time" in page(replace(report("crash", code=3), at=1e300))


def test_tasks_of_others_take_one_line():
    tasks = [TaskStack("Task-1", [BELOW[2]], "Event.wait"), TaskStack("Task-2", [BELOW[3]])]
    told = why.dump_text(Evidence(AT, stacks=Stacks(WSGI.stacks.threads, tasks)), "web.2", 1, HOME, width=80)
    (line,) = [line for line in told.splitlines() if "task" in line]
    assert line == "2 asyncio tasks waiting, none in the application's code, all of uvicorn, asyncio"


def test_a_headline_in_two_lines_ends_the_first_one_without_a_comma():
    found = evidence(Frame("/srv/shop/app.py", 9, "f", "x" * 60))
    assert page(hung("stuck", found)).splitlines()[0] == "web.2: hung (stuck): no progress for 30 s"


def test_a_dump_of_what_tells_nothing_says_why():
    silent = Evidence(AT, state="T", kernel=[KernelThread(1, state="T")], silence="it is stopped")
    told = why.dump_text(silent, "web.2", 1, HOME, width=80)
    assert "  no stacks it is stopped\n" in told
    assert "state T, stopped by a signal" in told


def test_an_idle_process_is_called_idle():
    resting = Stacks([ThreadStack("MainThread", [Frame(f"{LIB}/selectors.py", 468, "select"), *BELOW[3:]], main=True)])
    told = why.dump_text(Evidence(AT, state="S", stacks=resting, source="worker"), "web.2", 1, HOME, width=80)
    assert "\n\n  idle      its main thread waits in its event loop\n\nmain thread" in told
    assert "  at  " not in told


def test_stacks_by_faulthandler_say_so():
    found = evidence(POWER, state="R", source="signal", silence=HOLDING)
    told = page(hung("busy", found))
    assert "main thread, written by faulthandler, innermost call first\n" in told
    assert "  stacks    it did not answer within 100 ms: C code holds the interpreter lock;\n" in told


def test_a_document_has_every_field_and_the_words():
    told = json.loads(json.dumps(why.document("web.2", [DEADLOCK, Report("web.2", 1, 2, 3, AT)])))
    newest, before = told["reports"]
    assert told["name"] == "web.2"
    assert newest["headline"] == HEADLINES["deadlock"][1]
    assert newest["how"] == "SIGTERM (asked to end)"
    assert newest["evidence"]["culprit"] == {"file": TAKE.file, "line": 31, "function": "deadlock", "text": TAKE.text}
    assert (before["ended"], before["code"], before["evidence"], before["how"]) == (False, None, None, None)


@pytest.mark.parametrize(("name", "good"), [("web", True), ("web.1", True), ("web.zygote", True), ("../web", False)])
def test_names(name, good):
    assert why.is_name(name) is good


@pytest.mark.parametrize(("errors", "expected"), [("strict", b"80 ? 412\n"), ("backslashreplace", b"80 \\u2192 412\n")])
def test_what_standard_output_cannot_say_is_replaced(monkeypatch, errors, expected):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, "ascii", errors))
    show("80 → 412\n", "")
    assert raw.getvalue() == expected


@pytest.mark.parametrize("name", ["../x", "", "web.1\x1b[31m"])
def test_without_a_cluster_a_name_that_cannot_be_one_is_the_callers_fault(capsys, tmp_path, name):
    assert main(["why", "-c", str(tmp_path / "absent.toml"), name]) == USAGE
    (line,) = capsys.readouterr().err.splitlines()
    assert line.isprintable() and "is no name of a group or slot" in line


def test_a_page_about_messages_does_not_speak_of_requests():
    told = page(hung("overdue", PACKING, kind="messages", reason="message 7 (order.pack) was told to end (cancelled)"))
    dumped = why.dump_text(PACKING, "jobs.1", 1, HOME, width=80, kind="messages")

    assert "request" not in told + dumped
    assert "2 open messages\n" in told
    assert "2 open messages\n" in dumped
