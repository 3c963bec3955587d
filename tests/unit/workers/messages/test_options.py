"""Options of `enqueue` mean what they say, or are refused: none of them is passed over in silence."""

import datetime

import pytest

from bkd.ipc.durable.model import Conflict
from bkd.ipc.errors import RefusedError
from bkd.workers import Retry, enqueue
from bkd.workers.messages.draft import OPTIONS, draft, drafts

MOMENT = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)


@pytest.mark.parametrize("options", [{"idempotency_key": "7"}, {"dealy": "5m"}, {"key": "7", "max_retries": 3}])
def test_an_option_that_there_is_not_is_named_with_those_there_are(options):
    for make in (lambda: draft("a", None, 0, options), lambda: drafts("a", [1], 0, options)):
        with pytest.raises(TypeError, match=f"no option '{min(options.keys() - OPTIONS)}'; there are: .*key.*unique"):
            make()


def test_who_enqueues_hears_of_it_before_anything_is_sent():
    with pytest.raises(TypeError, match="no option 'idempotency_key'"):
        enqueue("a", idempotency_key="7").send(None)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"deadline": "1h", "on_deadline": "alerts"}, "on_deadline is one of expire, alert, not 'alerts'"),
        ({"unique": "u", "conflict": "replase"}, "conflict is one of return, reject, replace, again, not 'replase'"),
    ],
)
def test_a_word_that_means_nothing_is_refused_with_those_that_do(options, said):
    with pytest.raises(RefusedError) as refused:
        draft("a", None, 0, options)

    assert str(refused.value) == said


def test_words_may_be_text_or_members():
    for conflict in ("again", Conflict.AGAIN):
        assert draft("a", None, 0, {"conflict": conflict}).conflict is Conflict.AGAIN
    assert draft("a", None, 0, {"on_deadline": "alert"}).on_deadline == "alert"


@pytest.mark.parametrize("moment", ["2026-01-02", 1_767_312_000, MOMENT.replace(tzinfo=None), MOMENT.date()])
def test_a_moment_is_a_datetime_with_a_time_zone(moment):
    for make in (lambda: draft("a", None, 0, {"due": moment}), lambda: Retry(at=moment)):
        with pytest.raises(ValueError, match="time zone"):
            make()


def test_a_moment_is_kept_in_milliseconds():
    assert draft("a", None, 0, {"due": MOMENT}).due == 1_767_312_000_000


@pytest.mark.parametrize("kind", ["invoice send", "a\n", "k" * 101, "invoice;", " a"])
def test_a_kind_that_no_handler_can_have_is_refused(kind):
    for make in (lambda: draft(kind, None, 0, {}), lambda: drafts(kind, [1], 0, {})):
        with pytest.raises(RefusedError, match="no kind of message"):
            make()


@pytest.mark.parametrize("kind", ["a", "invoice.send", "счёт:7/x@y+z-w_", "k" * 100])
def test_a_kind_that_a_handler_can_have_goes_through(kind):
    assert draft(kind, None, 0, {}).kind == kind
