import signal

import pytest
from msgspec.structs import replace

from bkd.supervisor.cluster import Cause, Ending, Phase, Step, Worker
from bkd.supervisor.death import CHARGED, cause


def worker(phase: Phase = Phase.READY, ending: Cause | None = None, signalled: int = 0) -> Worker:
    end = Ending(ending, "", 0.0, Step.TERMED) if ending else None
    return Worker(1, "web.1", 1, 0.0, phase=phase, ending=end, signalled=signalled)


EXITS = [
    (0, Phase.STARTING, Cause.BOOT),
    (1, Phase.STARTING, Cause.BOOT),
    (78, Phase.STARTING, Cause.BOOT),
    (0, Phase.READY, Cause.CRASH),
    (1, Phase.READY, Cause.CRASH),
    (255, Phase.READY, Cause.CRASH),
]
OWN = ["ABRT", "BUS", "FPE", "ILL", "SEGV", "SYS", "TRAP", "PIPE", "XCPU", "XFSZ"]
FOREIGN = ["KILL", "TERM", "INT", "HUP", "QUIT", "USR1", "USR2", "STOP"]


@pytest.mark.parametrize(("code", "phase", "expected"), EXITS)
def test_exit_codes(code, phase, expected):
    assert cause(worker(phase), code, oom=False) == expected


@pytest.mark.parametrize("name", OWN)
def test_signals_of_its_own_making(name):
    number = signal.Signals[f"SIG{name}"]
    assert cause(worker(), -number, oom=False) == Cause.CRASH
    assert cause(worker(Phase.STARTING), -number, oom=False) == Cause.BOOT


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("phase", [Phase.STARTING, Phase.READY])
def test_signals_that_nobody_here_sent(name, phase):
    assert cause(worker(phase), -signal.Signals[f"SIG{name}"], oom=False) == Cause.OUTSIDE


@pytest.mark.parametrize("phase", [Phase.STARTING, Phase.READY])
def test_an_end_that_nobody_saw_is_not_held_against_the_worker(phase):
    assert cause(worker(phase), None, oom=False) == Cause.OUTSIDE


def test_realtime_signals_come_from_outside():
    assert cause(worker(), -40, oom=False) == Cause.OUTSIDE


@pytest.mark.parametrize("phase", [Phase.STARTING, Phase.READY])
def test_the_kernels_kill_is_told_from_an_outsiders(phase):
    assert cause(worker(phase), -signal.SIGKILL, oom=True) == Cause.OOM
    assert cause(worker(phase), -signal.SIGTERM, oom=True) == Cause.OUTSIDE


def test_exit_0_after_the_operators_sigterm_is_planned():
    assert cause(worker(signalled=signal.SIGTERM), 0, oom=False) == Cause.PLANNED
    assert cause(worker(signalled=signal.SIGUSR1), 0, oom=False) == Cause.CRASH


def test_the_operators_own_signal_is_planned():
    assert cause(worker(signalled=signal.SIGTERM), -signal.SIGTERM, oom=False) == Cause.PLANNED
    assert cause(worker(signalled=signal.SIGHUP), -signal.SIGTERM, oom=False) == Cause.OUTSIDE


@pytest.mark.parametrize("ending", [Cause.PLANNED, Cause.HUNG, Cause.BOOT])
@pytest.mark.parametrize("code", [0, 1, 78, -9, -15, -11, None])
def test_what_bkd_ended_itself_ended_for_that(ending, code):
    assert cause(worker(ending=ending), code, oom=True) == ending


def test_only_the_workers_own_faults_are_charged():
    assert {Cause.BOOT, Cause.CRASH, Cause.HUNG, Cause.OOM} == CHARGED


@pytest.mark.parametrize("code", [0, 1])
def test_who_says_that_it_was_sent_sigterm_was_ended_from_outside(code):
    assert cause(replace(worker(), termed=True), code, oom=False) == Cause.OUTSIDE
    assert cause(replace(worker(), termed=True, signalled=signal.SIGTERM), 0, oom=False) == Cause.PLANNED
    assert cause(replace(worker(ending=Cause.HUNG), termed=True), code, oom=False) == Cause.HUNG
    assert cause(replace(worker(), termed=True), -signal.SIGSEGV, oom=False) == Cause.CRASH
