"""How late a loop is and who is to blame: a real loop in a thread that the test holds up; the clock is the test's."""

import asyncio
import os
import threading

import pytest
import uvloop

from bkd import ipc, workers
from bkd.ipc.message import Late
from bkd.ipc.stacks import Frame
from bkd.workers.lateness import CLOSEST, MOST_PLACES, Lateness, place

PATIENCE = 30.0
PERIOD = 2.0
STDLIB = os.path.dirname(os.__file__)


class Bench:
    """A loop, the time and the CPU time of its process, and where its thread is said to be."""

    def __init__(self, make, **options):
        self.now, self.cpu, self.line = 1000.0, 5.0, 1
        self.loop = make()
        self._gate = threading.Event()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()
        options = {"period": PERIOD, "warn": 1.0} | options
        self.lateness = Lateness(self.loop, self.frames, clock=lambda: self.now, cpu=lambda: self.cpu, **options)
        self.turn()

    def frames(self):
        return [Frame("/srv/app.py", self.line, "handler")]

    def turn(self):
        """Let the loop run what has been posted."""
        turned = threading.Event()
        self.loop.call_soon_threadsafe(turned.set)
        assert turned.wait(PATIENCE)

    def hold(self):
        """Hold the loop up from now on."""
        inside, self._gate = threading.Event(), threading.Event()
        self.loop.call_soon_threadsafe(lambda gate=self._gate: (inside.set(), gate.wait(PATIENCE)))
        assert inside.wait(PATIENCE)

    def release(self):
        self._gate.set()
        self.turn()

    def look(self, seconds=0.0):
        """Whenever it is due for so many seconds, and at their end; what is told, if anything is."""
        until, told = self.now + seconds, []
        while (due := max(self.now, self.lateness.due)) < until:
            self.now = due
            told.append(self.lateness.look(due, woke=due))
        self.now = until
        told = [late for late in (*told, self.lateness.look(until, woke=until)) if late is not None]
        assert len(told) <= 1
        return told[0] if told else None

    def oversleep(self, seconds, *, cpu, worked=0.0):
        """The thread that looks did not wake for so long, the process used so much of a CPU meanwhile; or it `worked`
        itself for some of the time."""
        self.now = max(self.now, self.lateness.due) + seconds
        self.cpu += cpu
        return self.lateness.look(self.now, woke=self.now - worked)

    def lag(self):
        return round(self.lateness.lag(self.now), 6)

    def late(self, seconds=1.25, line=1):
        """Hold the loop up for so long at this line; what is told of it."""
        self.line = line
        self.hold()
        told = self.look(seconds)
        self.release()
        self.look()
        self.turn()
        return told

    def stop(self):
        self._gate.set()
        if self.loop.is_running():
            self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(PATIENCE)


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def bench(request):
    """Makes a bench; its loop is ended with the test."""
    made = []

    def make(**options):
        made.append(Bench(request.param, **options))
        return made[-1]

    yield make
    for bench in made:
        bench.stop()
        bench.loop.close()


def test_a_loop_that_turns_is_never_late(bench):
    one = bench()
    for _ in range(10):
        assert one.look() is None
        one.turn()
        one.now = one.lateness.due
    assert (one.lag(), one.lateness.late) == (0.0, 0)


def test_a_place_is_told_once_and_counted_every_time(bench):
    """At the moment when the limit is reached, however long it lasts."""
    one = bench()
    assert one.late(1.5, line=7) == Late(1.0, [Frame("/srv/app.py", 7, "handler")])
    assert one.late(1.5, line=7) is None
    assert one.late(60.0, line=8) == Late(1.0, [Frame("/srv/app.py", 8, "handler")])
    assert one.late(0.9, line=9) is None
    assert one.lateness.late == 3


def test_one_delay_is_looked_at_once(bench):
    """Wherever it goes meanwhile."""
    one = bench()
    one.hold()
    assert one.look(1.0) is not None
    one.line = 2
    assert one.look(60.0) is None
    assert one.lateness.late == 1


def test_after_many_places_nothing_more_is_told_but_all_is_counted(bench):
    one = bench()
    told = [one.late(line=number) for number in range(MOST_PLACES + 5)]
    assert [late is not None for late in told] == [True] * MOST_PLACES + [False] * 5
    assert one.lateness.late == MOST_PLACES + 5


@pytest.mark.parametrize(("warn", "apart"), [(1.0, 0.25), (0.4, 0.1), (0.01, CLOSEST), (60.0, PERIOD), (0.0, PERIOD)])
def test_it_looks_as_often_as_the_limit_needs(bench, warn, apart):
    """And with every heartbeat at least, since the master judges by that."""
    one = bench(warn=warn)
    one.look()
    assert one.lateness.due == pytest.approx(one.now + apart)


def test_it_looks_when_the_limit_is_reached(bench):
    one = bench(warn=0.5)
    one.hold()
    one.look()
    one.look(0.4)
    assert one.lateness.due == pytest.approx(one.now + 0.1)
    assert one.look(0.1) is not None
    assert one.lateness.due == pytest.approx(one.now + 0.125)


