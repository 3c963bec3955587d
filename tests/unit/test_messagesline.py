"""The line of `bkd status` about durable messages."""

from bkd.supervisor.logfiles import clean
from bkd.supervisor.messagesline import describe
from bkd.supervisor.metrics.census import Tallies

STATES = ("queued", "running", "retry_scheduled", "waiting_remote", "blocked", "succeeded", "dead_letter")


def kind(name, *, paused=False, handled=True, oldest_age=0.0, **counts):
    return (
        {"kind": name, "paused": paused, "handled": handled, "oldest_age": oldest_age}
        | dict.fromkeys(STATES, 0)
        | counts
    )


def told(*kinds, url="sqlite:run/bkd.db"):
    return describe(url, Tallies(kinds, is_up=True)).splitlines()


def test_it_counts_over_all_kinds():
    rows = kind("a", queued=1200, running=2, dead_letter=1), kind("b", retry_scheduled=30, blocked=4, succeeded=900)

    assert told(*rows) == ["messages (sqlite)  1,234 waiting, 2 running, 1 dead letter"]
    assert told(url="postgresql://bkd:secret@db/shop") == [
        "messages (postgresql)  0 waiting, 0 running, 0 dead letters"
    ]


def test_it_says_what_keeps_some_from_being_run():
    rows = [kind(f"k{n}", paused=True, queued=1, oldest_age=900.0) for n in range(7)]
    rows += [kind("x", handled=False, queued=3, oldest_age=300.0), kind("y", handled=False, succeeded=3)]

    assert told(*rows) == [
        "messages (sqlite)  10 waiting, 0 running, 0 dead letters, the oldest due for 5m",
        "  ! paused: k0, k1, k2, k3, k4 and 2 more; `bkd message resume KIND` goes on",
        "  ! no handler on any living host for x",
    ]


def test_a_dispatcher_that_does_not_answer_is_no_empty_store():
    for tallies in (None, Tallies([kind("a", queued=1)], is_up=False)):
        line = describe("sqlite:x", tallies)
        assert line == "messages (sqlite)  how many there are is not known: the dispatcher has not answered"
    line = describe("sqlite:x", Tallies([], is_up=False, why="bkd: the disk\nis full"))
    assert line == "messages (sqlite)  how many there are is not known: " + clean("the disk\nis full")
