import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from bkd.ipc.errors import RefusedError
from bkd.supervisor.bus import rollout as rollouts
from bkd.supervisor.bus.outcome import Outcome, exit_code, outcome, verdict
from bkd.supervisor.bus.rollout import (
    EXPIRED,
    LAPSED,
    LEASE,
    PATIENCE,
    UNKNOWN,
    Over,
    Permit,
    Rollout,
    State,
    Turn,
    Wait,
)

T = 1_700_000_000.0


def begun(hosts: str = "h1 h2 h3", *, accepted: bool = True, batch: int = 1, max_fail: int = 0) -> Rollout:
    """A rollout that was begun at T, and that its hosts have accepted."""
    rollout = rollouts.begin(
        "r1", hosts.split(), verb="restart", groups=["web"], issuer="ann@h1", now=T, batch=batch, max_fail=max_fail
    )
    for host in hosts.split() if accepted else ():
        rollout = rollouts.accept(rollout, host, T).rollout
    return rollout


def permitted(rollout: Rollout, host: str, now: float = T) -> tuple[Rollout, int]:
    """The rollout with this host at work, and its fence."""
    rollout, answer = rollouts.claim(rollout, host, now)
    assert isinstance(answer, Permit)
    return rollout, answer.fence


def ended(rollout: Rollout, host: str, ok: bool = True, now: float = T + 1) -> Rollout:
    """The rollout after this host has done its work."""
    rollout, fence = permitted(rollout, host, now)
    changed, refused = rollouts.finish(rollout, host, fence, ok, "" if ok else "no module shop", now)
    assert not refused
    return changed


def states(rollout: Rollout) -> str:
    """The states of the hosts, in order."""
    return " ".join(turn.state for turn in rollout.hosts)


def reason(rollout: Rollout, host: str) -> str:
    """Why a host ended as it did."""
    turn = rollouts.find(rollout, host)
    assert turn is not None
    return turn.reason


# -- beginning


def test_hosts_are_in_the_order_of_their_names_and_each_is_there_once():
    rollout = begun("h3 h1 h2 h1", accepted=False)
    assert [turn.host for turn in rollout.hosts] == ["h1", "h2", "h3"]
    assert states(rollout) == "waiting waiting waiting"
    assert (rollout.version, rollout.fence, rollout.issued) == (1, 0, T)


def test_a_rollout_of_no_host_is_refused():
    with pytest.raises(RefusedError, match="no host was found"):
        begun("")


def test_more_hosts_than_fit_into_a_letter_are_refused():
    with pytest.raises(RefusedError, match="900 hosts are too many for one rollout; narrow it with --tag or --host"):
        begun(" ".join(f"web-{n:04}.example.net" for n in range(900)), accepted=False)


@pytest.mark.parametrize("width", [4, 20, 60, 250])
def test_the_largest_document_fits_into_a_letter_whatever_becomes_of_it(width):
    def asked(count: int) -> Rollout:
        names = [f"{n:0{width}}" for n in range(count)]
        return rollouts.begin("f" * 24, names, verb="restart", groups=["web"], issuer="ann@h1", now=T)

    most = 1
    with pytest.raises(RefusedError):
        for most in range(1, 2000):
            asked(most)
    rollout = rollouts.abort(asked(most - 1), "ü" * 5000, T).rollout
    turns = tuple(replace(t, state=State.UNREACHABLE, fence=1 << 20, took=0.1, began=T) for t in rollout.hosts)
    rollout = replace(rollout, hosts=turns, version=1 << 40, fence=1 << 20)
    assert len(msgspec.msgpack.encode(rollout)) < 64 * 1024 - 512


def test_it_comes_back_from_the_wire_as_it_was():
    rollout = ended(begun(), "h1")
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(rollout), type=Rollout) == rollout


@pytest.mark.parametrize(
    ("text", "hosts", "batch"),
    [("1", 9, 1), ("5", 3, 5), ("20%", 10, 2), ("20%", 4, 1), ("1%", 1, 1), ("100%", 7, 7), ("33%", 10, 3)],
)
def test_a_batch_is_a_number_or_a_share(text, hosts, batch):
    assert rollouts.batch_of(text, hosts) == batch


