"""Who holds what, how much more there is room for, time limits, and deaths: without any process."""

from collections.abc import Iterator

import pytest

from bkd.ipc.durable.model import Counters, Outcome, Result, Task
from bkd.ipc.durable.policy import KindPolicy
from bkd.ipc.durable.wire import Cancel, Enlist, Frame, Held
from bkd.workers.dispatch.burial import Death, buried
from bkd.workers.dispatch.demands import AGED, MOST_CLAIMS, Demands
from bkd.workers.dispatch.limits import NOTED, look, tell
from bkd.workers.dispatch.roster import MOST_AHEAD, MOST_CREDIT, Executor, Roster


class Wire:
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[Frame] = []

    def send(self, what: Frame) -> None:
        self.said.append(what)

    def close(self) -> None:
        self.said.append(Cancel(0, 0, "closed"))


@pytest.fixture
def roster() -> Roster:
    return Roster()


@pytest.fixture
def ids() -> Iterator[int]:
    return iter(range(1, 10_000))


def executor(
    roster: Roster, holder: int = 1, credit: int = 2, kinds: str = "a", mode: str = "shared", **more
) -> Executor:
    policies = [KindPolicy(kind, **more) for kind in kinds]
    one = Executor(holder, Enlist(f"jobs.{holder}", "jobs", holder, 1, mode, credit, policies), "h1")
    one.link = Wire()
    roster.add(one)
    return one


def task(id: int, kind: str = "a", holder: int = 1) -> Task:
    return Task(id, 1, kind, b"", Counters(1, 1), "", holder=holder)


def hand(roster: Roster, ids: Iterator[int], count: int, kind: str = "a", holder: int = 1) -> list[int]:
    mine = [next(ids) for _ in range(count)]
    for id in mine:
        assert roster.hand(task(id, kind, holder)) is not None
    return mine


def finish(roster: Roster, one: Executor, id: int, took: int = 0) -> None:
    assert roster.finish(one, Outcome(id, 1, Result.OK, 0, 1000, 1000 + took)) is not None


# -- room


def test_nothing_is_read_ahead_of_kinds_nobody_knows(roster, ids):
    one = executor(roster, credit=3)
    assert roster.room(one, 0.0) == (3, 3)

    hand(roster, ids, 2)

    assert roster.room(one, 0.0) == (1, 1)


def test_quick_kinds_are_read_ahead_and_slow_ones_never_are(roster, ids):
    one = executor(roster, credit=3)
    finish(roster, one, hand(roster, ids, 1)[0], took=1)
    assert roster.room(one, 0.0) == (3, 3 + MOST_AHEAD)

    finish(roster, one, hand(roster, ids, 1)[0], took=10_000)

    assert roster.room(one, 0.0) == (3, 3)


def test_as_much_is_read_ahead_as_is_done_in_a_fifth_of_a_second(roster, ids):
    one = executor(roster, credit=2)
    finish(roster, one, hand(roster, ids, 1)[0], took=40)

    assert roster.room(one, 0.0) == (2, 2 + 10)


def test_slow_ones_never_exceed_the_credit_however_much_is_read_ahead(roster, ids):
    one = executor(roster, credit=3, kinds="ab")
    roster.pace["a"] = 0.001
    hand(roster, ids, 50, "a")
    hand(roster, ids, 2, "b")

    of_any, altogether = roster.room(one, 0.0)

    assert of_any == 1
    assert altogether > 100


def test_nothing_more_is_read_ahead_while_all_places_are_taken_by_slow_ones(roster, ids):
    one = executor(roster, credit=1, kinds="ab")
    roster.pace["a"] = 0.001
    hand(roster, ids, 1, "b")

    assert roster.room(one, 0.0) == (0, 0)


def test_a_quick_one_that_lasts_counts_as_slow(roster, ids):
    one = executor(roster, credit=1)
    roster.pace["a"] = 0.001
    [id] = hand(roster, ids, 1)
    one.begin(Held(id, 1), 10.0)

    assert roster.room(one, 10.1)[1] > 100
    assert roster.room(one, 11.0) == (0, 0)


