"""How a command goes, by what the hosts say of themselves and the others of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bkd.supervisor.bus.orders import Ack
from bkd.supervisor.fleet.progress import PENDING, FleetProgress, HostProgress

STATES = ["accepted", "running", "done", "failed", "refused", "expired", "skipped", "unreachable"]


def told(*states, host="h1"):
    """A host that said this, one after the other."""
    progress = HostProgress(host)
    for number, state in enumerate(states, 1):
        progress.take(Ack(host, number, state))
    return progress


def fleet(**states):
    """A command with its hosts in these states."""
    progress = FleetProgress.of("id", "restart", states)
    for host, state in states.items():
        progress.hosts[host].state = state
    return progress


def test_what_a_host_says_is_taken():
    host = HostProgress("h1")
    assert host.take(Ack("h1", 1, "running", step="web 1/4"))
    assert (host.state, host.step, host.took, host.is_over) == ("running", "web 1/4", None, False)
    assert host.take(Ack("h1", 2, "failed", "no module", took=1.5, code=1, out="o", err="e"))
    assert (host.state, host.reason, host.step, host.took) == ("failed", "no module", "", 1.5)
    assert (host.code, host.out, host.err, host.is_over) == (1, "o", "e", True)


def test_what_was_said_before_is_no_news():
    host = told("accepted", "running")
    assert not host.take(Ack("h1", 2, "running", step="again"))
    assert not host.take(Ack("h1", 1, "accepted"))
    assert (host.state, host.step) == ("running", "")


@pytest.mark.parametrize("state", [state for state in STATES if state not in PENDING and state != "unreachable"])
def test_what_is_over_stays_over(state):
    host = told("running", state)
    assert not host.take(Ack("h1", 9, "running"))
    assert not host.end("unreachable", "gone")
    assert host.state == state


def test_whoever_was_given_up_may_still_answer():
    host = HostProgress("h1")
    assert host.end("unreachable", "last seen 20s ago")
    assert not host.end("failed", "twice")
    assert host.take(Ack("h1", 1, "running"))
    assert not host.is_over
    assert host.take(Ack("h1", 2, "done", took=2.0))
    assert (host.state, host.reason) == ("done", "")


@given(st.lists(st.tuples(st.integers(1, 9), st.sampled_from(STATES)), max_size=12))
def test_numbers_only_grow_and_an_end_is_an_end(acks):
    host, seen = HostProgress("h1"), []
    for number, state in acks:
        before = (host.number, host.state, host.is_over)
        if host.take(Ack("h1", number, state)):
            assert number > before[0]
            assert not before[2] or before[1] == "unreachable"
            seen.append(number)
        else:
            assert (host.number, host.state, host.is_over) == before
    assert seen == sorted(set(seen))


def test_words_of_other_hosts_have_no_power_over_a_terminal():
    host = HostProgress("h1")
    host.take(Ack("h1", 1, "failed", reason="a\x1b]0;title\x07b", step="\x1b[2J"))
    assert "\x1b" not in host.describe() and "\x07" not in host.describe()
    assert host.reason.isprintable()


@pytest.mark.parametrize(
    ("host", "line"),
    [
        (HostProgress("h1"), "h1: asked"),
        (HostProgress("h1", "running", step="web 1/4"), "h1: running web 1/4"),
        (HostProgress("h1", "done", took=1.26), "h1: done in 1.3 s"),
        (HostProgress("h1", "failed", reason="no module", took=0.1), "h1: failed in 100 ms: no module"),
        (HostProgress("h1", "skipped", reason="h0 failed"), "h1: skipped: h0 failed"),
    ],
)
def test_a_host_in_one_line(host, line):
    assert host.describe() == line


def test_a_host_as_a_row():
    host = HostProgress("h1", "done", took=1.23456)
    assert host.document() == {"host": "h1", "state": "done", "reason": None, "took": 1.235}
    assert HostProgress("h1").document() == {"host": "h1", "state": "accepted", "reason": None, "took": None}


@pytest.mark.parametrize(
    ("states", "code", "state"),
    [
        ({"a": "done", "b": "done"}, 0, "done"),
        ({"a": "done", "b": "failed"}, 1, "failed"),
        ({"a": "unreachable", "b": "refused"}, 1, "failed"),
        ({"a": "done", "b": "skipped"}, 1, "failed"),
        ({"a": "done", "b": "unreachable"}, 3, "partly"),
        ({"a": "expired"}, 3, "partly"),
        ({"a": "done", "b": "somethingnew"}, 3, "partly"),
    ],
)
def test_the_exit_code_of_the_whole(states, code, state):
    progress = fleet(**states)
    assert (progress.is_over, progress.code, progress.state) == (True, code, state)


def test_a_host_that_did_some_of_it_makes_the_whole_partly():
    progress = fleet(a="done", b="done")
    progress.hosts["b"].code = 3
    assert (progress.code, progress.state) == (3, "partly")


@pytest.mark.parametrize("state", sorted(PENDING))
def test_it_goes_on_as_long_as_one_host_does(state):
    assert fleet(a="done", b=state).state == "running"


def test_only_what_is_new_is_told():
    progress = fleet(a="", b="")
    assert progress.news() == []
    progress.hosts["a"].take(Ack("a", 1, "accepted"))
    assert (progress.news(), progress.news()) == (["a: accepted"], [])
    progress.hosts["a"].take(Ack("a", 2, "running"))
    progress.hosts["b"].take(Ack("b", 1, "accepted"))
    assert progress.news() == ["a: running", "b: accepted"]


def test_the_verdict_counts():
    assert fleet(a="done", b="done").verdict() == "restart: 2 of 2 hosts done"
    assert fleet(a="done", b="", c="failed", d="failed").verdict() == "restart: 1 of 4 hosts done, 1 asked, 2 failed"


def test_the_document():
    document = fleet(a="done", b="failed").document()
    assert (document["id"], document["verb"], document["state"]) == ("id", "restart", "failed")
    assert [row["host"] for row in document["hosts"]] == ["a", "b"]