@pytest.mark.parametrize("text", ["", "0", "0%", "-1", "101%", "%", "2.5", "two", "10%%", "²", "1e3", "9" * 30, " 2"])
def test_what_is_no_batch_is_refused_in_a_line(text):
    with pytest.raises(ValueError, match=r"is no batch: give a number of hosts \(2\) or a share of them \(20%\)"):
        rollouts.batch_of(text, 10)


# -- answering


def test_a_host_that_has_not_answered_in_time_is_passed_over_and_may_not_begin_later():
    rollout = rollouts.accept(begun(accepted=False), "h2", T + 1).rollout
    before, answer = rollouts.claim(rollout, "h2", T + PATIENCE - 0.001)
    assert answer == Wait(T + PATIENCE, "h1 has not answered yet")
    assert before is rollout
    rollout, answer = rollouts.claim(rollout, "h2", T + PATIENCE)
    assert isinstance(answer, Permit)
    assert states(rollout) == "unreachable running unreachable"
    assert reason(rollout, "h1") == "it did not answer within 15 s"
    assert rollouts.accept(rollout, "h1", T + 16).refused == "h1 is unreachable: it did not answer within 15 s"
    assert rollouts.claim(rollout, "h1", T + 16) == (
        rollout,
        Over(State.UNREACHABLE, "it did not answer within 15 s"),
    )


def test_the_time_to_answer_can_be_another():
    rollout = rollouts.begin("r", ["h1"], verb="stop", groups=[], issuer="ann@h1", now=T, patience=300.0)
    assert rollouts.advance(rollout, T + 299) is rollout
    assert reason(rollouts.advance(rollout, T + 300), "h1") == "it did not answer within 300 s"


def test_an_answer_that_is_too_late_does_not_count_even_if_nobody_has_noticed():
    changed, refused = rollouts.accept(begun(accepted=False), "h1", T + PATIENCE)
    assert refused
    assert states(changed) == "unreachable unreachable unreachable"


def test_to_accept_twice_changes_nothing():
    rollout = begun()
    assert rollouts.accept(rollout, "h2", T + 1) == (rollout, "")
    assert rollouts.accept(rollout, "h2", T + 1).rollout is rollout


def test_to_claim_is_to_accept():
    rollout, answer = rollouts.claim(begun(accepted=False), "h1", T)
    assert answer == Permit(1, T + LEASE)
    assert states(rollout) == "running waiting waiting"


def test_a_refusal_skips_all_who_have_not_begun():
    rollout, refused = rollouts.refuse(begun(), "h2", T, "no group web here")
    assert not refused
    assert states(rollout) == "skipped refused skipped"
    assert reason(rollout, "h1") == "h2 refused"
    assert reason(rollout, "h2") == "no group web here"


def test_who_is_at_work_cannot_refuse():
    rollout, _ = permitted(begun(), "h1")
    assert rollouts.refuse(rollout, "h1", T, "no") == (rollout, "h1 is running")


@pytest.mark.parametrize("host", ["h9", "", "H1"])
def test_a_host_that_has_no_part_in_it_changes_nothing(host):
    rollout = begun()
    why = f"{host} has no part in this rollout"
    assert rollouts.accept(rollout, host, T) == (rollout, why)
    assert rollouts.refuse(rollout, host, T, "no") == (rollout, why)
    assert rollouts.claim(rollout, host, T) == (rollout, Over(State.SKIPPED, why))
    assert rollouts.renew(rollout, host, 1, T) == (rollout, why)
    assert rollouts.finish(rollout, host, 1, True, "", T) == (rollout, why)


# -- beginning in turn


def test_hosts_begin_one_after_the_other():
    rollout = begun()
    for host in ("h3", "h2"):
        assert isinstance(rollouts.claim(rollout, host, T).answer, Wait)
    rollout, fence = permitted(rollout, "h1")
    assert rollouts.claim(rollout, "h2", T + 1).answer == Wait(T + LEASE, "h1 is at work")
    rollout = rollouts.finish(rollout, "h1", fence, True, "", T + 2.5).rollout
    assert rollouts.claim(rollout, "h3", T + 3).answer == Wait(T + 2.5 + PATIENCE, "h2 goes first")
    assert isinstance(rollouts.claim(rollout, "h2", T + 3).answer, Permit)
    assert rollouts.find(rollout, "h1") == Turn("h1", State.DONE, 1, took=2.5, began=T)


