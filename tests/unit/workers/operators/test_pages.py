"""What operators read: documents, tables, explanations."""

import pytest

from bkd.ipc.durable.model import Attempt, Counters, Result, State
from bkd.ipc.durable.policy import KindPolicy
from bkd.workers.operators import documents, pages
from bkd.workers.operators.explain import Surroundings, explain
from bkd.workers.operators.selection import Selection, Usage, filter_of
from bkd.workers.store.protocol import Control, Deed, Row, Story, Tally

NOW = 1_760_000_000_000
POLICIES = {"invoice.send": KindPolicy("invoice.send", stages=("send", "apply"), max_attempts=4)}
CONTROL = Control("a", paused=True, by="root", at=NOW - 60_000, reason="mail is down")


def row(state: State, **more) -> Row:
    given = {"id": 7, "guid": "g" * 36, "kind": "invoice.send", "stage": 1, "priority": 50, "created": NOW - 90_000}
    return Row(**{**given, "state": state, "due": NOW - 90_000, "counters": Counters(2, 2), "max_attempts": 0, **more})


def story(state: State, attempts=(), deeds=(), **more) -> Story:
    return Story(row(state, **more), list(attempts), list(deeds), [b'{"sent":true}'], [], [])


def lines(state: State, tally: Tally | None = None, **more) -> list[str]:
    deeds = more.pop("deeds", ())
    return explain(story(state, deeds=deeds, **more), Surroundings(POLICIES, NOW, tally, CONTROL))


@pytest.mark.parametrize(
    ("state", "more", "words"),
    [
        (State.RUNNING, {"worker": "jobs.1@h1", "leased": NOW - 5000}, ["running on jobs.1@h1 since 5s ago"]),
        (State.RUNNING, {"worker": "jobs.1@h1", "leased": NOW, "cancelling": True}, ["asked to end"]),
        (State.RETRY_SCHEDULED, {"due": NOW + 30_000}, ["in 30s", "2 of 4 attempts in stage apply were not"]),
        (
            State.RETRY_SCHEDULED,
            {"due": NOW + 30_000, "counters": Counters(1, 1), "max_attempts": 1},
            ["1 of 1 attempt in stage apply was not enough"],
        ),
        (State.DEAD_LETTER, {"reason": "poison", "error": "SIGSEGV", "finished": NOW}, ["ended the", "SIGSEGV"]),
        (State.DEAD_LETTER, {"reason": "exhausted", "finished": NOW}, ["as often as it may", "bkd message retry 7"]),
        (State.SUCCEEDED, {"finished": NOW - 1000}, ["it has succeeded: 1s ago, in run 2"]),
        (State.CANCELLED, {"deeds": [Deed(NOW, "uid 0 (root)", "cancel")], "finished": NOW}, ["by uid 0 (root)"]),
        (State.BLOCKED, {"reason": "unique"}, ["it is blocked: unique"]),
        (State.QUEUED, {}, ["due since", "free executor"]),
    ],
)
def test_why_says_what_is_the_matter(state, more, words):
    text = "\n".join(lines(state, **more))
    assert all(word in text for word in words), text


@pytest.mark.parametrize(
    ("tally", "word"),
    [
        (
            Tally("invoice.send", {}, paused=True),
            "is paused by root 1m ago: mail is down; `bkd message resume invoice.send`",
        ),
        (Tally("invoice.send", {}, handled=False), "no living host has a handler"),
        (Tally("invoice.send", {State.RUNNING: 3}, max_running=3), "3 of invoice.send run already"),
        (Tally("invoice.send", {State.QUEUED: 40}), "40 of its kind are queued"),
    ],
)
def test_why_a_due_message_waits(tally, word):
    assert word in "\n".join(lines(State.QUEUED, tally))


def test_a_document_has_names_and_times_and_decoded_arguments():
    told = documents.message(row(State.SUCCEEDED, args=b'{"id":5}', result=b"[1]", finished=NOW), POLICIES, NOW)
    assert told["stage"] == "apply"
    assert told["args"] == {"id": 5}
    assert told["result"] == [1]
    assert told["max_attempts"] == 4
    assert told["age"] == 90.0
    assert told["finished"] == "2025-10-09T08:53:20.000Z"
    assert told["due"] is None


