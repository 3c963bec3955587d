"""The shell inside a worker: sessions, what is printed, interrupts. Real threads and loops, no cluster around them."""

import asyncio
import sys
import threading
import time

import pytest

from bkd.ipc import ipc
from bkd.ipc.frames import LIMIT, frame
from bkd.ipc.message import FunctionWork, Load, ShellResult, ShellRun, WebWork, body, decode, encode
from bkd.workers.printed import MOST_PRINTED, Printed
from bkd.workers.shell import KEPT, MOST_SESSIONS, Shell

PATIENCE = 30.0
APP = object()


class Host:
    """A worker, with a main loop if there is one."""

    slot = "web.1"

    def __init__(self, loop=None):
        self.loop = loop


class Answer:
    """All results of one statement put together."""

    def __init__(self, results):
        self.out, self.err = "".join(result.out for result in results), "".join(result.err for result in results)
        self.failed = results[-1].failed


class Worker:
    """A shell with the heartbeat thread's part played by the test."""

    def __init__(self, loop=None, work=None):
        self.now = 0.0
        self._woken = threading.Event()
        self.shell = Shell(Host(loop), Load(work=work or FunctionWork()), self._woken.set, clock=lambda: self.now)

    def order(self, source="", *, session="a", number=2, interrupt=False):
        self.shell.order(ShellRun(session, number, source, interrupt))

    def next(self):
        """The next thing to be told."""
        deadline = time.monotonic() + PATIENCE
        while (result := self.shell.next()) is None:
            assert self._woken.wait(max(0.0, deadline - time.monotonic())), "nothing is told"
            self._woken.clear()
        return body(decode(encode(result)), ShellResult)

    def answer(self):
        """Everything until the end of the statement."""
        results = [self.next()]
        while not results[-1].done:
            results.append(self.next())
        return Answer(results)

    def open(self, session="a"):
        self.order(session=session, number=1)
        return self.answer()

    def run(self, source, session="a"):
        self.order(source, session=session)
        return self.answer()


@pytest.fixture
def worker():
    """A worker without a main loop, with one session open."""
    worker = Worker()
    worker.open()
    yield worker
    worker.shell.close()


@pytest.fixture
def loop():
    """A main loop that turns in a thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join(PATIENCE)
    loop.close()


def test_what_is_at_hand(worker):
    """The first statement says where one is, and what there is."""
    said = Worker(work=WebWork(f"{__name__}:APP")).open()
    assert f"in {Host.slot}" in said.out and "at hand: ipc, app" in said.out
    assert "at hand: ipc\n" in Worker(work=WebWork(f"{__name__}:made()")).open().out
    assert worker.run("__name__, ipc").out == f"{('__bkd__', ipc)!r}\n"


def test_values_and_names(worker):
    """As at the interactive prompt: the value of the last expression, `_`, and names that stay; None is not shown."""
    assert worker.run("x = 6\nx * 7").out == "42\n"
    assert worker.run("_ + x").out == "48\n"
    assert (worker.run("None").out, worker.run("_").out) == ("", "48\n")
    assert worker.run("def f():\n    return x\n").out == ""
    assert worker.run("f()").out == "6\n"


def test_sessions_are_apart(worker):
    """Names of one are not seen in another."""
    worker.open("b")
    worker.run("x = 1")
    assert "NameError" in worker.run("x", "b").err


def test_errors_as_the_interpreter_prints_them(worker):
    """The traceback begins with the code that was typed; what cannot be compiled has none."""
    failed = worker.run("def f():\n    1/0\nf()")
    assert failed.failed and failed.out == ""
    assert failed.err.splitlines() == [
        "Traceback (most recent call last):",
        '  File "<shell>", line 3, in <module>',
        '  File "<shell>", line 2, in f',
        "ZeroDivisionError: division by zero",
    ]
    assert worker.run("1 +").err.splitlines()[0] == '  File "<shell>", line 1'
    assert worker.run("(" * 1000).failed
    assert worker.run("\0").failed
    assert worker.run("exit()").err.endswith("SystemExit\n")
    assert not sys.stdin.closed
    assert not worker.run("1").failed


def test_only_what_the_code_prints(worker, capsys):
    """The application's own output goes where it always went, even while code of the shell runs."""
    worker.order("print('shell')\nwhile True: pass")
    while worker.next().out != "shell\n":
        pass
    print("application")
    worker.order(interrupt=True)
    assert worker.answer().out == ""
    assert capsys.readouterr().out == "application\n"


def test_both_streams_and_what_is_written_to_them(worker, capsys):
    """Standard error is told apart, in the order in which it was printed."""
    said = worker.run("import sys\nprint('a')\nprint('b', file=sys.stderr)\nsys.stdout.writelines(['c', 'd'])\n")
    assert (said.out, said.err) == ("a\ncd", "b\n")
    assert worker.run("print('\\udcff', flush=True)").out == "\\udcff\n"
    assert capsys.readouterr() == ("", "")


def test_the_streams_are_put_back(worker):
    """Afterwards they are what they were; one that was replaced meanwhile stays."""
    before = sys.stdout
    worker.run("1")
    assert sys.stdout is before
    worker.run("import io, sys; old = sys.stdout.stream; sys.stdout = new = io.StringIO()")
    replaced, sys.stdout = sys.stdout, before
    assert replaced is not before and worker.run("sys.stdout is new").out == "False\n"