def test_so_many_as_the_batch_are_at_work_at_once():
    rollout = begun("h1 h2 h3", batch=2)
    rollout, first = permitted(rollout, "h1")
    rollout, second = permitted(rollout, "h2")
    assert isinstance(rollouts.claim(rollout, "h3", T).answer, Wait)
    rollout = rollouts.finish(rollout, "h2", second, True, "", T + 1).rollout
    rollout, third = permitted(rollout, "h3", T + 1)
    assert states(rollout) == "running done running"
    assert first < second < third == rollout.fence


def test_in_a_batch_too_nobody_begins_before_an_earlier_name():
    rollout = begun("h1 h2 h3", batch=3)
    assert isinstance(rollouts.claim(rollout, "h2", T).answer, Wait)


def test_a_permit_that_was_given_is_told_again_and_nothing_changes():
    rollout, fence = permitted(begun(), "h1")
    assert rollouts.claim(rollout, "h1", T + 3) == (rollout, Permit(fence, T + LEASE, again=True))


def test_a_host_that_does_not_begin_when_its_turn_has_come_is_passed_over():
    rollout = ended(begun(), "h1")
    rollout = rollouts.advance(rollout, T + 1 + PATIENCE)
    assert states(rollout) == "done expired accepted"
    assert reason(rollout, "h2") == EXPIRED
    assert rollouts.claim(rollout, "h2", T + 60).answer == Over(State.EXPIRED, EXPIRED)
    assert isinstance(rollouts.claim(rollout, "h3", T + 20).answer, Permit)


def test_who_waits_for_others_has_all_the_time_in_the_world():
    rollout, fence = permitted(begun(), "h1")
    for second in range(5, 4000, 5):
        rollout, refused = rollouts.renew(rollout, "h1", fence, T + second)
        assert not refused
    assert states(rollout) == "running accepted accepted"


# -- leases


def test_a_lease_that_is_renewed_goes_on():
    rollout, fence = permitted(begun(), "h1")
    rollout, refused = rollouts.renew(rollout, "h1", fence, T + 19)
    assert not refused
    assert rollouts.advance(rollout, T + 38) is rollout


def test_a_lease_that_has_run_out_is_a_failure():
    rollout, fence = permitted(begun(), "h1")
    rollout = rollouts.advance(rollout, T + LEASE)
    assert states(rollout) == "failed skipped skipped"
    assert reason(rollout, "h1") == LAPSED
    assert reason(rollout, "h2") == "h1 failed"
    assert rollouts.find(rollout, "h1").took == LEASE
    assert rollouts.renew(rollout, "h1", fence, T + 21) == (rollout, f"h1 is failed: {LAPSED}")


def test_a_finish_after_the_lease_changes_nothing_and_says_so():
    rollout, fence = permitted(begun(), "h1")
    changed, refused = rollouts.finish(rollout, "h1", fence, True, "", T + LEASE)
    assert refused == f"h1 is failed: {LAPSED}"
    assert states(changed) == "failed skipped skipped"
    assert rollouts.finish(changed, "h1", fence, True, "", T + 21) == (changed, refused)


def test_a_finish_or_renewal_under_another_fence_changes_nothing_and_says_so():
    rollout, fence = permitted(begun(), "h1")
    why = f"h1 works under permit {fence}, not {fence - 1}"
    assert rollouts.finish(rollout, "h1", fence - 1, True, "", T + 1) == (rollout, why)
    assert rollouts.renew(rollout, "h1", fence - 1, T + 1) == (rollout, why)


def test_a_finish_counts_once():
    rollout = ended(begun(), "h1")
    assert rollouts.finish(rollout, "h1", 1, False, "no", T + 2) == (rollout, "h1 is done")


# -- failures


def test_a_failure_skips_all_who_have_not_begun_and_leaves_the_others_at_work():
    rollout, first = permitted(begun("h1 h2 h3", batch=2), "h1")
    rollout, second = permitted(rollout, "h2")
    rollout = rollouts.finish(rollout, "h2", second, False, "no module shop", T + 1).rollout
    assert states(rollout) == "running failed skipped"
    assert rollouts.claim(rollout, "h3", T + 1).answer == Over(State.SKIPPED, "h2 failed")
    assert not rollouts.is_over(rollout)
    rollout = rollouts.finish(rollout, "h1", first, True, "", T + 2).rollout
    assert states(rollout) == "done failed skipped"
    assert rollouts.is_over(rollout)