# -- demands


def test_executors_of_the_same_kinds_are_one_lane_and_the_least_loaded_is_served_first(roster, ids):
    executor(roster, 1, credit=3)
    executor(roster, 2, credit=3)
    hand(roster, ids, 2, holder=1)

    [demand] = Demands(roster).composed(0.0)

    assert demand.kinds == ("a",)
    assert demand.holders == (2, 2, 1, 2)


def test_paused_kinds_are_left_out(roster):
    executor(roster, kinds="ab")
    demands = Demands(roster)
    demands.paused = frozenset("a")
    assert [demand.kinds for demand in demands.composed(0.0)] == [("b",)]

    demands.paused = frozenset("ab")

    assert demands.composed(0.0) == []


def test_quick_kinds_have_a_lane_of_their_own_for_what_is_read_ahead(roster):
    executor(roster, credit=2, kinds="ab")
    roster.pace["a"] = 0.04

    both, quick = Demands(roster).composed(0.0)

    assert (both.kinds, len(both.holders)) == (("a", "b"), 2)
    assert (quick.kinds, len(quick.holders)) == (("a",), 10)


@pytest.mark.parametrize("change", ["draining", "condemned", "dead", "unlinked"])
def test_who_takes_nothing_more_gets_nothing_more(roster, change):
    one = executor(roster)
    one.draining, one.condemned, one.dead = change == "draining", change * (change == "condemned"), change == "dead"
    one.link = None if change == "unlinked" else one.link

    assert Demands(roster).composed(0.0) == []
    assert roster.hand(task(1)) is None


def test_a_turn_claims_no_more_than_its_bound(roster):
    for holder in range(1, 9):
        executor(roster, holder, credit=1000)

    assert [len(demand.holders) for demand in Demands(roster).composed(0.0)] == [MOST_CLAIMS]


def test_each_eighth_claim_is_aged_while_more_waits(roster):
    executor(roster)
    demands = Demands(roster)
    aged = []
    for _ in range(2 * AGED):
        aged.append(demands.composed(0.0)[0].aged)
        demands.claimed(in_full=True)

    assert [index + 1 for index, is_aged in enumerate(aged) if is_aged] == [AGED, 2 * AGED]


def test_without_a_backlog_no_claim_is_aged(roster):
    executor(roster)
    demands = Demands(roster)
    for _ in range(3 * AGED):
        assert not demands.composed(0.0)[0].aged
        demands.claimed(in_full=False)


# -- time limits


def begun(roster: Roster, ids: Iterator[int], **more) -> tuple[Executor, int]:
    one = executor(roster, **more)
    [id] = hand(roster, ids, 1)
    one.begin(Held(id, 1), 100.0)
    return one, id


def test_a_run_is_noted_told_and_its_executor_condemned(roster, ids):
    one, id = begun(roster, ids, timeout=10.0, grace=5.0)
    assert look(roster, 100.0).next == pytest.approx(100.0 + NOTED)

    noted = look(roster, 101.0)
    told = look(roster, 110.0)
    hard = look(roster, 115.0)

    assert [run.task.id for _, run in noted.noted] == [id]
    assert noted.next == pytest.approx(110.0)
    assert [run.why for _, run in told.told] == ["timeout"]
    assert told.condemned == [] and told.next == pytest.approx(115.0)
    assert hard.condemned == hard.doomed == [one] and hard.noted == hard.told == []
    assert "timeout of 10 s" in one.condemned
    assert look(roster, 115.5).condemned == []
    assert look(roster, 116.0)[2:4] == ([one], []), "it is asked for again, and told of once"


def test_alone_in_its_process_it_has_no_grace(roster, ids):
    one, _ = begun(roster, ids, timeout=10.0, grace=5.0, mode="exclusive")

    assert look(roster, 110.0).condemned == [one]


