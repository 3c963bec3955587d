"""Who ended a process and what follows from it, over what the policy really says."""

import signal

import pytest
from msgspec.structs import replace

from bkd.supervisor import actions, events
from bkd.supervisor.cluster import Step, Verdict
from bkd.supervisor.facts import ReleaseFailed, WorkerExited
from bkd.supervisor.forensics import postmortem
from bkd.supervisor.forensics.culprit import Home
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
    subject = Subject(row.slot, row.pid, row.start, "web", Home("/srv/shop", "myshop"), row, by)
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
    assert (found.served, found.rss, found.pss, found.home) == (31, 90 << 20, 40 << 20, ("/srv/shop", "myshop"))
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


def ending(drive, until):
    """The row of web.1 when it has come so far with its end."""
    found = []
    while not (found := [row for row in drive.slot("web.1").workers if row.ending and row.ending.step == until]):
        drive.later(1.0)
    return found[0]


def test_bkd_did_when_it_did_not_end_in_time(drive):
    drive.happen(events.StopAsked("bkd stop"))
    row = ending(drive, Step.KILLED)
    drive.ends(row, -signal.SIGKILL)
    assert report(drive, row).sender == "bkd: SIGKILL, since it did not end in time"


def test_bkd_did_by_sigterm(drive):
    drive.happen(events.StopAsked("bkd stop"))
    row = ending(drive, Step.TERMED)
    drive.ends(row, -signal.SIGTERM)
    assert report(drive, row).sender == "bkd: SIGTERM"


def test_bkd_did_at_once_when_that_was_asked_for(drive):
    drive.asks(hard=True)
    drive.loads(2)
    row = ending(drive, Step.KILLED)
    drive.ends(row, -signal.SIGKILL)
    assert report(drive, row).sender == "bkd: SIGKILL at once, since that was asked for"


def test_progress_after_the_order_to_end_is_no_negative_age(drive):
    while not drive.did(actions.Condemn):
        drive.later(1.0)
    row = next(row for row in drive.slot("web.1").workers if row.ending is not None)
    later = replace(row, progress=row.ending.since + 1.0)
    subject = Subject("web.1", row.pid, row.start, "web", Home(""), later)
    assert postmortem.of_living(subject, 1e9, drive.now).age == 0.0


def test_a_release_on_trial(drive):
    drive.asks()
    drive.loads(2)
    (row,) = [row for slot in drive.slots() for row in slot.workers if row.release == 2]
    before = drive.cluster
    drive.ends(row, -signal.SIGSEGV)
    fact = drive.told(WorkerExited)[-1]
    assert postmortem.decision(before, fact, asked=False) == "release 2 is on trial: its roll is judged by this"
    while drive.group().roll is not None:
        drive.later(1.0)
    assert report(drive, row).decision == "release 1 goes on serving"


def test_another_signal_is_not_the_operators(drive):
    row = drive.worker("web.1")
    drive.happen(events.Signalled(row.id, signal.SIGUSR1))
    assert explained(drive, "web.1", -signal.SIGKILL, by="alice (pid 7)").sender == postmortem.OTHERS


def test_a_hang(drive):
    row = drive.worker("web.1")
    while not drive.did(actions.Condemn):
        drive.later(1.0)
    living = postmortem.of_living(
        Subject("web.1", row.pid, row.start, "web", Home(""), hung(drive, row)), 1e9, drive.now
    )
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


SHOP = Home("/srv/shop", "myshop")


def test_an_import_that_failed():
    fact = ReleaseFailed(group="web", release=3, reason="ModuleNotFoundError: No module named 'x'", trace="Traceback")
    found = postmortem.of_load(fact, SHOP, 1e9, 7, 17, "release 2 goes on serving")
    assert (found.slot, found.pid, found.start, found.release, found.home) == ("web.zygote", 7, 17, 3, SHOP)
    assert (found.cause, found.trace, found.ended) == ("boot failure", "Traceback", True)
    assert found.decision == "release 2 goes on serving"