def test_a_limit_that_changes_counts_at_once(bench):
    one = bench(warn=0.0)
    one.hold()
    assert one.look(PERIOD) is None
    one.lateness.pace(PERIOD, 1.0)
    assert one.lateness.due == pytest.approx(one.now + 0.25)
    assert one.look(0.25) == Late(2.25, one.frames())
    one.lateness.pace(PERIOD, 0.0)
    one.release()
    one.look()
    one.turn()
    assert one.late(60.0) is None
    assert one.lateness.late == 1


def test_the_lag_is_the_worst_since_the_last_heartbeat(bench):
    one = bench()
    one.hold()
    one.look()
    one.now += 0.75
    assert one.lag() == 0.75
    one.release()
    for lag in (0.75, 0.0):
        one.look()
        one.turn()
        one.now = one.lateness.due
        assert one.lag() == lag


def test_without_a_limit_the_lag_is_known_all_the_same(bench):
    one = bench(warn=0.0)
    one.hold()
    one.look(PERIOD)
    assert (one.lag(), one.lateness.late) == (PERIOD, 0)


def test_a_process_that_was_stopped_blames_nobody(bench):
    """SIGSTOP, a suspended machine: the time passed for all of it, whatever it was doing."""
    one = bench()
    one.hold()
    one.look()
    assert one.oversleep(3600.0, cpu=0.01) is None
    assert (one.lag(), one.lateness.late) == (0.0, 0)
    assert one.look(0.9) is None
    assert one.look(0.1) is not None


def test_a_probe_that_ran_after_a_stop_blames_nobody(bench):
    one = bench()
    one.hold()
    one.look()
    one.now += 3600.0
    one.release()
    assert one.oversleep(0.0, cpu=0.0) is None
    assert (one.lag(), one.lateness.late) == (0.0, 0)


def test_c_code_that_lets_nothing_else_run_is_to_blame(bench):
    """Its CPU time tells it from a process that was stopped, also where it got little of a busy host."""
    one = bench()
    one.look()
    one.turn()
    one.line = 7
    assert one.oversleep(5.0, cpu=1.0) == Late(5.0, [Frame("/srv/app.py", 7, "handler")])
    assert (one.lag(), one.lateness.late) == (5.0, 1)
    one.turn()
    one.hold()
    one.look()
    one.line = 8
    assert one.oversleep(5.0, cpu=5.0) == Late(5.25, [Frame("/srv/app.py", 8, "handler")])


def test_a_thread_that_was_busy_itself_blames_nobody(bench):
    one = bench()
    one.look()
    one.turn()
    assert one.oversleep(5.0, cpu=5.0, worked=5.0) is None
    assert (one.lag(), one.lateness.late) == (0.0, 0)


def test_who_was_late_before_anybody_could_look_is_counted(bench):
    """Where it was nobody knows any more."""
    one = bench()
    one.hold()
    one.look()
    one.now += 1.2
    one.release()
    assert one.oversleep(0.0, cpu=0.0) is None
    assert (one.lag(), one.lateness.late) == (1.2, 1)


def test_while_there_was_no_master_nobody_looked(bench):
    one = bench()
    one.look()
    one.turn()
    one.now += 600.0
    one.lateness.again(one.now)
    assert one.lateness.due == one.now
    assert one.look() is None
    assert one.lag() == 0.0


def test_a_loop_that_has_ended_is_not_late(bench):
    """What the worker does afterwards has no loop to hold up; but the master is to know that nothing turns."""
    one = bench()
    one.stop()
    assert one.look(5.0) is None
    assert (one.lag(), one.lateness.late) == (5.0, 0)
    one.loop.close()
    assert one.look(5.0) is None
    assert one.lag() == 10.0


def test_a_closed_loop_takes_no_more_probes(bench):
    one = bench()
    one.look()
    one.turn()
    one.stop()
    one.loop.close()
    assert one.look(5.0) is None
    assert one.lag() == 4.75


OURS = [f"{os.path.dirname(package.__file__)}/x.py" for package in (workers, ipc)]
LOOPS = [f"{STDLIB}/asyncio/events.py", "/venv/lib/python3.11/site-packages/uvloop/__init__.py"]
LIBRARY = ["<frozen importlib._bootstrap>", f"{STDLIB}/socket.py", "/venv/lib/python3.11/site-packages/db/pool.py"]


@pytest.mark.parametrize(
    ("files", "blamed"),
    [
        ([], None),
        (["/srv/a.py", "/srv/b.py"], "/srv/a.py"),
        ([*LIBRARY, "/srv/a.py", *LOOPS, *OURS], "/srv/a.py"),
        ([*OURS, *LOOPS, "/srv/a.py"], "/srv/a.py"),
        ([*LOOPS, *LIBRARY, *OURS], LIBRARY[0]),
        ([*LOOPS, *OURS], LOOPS[0]),
        ([*OURS], OURS[0]),
        (["<string>", *OURS], "<string>"),
    ],
)
def test_the_place_is_the_innermost_of_the_application(files, blamed):
    """Without one it is that of a library, without that the innermost at all."""
    frames = [Frame(file, line, "f") for line, file in enumerate(files, 1)]
    assert place(frames) == (None if blamed is None else (blamed, "f", files.index(blamed) + 1))