def test_so_many_failures_as_allowed_stop_nothing():
    rollout = ended(begun("h1 h2 h3 h4", max_fail=1), "h1", ok=False)
    assert states(rollout) == "failed accepted accepted accepted"
    rollout = ended(rollout, "h2")
    rollout = rollouts.refuse(rollout, "h4", T + 2, "held").rollout
    assert states(rollout) == "failed done skipped refused"
    assert reason(rollout, "h3") == "h1 failed, h4 refused"


def test_unreachable_hosts_are_no_failures():
    rollout = rollouts.accept(begun("h1 h2 h3", accepted=False), "h3", T).rollout
    assert isinstance(rollouts.claim(rollout, "h3", T + PATIENCE).answer, Permit)


def test_a_reason_is_one_line_and_not_a_long_one():
    rollout, fence = permitted(begun(), "h1")
    changed = rollouts.finish(rollout, "h1", fence, False, "a\n  b\t" + "x" * 9999, T + 1).rollout
    assert reason(changed, "h1").startswith("a b xxx")
    assert len(reason(changed, "h1")) == 200


# -- aborting


def test_an_abort_skips_who_waits_and_leaves_who_works():
    rollout, fence = permitted(begun(), "h1")
    rollout, refused = rollouts.abort(rollout, "bob@h2", T + 1)
    assert not refused
    assert states(rollout) == "running skipped skipped"
    assert reason(rollout, "h3") == "aborted by bob@h2"
    rollout = rollouts.finish(rollout, "h1", fence, True, "", T + 2).rollout
    assert outcome(rollout) == Outcome.ABORTED
    assert exit_code(rollout) == 1


def test_an_abort_of_what_nobody_waits_for_is_refused():
    rollout, _ = permitted(begun("h1"), "h1")
    assert rollouts.abort(rollout, "bob", T) == (
        rollout,
        "nothing is left to abort: nobody waits any more, who is at work goes on",
    )
    over = ended(begun("h1"), "h1")
    assert rollouts.abort(over, "bob", T).refused == "nothing is left to abort: nobody waits any more, it is over"


def test_nobody_accepts_what_was_aborted():
    rollout = rollouts.abort(begun(accepted=False), "bob", T).rollout
    assert rollouts.accept(rollout, "h1", T).refused == "h1 is skipped: aborted by bob"


# -- what came of it


@pytest.mark.parametrize(
    ("found", "came", "code"),
    [
        ("done done", Outcome.DONE, 0),
        ("done failed", Outcome.FAILED, 1),
        ("refused", Outcome.FAILED, 1),
        ("done skipped", Outcome.ABORTED, 1),
        ("skipped unreachable", Outcome.ABORTED, 1),
        ("failed skipped expired", Outcome.FAILED, 1),
        ("done unreachable", Outcome.PARTLY, 3),
        ("expired", Outcome.PARTLY, 3),
        ("unreachable unreachable", Outcome.PARTLY, 3),
        ("failed running", Outcome.RUNNING, 3),
        ("done accepted", Outcome.RUNNING, 3),
        ("waiting", Outcome.RUNNING, 3),
    ],
)
def test_the_outcome_and_the_exit_code(found, came, code):
    turns = tuple(Turn(f"h{n}", State(state)) for n, state in enumerate(found.split()))
    rollout = replace(begun(), hosts=turns)
    assert (outcome(rollout), exit_code(rollout)) == (came, code)
    assert rollouts.is_over(rollout) is (came != Outcome.RUNNING)


def test_the_verdict_says_who_and_why_in_one_line():
    rollout = ended(ended(begun("h1 h2 h3 h4"), "h1"), "h2", ok=False)
    assert verdict(rollout) == (
        "restart of web: 1 of 4 hosts done; h2 failed: no module shop; h3, h4 skipped: h2 failed"
    )


def test_the_verdict_of_many_names_a_few():
    rollout = replace(begun(" ".join(f"h{n}" for n in range(10, 19)), accepted=False), groups=())
    assert verdict(rollout) == "restart: 0 of 9 hosts done; h10, h11, h12, h13, h14 and 4 more waiting"


# -- what can have come after what