def imported(drive, release):
    """The report of an import that does not end."""
    while not drive.told(ReleaseFailed):
        drive.later(1.0)
    fact = drive.told(ReleaseFailed)[-1]
    return postmortem.of_load(fact, SHOP, 1e9, 7, 17, postmortem.after_load(drive.cluster, "web", release))


def test_an_import_that_does_not_end_at_the_first_start():
    found = imported(Drive(web(start_timeout=4.0)), 1)
    assert found.reason == "its import took longer than start_timeout (4 s)"
    assert found.decision.startswith("tried again after ")
    whole = postmortem.hanging(found, loaded=False)
    assert (whole.cause, whole.verdict, whole.sender) == ("boot failure", "slow boot", "bkd: SIGKILL")
    stuck = postmortem.hanging(found, loaded=True)
    assert (stuck.cause, stuck.verdict) == ("hung", "stuck")


def test_an_import_that_does_not_end_in_a_roll():
    drive = Drive(web(start_timeout=4.0)).up()
    drive.asks()
    assert imported(drive, 2).decision == "release 1 goes on serving"


def test_an_import_that_failed_when_the_cluster_stops_or_the_group_is_gone(drive):
    drive.happen(events.StopAsked("bkd stop"))
    assert postmortem.after_load(drive.cluster, "web", 1) == "nothing is started again: the cluster stops"
    assert postmortem.after_load(drive.cluster, "nobody", 1) == "the group is gone"


def test_what_the_command_is_told_leads_to_the_report():
    drive = Drive(web(start_timeout=4.0))
    imported(drive, 1)
    assert drive.told(ReleaseFailed)[-1].reason.endswith(", see `bkd why web.zygote`")


KILLED = (
    "Memory cgroup out of memory: Killed process 4711 (bkd: shop web.1) total-vm:912340kB, anon-rss:421340kB, "
    "file-rss:12kB, shmem-rss:0kB, UID:0 pgtables:900kB oom_score_adj:0"
)
CHOSEN = "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,task=bkd: shop web.1,pid=4711,uid=0"
SAID = "the kernel: out of memory: killed process 4711 (bkd: shop web.1), which had 411 MB of its own"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([CHOSEN, KILLED], [SAID]),
        ([f"{KILLED} (a process of this name)"], [f"{SAID} (a process of this name)"]),
        (["Out of memory: Killed process 4711 (x)"], ["the kernel: out of memory: killed process 4711 (x)"]),
        (["python[7]: segfault at 0 ip 0"], ["python[7]: segfault at 0 ip 0"]),
        (["s" * 500], ["s" * postmortem.LONGEST_HINT]),
        ([], []),
    ],
)
def test_of_what_the_kernel_says_what_is_of_use(lines, expected):
    assert postmortem.kernel_hints(lines) == expected


def test_one_that_leaves_without_a_word_gets_one(drive):
    silent = explained(drive, "web.1", 3)
    assert postmortem.with_found(silent, Found()).hints == [postmortem.WORDLESS]
    told = Found(trace="Traceback"), Found(hints=("a hint",))
    assert [postmortem.with_found(silent, found).hints for found in told] == [[], ["a hint", postmortem.WORDLESS]]


@pytest.mark.parametrize(
    "changes", [{"kind": "command"}, {"reason": "ValueError"}, {"cause": "planned"}, {"signal": 9, "code": None}]
)
def test_others_need_none(drive, changes):
    assert postmortem.with_found(replace(explained(drive, "web.1", 3), **changes), Found()).hints == []


def test_what_was_found_is_added(drive):
    found = postmortem.with_found(explained(drive, "web.1", 3), Found("Traceback", None, ("a hint",), ("a line",)))
    assert (found.trace, found.hints, found.lines, found.code) == ("Traceback", ["a hint"], ["a line"], 3)