def test_without_a_timeout_a_run_may_last(roster, ids):
    begun(roster, ids, timeout=0.0)
    look(roster, 101.0)

    assert look(roster, 1e9) == ([], [], [], [], None)


def test_a_cancelled_run_has_the_grace_and_keeps_it_when_its_timeout_comes(roster, ids):
    one, id = begun(roster, ids, timeout=10.0, grace=5.0)

    assert tell(one.runs[id], "cancelled", 107.0)
    assert not tell(one.runs[id], "cancelled", 108.0)
    assert look(roster, 111.0).condemned == []
    assert look(roster, 112.0).condemned == [one]
    assert "(cancelled)" in one.condemned


def test_what_waits_in_an_executor_has_no_time_limit_yet(roster, ids):
    executor(roster, timeout=1.0)
    hand(roster, ids, 1)

    assert look(roster, 1e9).next is None


# -- deaths


def results(one: Executor, death: Death = Death("SIGSEGV")) -> dict[int, Result | None]:  # noqa: B008
    return {run.task.id: outcome and outcome.result for run, outcome in buried(one, death, 5000)}


def test_all_that_had_begun_are_suspected_and_what_had_not_is_not(roster, ids):
    one = executor(roster, credit=3)
    a, b, c = hand(roster, ids, 3)
    one.begin(Held(a, 1), 1.0)
    one.begin(Held(b, 1), 1.0)

    assert results(one) == {a: Result.LOST, b: Result.LOST, c: None}


def test_nobody_is_to_blame_for_a_death_that_was_wanted(roster, ids):
    one = executor(roster)
    a, b = hand(roster, ids, 2)
    one.begin(Held(a, 1), 1.0)

    assert results(one, Death("SIGTERM", charged=False)) == {a: Result.INTERRUPTED, b: None}
    one.draining = True
    assert results(one) == {a: Result.INTERRUPTED, b: None}


@pytest.mark.parametrize(("why", "result"), [("timeout", Result.TIMEOUT), ("cancelled", Result.CANCELLED)])
def test_only_the_one_that_did_not_end_pays_for_it(roster, ids, why, result):
    one = executor(roster, timeout=100.0, grace=1.0)
    a, b = hand(roster, ids, 2)
    one.begin(Held(a, 1), 1.0)
    one.begin(Held(b, 1), 1.0)
    tell(one.runs[a], why, 10.0)
    look(roster, 11.0)

    assert results(one, Death("SIGKILL", charged=True)) == {a: result, b: Result.INTERRUPTED}


def test_who_dies_before_it_says_what_began_makes_its_first_suspicious(roster, ids):
    one = executor(roster)
    a, b = hand(roster, ids, 2)

    assert results(one) == {a: Result.LOST, b: None}
    assert results(one, Death("SIGTERM", charged=False)) == {a: None, b: None}


def test_the_stage_it_was_in_is_not_lost(roster, ids):
    one = executor(roster)
    [a] = hand(roster, ids, 1)
    one.runs[a].stage = 1

    [(run, outcome)] = buried(one, Death(), 5000)

    assert run.now_task().stage == 1
    assert outcome is not None and outcome.stage == 1


def test_a_boundless_credit_is_cut(roster):
    one = executor(roster, credit=10**9)

    [demand] = Demands(roster).composed(0.0)

    assert one.credit == MOST_CREDIT
    assert len(demand.holders) == MOST_CLAIMS


def test_what_was_let_go_of_can_still_be_spoken_of(roster, ids):
    one, other = executor(roster), executor(roster, holder=2)
    [id] = hand(roster, ids, 1)
    assert roster.is_held_by_another(other, Held(id, 1))

    [run] = one.lose()

    assert one.runs == {} and not roster.is_held_by_another(other, Held(id, 1))
    assert roster.lost() == {Held(id, 1): run}
    assert roster.finish(one, Outcome(id, 1, Result.OK)) is run
    assert roster.finish(one, Outcome(id, 2, Result.OK)) is None