def test_statistics_have_every_state():
    told = documents.tally(Tally("a", {State.QUEUED: 2}, oldest=1500), None)
    assert told["queued"] == 2
    assert told["oldest_age"] == 1.5
    assert {state.value for state in State} <= told.keys()
    assert all(told[state] == 0 for state in State if state != State.QUEUED)


def test_the_table_of_kinds_shows_states_that_are_there_and_remarks():
    tallies = [Tally("a", {State.QUEUED: 2, State.DEAD_LETTER: 1}, handled=False, paused=True)]
    table = pages.stats(tallies, {"a": CONTROL}, NOW, 0)
    header, line = table.splitlines()
    assert header.split() == ["KIND", "QUEUED", "RUNNING", "DEAD", "OLDEST"]
    assert "paused by root 1m ago: mail is down; no handler on any living host" in line


def test_what_is_shown_has_no_power_over_the_terminal():
    text = pages.listing([row(State.QUEUED, args=b'{"a":"\x1b[2J"}')], POLICIES, NOW, 0)
    assert "\x1b" not in text


def test_lines_are_cut_at_the_width_of_the_terminal():
    text = pages.listing([row(State.QUEUED, args=b'"' + b"x" * 500 + b'"')], POLICIES, NOW, 60)
    assert max(map(len, text.splitlines())) == 60


def test_the_page_of_a_message_has_its_attempts_and_actions():
    attempt = Attempt(
        7, 1, 1, 0, "jobs.1@h1", 12, NOW - 2000, NOW - 1000, Result.ERROR, "retryable", "OSError", "no", "Trace\n  line"
    )
    told = story(State.QUEUED, [attempt], [Deed(NOW, "uid 0 (root)", "retry")])
    page = pages.page(told, ["it waits"], POLICIES, NOW)
    for words in ("jobs.1@h1: error, 1s", "OSError: no", "|   line", "uid 0 (root): retry", "1 finished before it"):
        assert words in page, page


@pytest.mark.parametrize(
    ("counters", "most", "text"),
    [
        (Counters(1, 1, 1, 1), 1, "1 of 1 attempt, 1 run, 1 crash, 1 found the lock taken"),
        (Counters(2, 1, 2), 5, "1 of 5 attempts, 2 runs, 2 crashes"),
        (Counters(2, 2), 0, "2 of 4 attempts, 2 runs"),
    ],
)
def test_the_page_of_a_message_says_how_often_it_was_tried(counters, most, text):
    told = story(State.QUEUED, counters=counters, max_attempts=most)
    assert f"tried     {text}\n" in pages.page(told, ["it waits"], POLICIES, NOW)


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"states": ["sleeping"]}, "no state 'sleeping'"),
        ({"ids": ["12x"]}, "'12x' is no message"),
        ({"error": "bad"}, "no error class"),
        ({"reason": "bad"}, "no reason"),
    ],
)
def test_a_selection_that_means_nothing_is_refused(given, word):
    with pytest.raises(Usage, match=word):
        filter_of(Selection(**given))


def test_a_selection_becomes_a_filter():
    chosen = filter_of(Selection(ids=["5", "G" * 36], states=["waiting"], where=[("a.b", 5)], older=1.5, over=3))
    assert chosen.ids == (5,)
    assert chosen.guids == ("g" * 36,)
    assert State.BLOCKED in chosen.states
    assert State.RUNNING not in chosen.states
    assert chosen.where == (("a.b", 5),)
    assert chosen.older == 1500
    assert chosen.runs_over == 3


def test_the_errors_of_handlers_have_no_power_over_the_terminal_either():
    evil = "\x1b[31mred\nnext"
    attempt = Attempt(7, 1, 1, 0, "jobs.1@h1", 12, NOW, NOW, Result.ERROR, "retryable", evil, evil, evil)
    told = story(State.DEAD_LETTER, [attempt], reason="exhausted", error=evil, finished=NOW)
    why = explain(told, Surroundings(POLICIES, NOW))
    assert "\x1b" not in "".join(why) + pages.page(told, why, POLICIES, NOW)
    assert all("\n" not in line for line in why)
