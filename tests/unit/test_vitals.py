"""The last minute of heartbeats."""

from bkd.ipc.message import Late, Ping
from bkd.ipc.stacks import Frame
from bkd.supervisor.forensics.vitals import EVERY, KEPT, Vitals


def heard(vitals, count, *, every=EVERY, **fields):
    for number in range(count):
        vitals.heard(1, Ping(rss=number, cpu=number * every / 2, **fields), number * every)


def test_oldest_first_with_the_share_of_a_cpu():
    vitals = Vitals()
    heard(vitals, 3)
    assert [(sample.age, sample.rss, sample.cpu) for sample in vitals.trend(1, 3 * EVERY)] == [
        (3 * EVERY, 0, 0.0),
        (2 * EVERY, 1, 0.5),
        (EVERY, 2, 0.5),
    ]


def test_of_quick_heartbeats_the_worst_is_kept():
    vitals = Vitals()
    for number, lag in enumerate([0.0, 0.7, 0.1]):
        vitals.heard(1, Ping(lag=lag, in_flight=number), number * EVERY / 4)
    assert [(sample.lag, sample.in_flight) for sample in vitals.trend(1, EVERY)] == [(0.7, 2)]


def test_there_is_a_bound():
    vitals = Vitals()
    heard(vitals, 3 * KEPT)
    assert len(vitals.trend(1, 0.0)) == KEPT == len(vitals.document(1)["rss"])


def test_where_it_was_late():
    vitals = Vitals()
    assert vitals.late(1, 0.0) is None
    frame = Frame("/srv/app.py", 7, "block")
    vitals.was_late(1, Late(1.25, [frame]), 10.0)
    found = vitals.late(1, 14.0)
    assert (found.age, found.seconds, found.frames) == (4.0, 1.25, [frame])


def test_nothing_is_kept_of_who_is_forgotten():
    vitals = Vitals()
    heard(vitals, 1)
    vitals.was_late(1, Late(1.0, []), 0.0)
    vitals.forget(1)
    assert (vitals.trend(1, 0.0), vitals.late(1, 0.0)) == ([], None)
    assert vitals.document(1) == {"seconds": EVERY, "rss": [], "cpu": [], "lag": [], "in_flight": []}
