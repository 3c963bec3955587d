"""Who ended a process and what follows from it, over what the policy really says."""

import signal

import pytest

from bkd.supervisor import actions, events
from bkd.supervisor.cluster import Verdict
from bkd.supervisor.facts import ReleaseFailed, WorkerExited
from bkd.supervisor.forensics import postmortem
from bkd.supervisor.forensics.postmortem import Found, Subject

from .policy.drive import Drive, web

NAP = 5.0


def explained(drive: Drive, slot: str, code: int | None, *, oom: bool = False, by: str = ""):
    """The report of this death."""
    row = drive.worker(slot)
    drive.dies(slot, code, oom=oom)
    return report(drive, row, by)


def report(drive, row, by=""):
    fact = drive.told(WorkerExited)[-1]
    subject = Subject(row.slot, row.pid, row.start, "web", "/srv/shop", row, by)
    decision = postmortem.decision(drive.cluster, fact, asked=row.ending is not None)
    return postmortem.of_ended(subject, fact, decision, 1e9, drive.now)


@pytest.fixture
def drive():
    drive = Drive(web(count=4)).up()
    drive.ping("web.1", in_flight=2, served=31, rss=90 << 20, pss=40 << 20)
    drive.later(NAP)
    return drive


def test_what_it_was(drive):
    row = drive.worker("web.1")
    found = explained(drive, "web.1", -signal.SIGSEGV)
    assert (found.slot, found.pid, found.start, found.ended) == ("web.1", row.pid, row.start, True)
    assert (found.served, found.rss, found.pss, found.cwd) == (31, 90 << 20, 40 << 20, "/srv/shop")
    assert found.uptime >= NAP


@pytest.mark.parametrize(
    ("code", "oom", "cause", "sender"),
    [
        (3, False, "crash", ""),
        (-signal.SIGSEGV, False, "crash", ""),
        (-signal.SIGKILL, True, "out of memory", "the kernel: out of memory"),
        (-signal.SIGKILL, False, "killed from outside", postmortem.OTHERS),
        (-signal.SIGTERM, False, "killed from outside", postmortem.OTHERS),
        (None, False, "killed from outside", ""),
    ],
)
def test_who_ended_it(drive, code, oom, cause, sender):
    found = explained(drive, "web.1", code, oom=oom)
    assert (found.cause, found.sender) == (cause, sender)


@pytest.mark.parametrize("by", ["alice (pid 7)", ""])
def test_an_operator_did(drive, by):
    row = drive.worker("web.1")
    drive.happen(events.Signalled(row.id, signal.SIGKILL))
    found = explained(drive, "web.1", -signal.SIGKILL, by=by)
    assert found.sender == f"{by or 'an operator'}, by `bkd signal web.1 SIGKILL`"


def test_another_signal_is_not_the_operators(drive):
    row = drive.worker("web.1")
    drive.happen(events.Signalled(row.id, signal.SIGUSR1))
    assert explained(drive, "web.1", -signal.SIGKILL, by="alice (pid 7)").sender == postmortem.OTHERS


def test_a_hang(drive):
    row = drive.worker("web.1")
    while not drive.did(actions.Condemn):
        drive.later(1.0)
    living = postmortem.of_living(Subject("web.1", row.pid, row.start, "web", "", hung(drive, row)), 1e9, drive.now)
    assert (living.cause, living.verdict, living.ended) == ("hung", Verdict.STUCK, False)
    assert living.age >= 30
    hanging = hung(drive, row)
    drive.ends(hanging, -signal.SIGKILL)
    found = report(drive, hanging)
    assert found.sender.startswith("bkd: SIG")
    assert found.decision.startswith("its successor was started when it was found hung")


def hung(drive, row):
    return next(worker for worker in drive.slot(row.slot).workers if worker.id == row.id)


def test_at_once_and_after_a_delay(drive):
    first = explained(drive, "web.1", 3)
    assert first.decision == "started again at once (1 charged death in 10 minutes)"
    drive.ready("web.1")
    again = explained(drive, "web.1", 3)
    assert again.decision.startswith("tried again after ") and "2 charged deaths" in again.decision


def test_the_slot_stays_down(drive):
    assert explained(drive, "web.1", 78).decision.startswith("the slot stays down: exit code 78")


def test_held(drive):
    drive.happen(events.Held("web.1", True))
    assert "unhold" in explained(drive, "web.1", 1).decision


def test_the_cluster_stops(drive):
    row = drive.worker("web.1")
    drive.happen(events.StopAsked("bkd stop"))
    row = hung(drive, row)
    drive.ends(row, 0)
    found = report(drive, row)
    assert (found.cause, found.reason) == ("planned", "bkd stop")
    assert found.decision == "nothing is started again: the cluster stops"


def test_an_import_that_failed():
    fact = ReleaseFailed(group="web", release=3, reason="ModuleNotFoundError: No module named 'x'", trace="Traceback")
    found = postmortem.of_load(fact, "/srv/shop", 1e9, 17)
    assert (found.slot, found.pid, found.start, found.release) == ("web.zygote", 0, 17, 3)
    assert (found.cause, found.trace, found.ended) == ("boot failure", "Traceback", True)


def test_what_was_found_is_added(drive):
    found = postmortem.with_found(explained(drive, "web.1", 3), Found("Traceback", None, ("a hint",), ("a line",)))
    assert (found.trace, found.hints, found.lines, found.code) == ("Traceback", ["a hint"], ["a line"], 3)