def test_each_change_is_newer_than_the_one_before_and_never_the_other_way_round():
    first = begun()
    second, fence = permitted(first, "h1")
    third = rollouts.renew(second, "h1", fence, T + 5).rollout
    fourth = rollouts.finish(third, "h1", fence, True, "", T + 6).rollout
    fifth = rollouts.abort(fourth, "bob", T + 7).rollout
    story = [begun(accepted=False), first, second, third, fourth, fifth]
    assert [rollout.version for rollout in story] == [1, 4, 5, 6, 7, 8]
    for number, old in enumerate(story):
        assert rollouts.newer(None, old)
        assert [rollouts.newer(old, new) for new in story] == [later > number for later in range(len(story))]


def test_what_goes_on_from_an_older_document_is_not_newer():
    before = begun()
    seen, _ = permitted(before, "h1")
    other = before
    for second in range(10):
        other = rollouts.abort(rollouts.accept(other, "h1", T).rollout, "x", T + second).rollout
    assert not rollouts.newer(seen, replace(other, version=99))


@pytest.mark.parametrize(
    "change",
    [
        {"id": "r2"},
        {"verb": "stop"},
        {"groups": ("jobs",)},
        {"issuer": "eve"},
        {"issued": T + 1},
        {"batch": 9},
        {"max_fail": 9},
        {"fence": 0},
        {"hosts": ()},
        {"hosts": (Turn("h1", State.RUNNING, 2), Turn("h2", State.DONE), Turn("h3"))},
        {"hosts": (Turn("h1", State.ACCEPTED), Turn("h2"), Turn("h3"))},
    ],
)
def test_what_undoes_something_is_not_newer(change):
    seen, _ = permitted(begun(), "h1")
    assert not rollouts.newer(seen, replace(seen, version=99, **change))


def test_an_abort_is_not_undone():
    seen = rollouts.abort(begun(), "bob", T).rollout
    assert not rollouts.newer(seen, replace(seen, version=99, aborted=""))


# -- a document that is gone


def test_when_the_document_is_gone_who_has_not_begun_has_failed():
    rollout, _ = permitted(begun(), "h1")
    gone = rollouts.lost(rollout, T + 1)
    assert states(gone) == "running failed failed"
    assert reason(gone, "h2") == UNKNOWN == "the rollout is not known any more"
    assert states(rollouts.advance(gone, T + LEASE)) == "failed failed failed"


# -- in general


def test_nothing_changes_while_nothing_happens():
    rollout = begun()
    assert rollouts.advance(rollout, T + 1) is rollout
    over = ended(begun("h1"), "h1")
    assert rollouts.advance(over, T + 1e6) is over
    assert rollouts.deadline(over) == 0.0


CALLS = ("accept", "refuse", "claim", "renew", "finish", "fail", "abort", "wait")


def called(rollout: Rollout, name: str, host: str, now: float) -> Rollout:
    turn = rollouts.find(rollout, host)
    fence = turn.fence if turn else 0
    return {
        "accept": lambda: rollouts.accept(rollout, host, now).rollout,
        "refuse": lambda: rollouts.refuse(rollout, host, now, "no").rollout,
        "claim": lambda: rollouts.claim(rollout, host, now).rollout,
        "renew": lambda: rollouts.renew(rollout, host, fence, now).rollout,
        "finish": lambda: rollouts.finish(rollout, host, fence, True, "", now).rollout,
        "fail": lambda: rollouts.finish(rollout, host, fence, False, "no", now).rollout,
        "abort": lambda: rollouts.abort(rollout, "bob", now).rollout,
        "wait": lambda: rollouts.advance(rollout, now),
    }[name]()


@given(
    st.lists(st.tuples(st.sampled_from(CALLS), st.sampled_from("abcd"), st.floats(0, 16)), max_size=40),
    st.integers(1, 3),
    st.integers(0, 2),
)
def test_whatever_is_called(calls, batch, max_fail):
    rollout, now = begun("a b c d", accepted=False, batch=batch, max_fail=max_fail), T
    for name, host, later in calls:
        now += later
        before, rollout = rollout, called(rollout, name, host, now)
        assert rollout is before or rollouts.newer(before, rollout)
        assert states(rollout).count("running") <= batch
        assert rollouts.is_over(rollout) or rollouts.deadline(rollout) > now or name == "wait"
        assert rollouts.advance(rollout, now) is rollout
    for _ in rollout.hosts:
        rollout = rollouts.advance(rollout, now := now + LEASE)
    assert rollouts.is_over(rollout)