def test_too_much_output_is_cut():
    """It is kept up to the limit, and a line says so; every piece fits a frame."""
    printed = Printed(lambda: None)
    for _ in range(3):
        printed.write("ä" * (MOST_PRINTED // 4))
    pieces = []
    while not printed.is_empty():
        pieces.append(printed.take())
    out, err = "".join(out for out, _ in pieces), "".join(err for _, err in pieces)
    assert out == "ä" * (MOST_PRINTED // 2)
    assert "cut here" in err
    assert all(len(frame(encode(ShellResult("a", 1, *piece)))) < LIMIT for piece in pieces)


def test_an_endless_printer_is_cut_and_interrupted(worker):
    """Nobody has to take what it prints."""
    worker.order("while True: print('x' * 1000)")
    while "cut here" not in worker.next().err:
        pass
    worker.order(interrupt=True)
    assert "KeyboardInterrupt" in worker.answer().err


def test_await_in_the_main_loop(loop):
    """Code with `await` runs as a task there, and what the tasks it makes print is its own."""
    worker = Worker(loop)
    worker.open()
    assert worker.run("import asyncio, threading").out == ""
    assert worker.run("asyncio.get_running_loop()").failed
    said = worker.run(
        "async def child(): print('child')\n"
        "await asyncio.create_task(child())\n"
        "loop = asyncio.get_running_loop()\n"
        "[x async for x in (i for i in [1])] if False else threading.current_thread() is threading.main_thread()"
    )
    assert (said.out, said.failed) == ("child\nFalse\n", False)
    assert worker.run("(await asyncio.sleep(0, 5)) + 1").out == "6\n"
    assert worker.run("_").out == "6\n"
    assert "ZeroDivisionError" in worker.run("await asyncio.sleep(0)\n1/0").err
    assert worker.run("await asyncio.sleep(0)\nexit()").failed
    assert loop.is_running()


def test_await_without_a_main_loop(worker):
    """The session has a loop of its own: what belongs to it is still good in the next statement."""
    worker.run("import asyncio\nqueue = asyncio.Queue()\nfuture = None")
    worker.run("future = asyncio.get_running_loop().create_future() if await asyncio.sleep(0) is None else None")
    assert worker.run("future.set_result(7)\nawait future").out == "7\n"


@pytest.mark.parametrize("code", ["while True: pass", "import asyncio\nawait asyncio.sleep(600)"])
def test_interrupts(loop, code):
    """KeyboardInterrupt into the thread, the main loop, or the session's own loop; the session goes on."""
    for worker in (Worker(loop), Worker()):
        worker.open()
        worker.order(f"started = 1\n{code}")
        assert worker.next() == ShellResult("a", 2)
        worker.order(interrupt=True)
        answer = worker.answer()
        assert answer.failed and answer.err.endswith("KeyboardInterrupt\n")
        assert worker.run("1").out == "1\n"
        worker.shell.close()


def test_many_interrupts_harm_nobody(worker):
    """One that comes after the last instruction hits neither the next statement nor the thread."""
    for _ in range(100):
        worker.order("x = 0\nfor i in range(100): x += i")
        worker.order(interrupt=True)
        worker.order(interrupt=True)
        worker.answer()
        assert worker.run("1").out == "1\n"


def test_a_loop_that_does_not_turn(loop):
    """What it has not come to is not begun after an interrupt."""
    worker, held = Worker(loop), threading.Event()
    worker.open()
    worker.run("ran = False\nimport asyncio")
    loop.call_soon_threadsafe(held.wait, PATIENCE)
    worker.order("await asyncio.sleep(0)\nran = True")
    worker.next()
    while not (answer := worker.shell.next()):
        worker.order(interrupt=True)
    answers = [answer]
    while not answers[-1].done:
        answers.append(worker.next())
    assert "KeyboardInterrupt" in Answer(answers).err
    held.set()
    assert worker.run("await asyncio.sleep(0)\nran").out == "False\n"


def test_one_statement_at_a_time(worker):
    """The next one is refused while one runs."""
    worker.order("while True: pass")
    worker.next()
    worker.order("1", number=3)
    assert worker.answer().failed
    worker.order(interrupt=True)
    assert "KeyboardInterrupt" in worker.answer().err


def test_there_are_not_more_sessions_than_allowed(worker):
    """One too many is refused; when one has ended there is room."""
    others = [str(number) for number in range(MOST_SESSIONS - 1)]
    assert not any(worker.open(name).failed for name in others)
    assert "shells already" in worker.open("more").err
    worker.order(session=others[0], number=0)
    assert not worker.open("more").failed


def test_code_that_was_left_behind_is_interrupted(worker):
    """Nothing of it is told any more, and its session ends with it."""
    worker.order("print('old')\nwhile True: pass")
    worker.next()
    worker.order(number=0)
    deadline = time.monotonic() + PATIENCE
    while (again := worker.open()).failed:
        assert "still runs" in again.err and time.monotonic() < deadline
        worker.shell.expire()
    assert "at hand" in again.out and "old" not in again.out


def test_a_session_is_forgotten_after_an_hour(worker):
    """Not before; the next statement is not run but says so, and begins anew."""
    worker.run("x = 1")
    worker.now = KEPT - 1
    worker.shell.expire()
    assert worker.run("x").out == "1\n"
    worker.now += KEPT + 1
    worker.shell.expire()
    forgotten = worker.run("print('ran')")
    assert forgotten.failed and "not used for an hour" in forgotten.err and "ran" not in forgotten.out
    assert "NameError" in worker.run("x").err
    assert worker.run("ipc").out
