"""What waits to be written: whole, in order, and nothing lost when it could not be."""

from hypothesis import given
from hypothesis import strategies as st

from bkd.ipc.durable.model import Counters, NewMessage, Settlement, State
from bkd.ipc.durable.wire import Held
from bkd.workers.dispatch.ledger import MOST_PUT, MOST_SETTLED, Ledger, Put, Report, StageToKeep
from bkd.workers.store.protocol import Stage


def settlements(count: int, first: int = 1) -> list[Settlement]:
    return [Settlement(id, 1, State.SUCCEEDED, Counters()) for id in range(first, first + count)]


@given(st.lists(st.integers(0, 700), max_size=12), st.data())
def test_batches_are_whole_reports_in_order_even_if_some_come_back(sizes, data):
    ledger = Ledger()
    reports = [Report(settlements(size)) for size in sizes]
    for report in reports:
        ledger.report(report)

    taken: list[Report] = []
    while ledger:
        batch = ledger.take()
        if data.draw(st.booleans()):
            ledger.put_back(batch)
            batch = ledger.take()
        assert sum(len(report.settlements) for report in batch.reports[:-1]) < MOST_SETTLED
        taken += batch.reports

    assert [id(report) for report in taken] == [id(report) for report in reports]


def test_the_newest_word_about_progress_counts():
    ledger = Ledger()
    ledger.progress(Held(1, 1), b"old")
    batch = ledger.take()
    ledger.progress(Held(1, 1), b"new")
    ledger.put_back(batch)

    assert ledger.take().progress == [(Held(1, 1), b"new")]


def test_puts_are_taken_together_and_given_up_when_they_have_waited_too_long():
    ledger = Ledger()
    puts = [Put([NewMessage("a")] * 900, lambda receipts, error: None, float(since)) for since in range(4)]
    for put in puts:
        ledger.put(put)

    taken = ledger.take_puts()
    assert sum(len(put.messages) for put in taken[:-1]) < MOST_PUT
    ledger.put_back_puts(taken)

    assert ledger.overdue_puts(2.0) == puts[:2]
    assert ledger.take_puts() == puts[2:]


def test_what_was_refused_waits_apart_with_all_that_belongs_to_it():
    ledger, told = Ledger(), []
    refused, other = settlements(2)
    held = Held(refused.id, refused.fence)
    ledger.refuse([Report([refused])])
    ledger.report(Report([other]))
    ledger.report(Report([], told.append, {held}))

    assert [report.settlements for report in ledger.take().reports] == [[other]]
    assert not ledger
    assert (ledger.refused, ledger.settling) == ({held}, {(refused.id, refused.fence)})

    again = ledger.take_refused().reports
    assert [(list(report.settlements), report.repeated) for report in again] == [([refused], set()), ([], {held})]
    assert not ledger.refused


def test_an_end_waits_for_its_stage():
    ledger = Ledger()
    [end] = settlements(1)
    stage = StageToKeep(Stage(end.id, end.fence, 0, b"1"), lambda kept: None)
    ledger.refuse([], [stage])
    ledger.report(Report([end]))

    assert ledger.take().reports == []
    batch = ledger.take_refused()
    assert (batch.stages, batch.settlements) == ([stage], [end])
