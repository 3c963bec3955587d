"""The executor in a real process, over a real socket, with a dispatcher that does what each test wants."""

import contextlib
import signal
import time
from pathlib import Path

import pytest

from bkd.ipc.durable.model import Counters, Fault, Result
from bkd.ipc.durable.wire import (
    Began,
    Cancel,
    Held,
    LockAnswered,
    LockAsked,
    Outcomes,
    PayloadAsked,
    PayloadPart,
    ProgressMade,
    Retiring,
    StageDone,
    StageKept,
    Stored,
)

from .executor.dispatcher import Dispatcher, Executor, Zygote, task, until


@pytest.fixture
def dispatcher(tmp_path):
    with contextlib.closing(Dispatcher(tmp_path / "messages.sock")) as dispatcher:
        yield dispatcher


@pytest.fixture(scope="module")
def zygote():
    with contextlib.closing(Zygote()) as zygote:
        yield zygote


@pytest.fixture
def start(zygote, dispatcher):
    """Starts an executor: itself, its connection, and what it said first."""
    executors = []

    def started(**options):
        executors.append(Executor(zygote, dispatcher.path, **options))
        connection, enlist = dispatcher.accept()
        executors[-1].ready()
        return executors[-1], connection, enlist

    yield started
    for executor in executors:
        executor.close()


@pytest.fixture
def shared(start):
    return start()[:2]


@pytest.fixture
def exclusive(start):
    return start(mode="exclusive")[:2]


def test_it_says_who_it_is_and_what_it_can_run(start):
    executor, _, enlist = start(concurrency=3)

    assert (enlist.slot, enlist.group, enlist.pid) == ("jobs.1", "jobs", executor.pid)
    assert (enlist.mode, enlist.credit, enlist.holds, enlist.draining) == ("shared", 3, [], False)
    kinds = {policy.name: policy for policy in enlist.kinds}
    assert kinds["staged"].stages == ("send", "apply")
    assert "alone" not in kinds


def test_handlers_of_one_mode_are_offered_there_alone(start):
    _, connection, enlist = start(mode="exclusive")

    assert enlist.credit == 1
    assert "alone" in {policy.name for policy in enlist.kinds}
    assert connection.outcome(task(1, "alone")).body == b'"alone"'


def test_results_come_back(shared):
    _, connection = shared

    before = time.time() * 1000 - 1
    outcome = connection.outcome(task(1, "add", {"a": 2, "b": 3}))

    assert (outcome.result, outcome.body, outcome.fence) == (Result.OK, b"5", 1)
    assert before <= outcome.started <= outcome.ended <= time.time() * 1000 + 1
    assert connection.outcome(task(2, "nothing")).body == b"null"
    assert b"handler-1" in connection.outcome(task(3, "plain")).body


@pytest.mark.parametrize("mode", ["shared", "exclusive"])
@pytest.mark.parametrize(
    ("word", "result", "fault", "code", "text", "after"),
    [
        ("retry", Result.RETRY, None, "Retry", "later", 7000),
        ("retry-returned", Result.RETRY, None, "Retry", "", 3000),
        ("reject", Result.REJECTED, Fault.FINAL, "Reject", "no such invoice", -1),
        ("invalid", Result.INVALID, Fault.FINAL, "Invalid", "no such entity", -1),
        ("snooze", Result.SNOOZED, None, "Snooze", "", 2000),
        ("error", Result.ERROR, Fault.RETRYABLE, "ValueError", "out of order", -1),
        ("exit", Result.ERROR, Fault.RETRYABLE, "SystemExit", "3", -1),
        ("large", Result.ERROR, Fault.FINAL, "ResultError", "70,002 bytes", -1),
        ("object", Result.ERROR, Fault.FINAL, "ResultError", "cannot be kept as JSON", -1),
    ],
)
def test_what_a_handler_says(said, mode, word, result, fault, code, text, after):
    outcome = said[mode, word]

    assert (outcome.result, outcome.fault, outcome.code, outcome.after) == (result, fault, code, after)
    assert text in outcome.text
    assert ("says" in outcome.stack) == (result is Result.ERROR and code != "ResultError")


@pytest.fixture(scope="module")
def said(zygote, tmp_path_factory):
    """What both modes make of each word."""
    words = ["retry", "retry-returned", "reject", "invalid", "snooze", "error", "exit", "large", "object"]
    outcomes = {}
    for mode in ("shared", "exclusive"):
        with contextlib.closing(Dispatcher(tmp_path_factory.mktemp(mode) / "messages.sock")) as dispatcher:
            executor = Executor(zygote, dispatcher.path, mode=mode)
            connection, _ = dispatcher.accept()
            connection.run(*(task(number, "says", {"word": word}) for number, word in enumerate(words)))
            found = connection.outcomes(len(words))
            outcomes |= {(mode, word): found[number] for number, word in enumerate(words)}
            executor.close()
    return outcomes


def test_arguments_are_checked_on_every_run(shared):
    _, connection = shared

    for number, args in enumerate([{}, {"a": "2"}, {"a": 2, "c": 3}, [1]]):
        outcome = connection.outcome(task(number, "add", args))
        assert (outcome.result, outcome.fault, outcome.started) == (Result.INVALID, Fault.FINAL, 0)
    assert connection.outcome(task(9, "add", {"a": 1})).body == b"2"


def test_errors_are_classed_by_the_kind_and_else_by_the_common_table(shared):
    _, connection = shared

    classes = {}
    for number, error in enumerate(["value", "permission", "key", "os"]):
        outcome = connection.outcome(task(number, "classed", {"error": error}))
        classes[error] = outcome.result, outcome.fault

    assert classes == {
        "value": (Result.ERROR, Fault.FINAL),
        "permission": (Result.ERROR, Fault.AUTH),
        "key": (Result.LOCKED, Fault.LOCK),
        "os": (Result.ERROR, Fault.RETRYABLE),
    }


def test_no_more_run_at_once_than_there_is_credit_for(start):
    executor, connection, _ = start(concurrency=2)

    connection.run(*(task(number, "sleep", {"seconds": 30}) for number in range(3)))

    assert connection.hear(Began).holds == [Held(0, 1), Held(1, 1)]
    assert executor.load() == {"load": [2, pytest.approx(0, abs=5), 0], "work": ["sleep 0", "sleep 1"]}
    connection.say(Cancel(0, 1, "cancelled"))
    connection.began(2)


def test_many_outcomes_travel_together(shared):
    executor, connection = shared

    connection.run(*(task(number, "nothing") for number in range(500)))
    outcomes = connection.outcomes(500)

    assert {outcome.result for outcome in outcomes.values()} == {Result.OK}
    frames = [frame for frame in connection.heard if isinstance(frame, Outcomes)]
    assert len(frames) <= 100
    assert executor.load()["load"][2] == 500


def test_beginning_is_said_before_the_first_line_runs(shared):
    executor, connection = shared

    connection.run(task(1, "dies"))

    assert connection.hear(Began).holds == [Held(1, 1)]
    assert connection.hear() is None
    assert executor.code() == -signal.SIGKILL


def test_a_lost_dispatcher_costs_nothing(shared, dispatcher):
    """It reconnects while it runs, says what it holds, and repeats what nobody has confirmed."""
    _, connection = shared
    connection.run(task(1, "sleep", {"seconds": 0.3}), task(2, "nothing"))
    connection.outcomes(store=False)
    dispatcher.die()
    dispatcher.open()

    connection, enlist = dispatcher.accept()

    assert sorted(enlist.holds, key=lambda held: held.id) == [Held(1, 1), Held(2, 1)]
    outcomes = connection.outcomes(2)
    assert (outcomes[1].body, outcomes[2].body) == (b'"slept"', b"null")
    assert connection.heard[1].outcomes[0].id == 2
    assert Began([Held(1, 1)]) in connection.heard


def test_an_outcome_is_repeated_under_its_number_until_it_is_stored(shared, dispatcher):
    _, connection = shared
    connection.run(task(1, "nothing"))
    first = connection.hear(Outcomes)
    for _ in range(2):
        connection.close()
        connection, enlist = dispatcher.accept()
        assert enlist.holds == [Held(1, 1)]
        assert connection.hear(Outcomes) == first
    connection.say(Stored(first.number))
    connection.outcome(task(2, "nothing"))
    connection.close()

    assert dispatcher.accept()[1].holds == []


def test_a_blocked_loop_keeps_the_connection_and_finds_the_next_one(shared, dispatcher, tmp_path):
    _, connection = shared
    connection.run(task(1, "block", {"path": str(tmp_path / "go")}))
    connection.began(1)
    connection.close()

    connection, enlist = dispatcher.accept()

    assert enlist.holds == [Held(1, 1)]
    assert connection.hear() == Began([Held(1, 1)])
    connection.run(task(2, "nothing"))
    (tmp_path / "go").touch()
    assert set(connection.outcomes(2)) == {1, 2}


def test_what_was_lost_meanwhile_is_cancelled_in_silence(start, dispatcher):
    _, connection, _ = start(concurrency=1)
    connection.run(task(1, "nothing"))
    connection.outcomes(store=False)
    connection.run(task(2, "sleep", {"seconds": 30}), task(3, "nothing"), task(4, "nothing"))
    connection.began(2)
    connection.close()

    connection, enlist = dispatcher.accept(lost=[Held(1, 1), Held(2, 1), Held(3, 1)])

    assert {held.id for held in enlist.holds} == {1, 2, 3, 4}
    assert set(connection.outcomes()) == {4}
    connection.close()
    assert dispatcher.accept()[1].holds == []


@pytest.mark.parametrize("mode", ["shared", "exclusive"])
@pytest.mark.parametrize(("why", "result"), [("cancelled", Result.CANCELLED), ("timeout", Result.TIMEOUT)])
def test_async_handlers_are_interrupted(start, mode, why, result):
    _, connection, _ = start(mode=mode)
    connection.run(task(1, "sleep", {"seconds": 30}))
    connection.began(1)

    connection.say(Cancel(1, 1, why))

    outcome = connection.outcomes()[1]
    assert (outcome.result, outcome.code) == (result, why)
    assert outcome.started
    assert connection.outcome(task(2, "nothing")).result is Result.OK


def test_what_waits_is_cancelled_without_having_run(start):
    _, connection, _ = start(concurrency=1)
    connection.run(task(1, "sleep", {"seconds": 30}), task(2, "nothing"))
    connection.began(1)

    connection.say(Cancel(2, 1, "cancelled"))

    outcome = connection.outcomes()[2]
    assert (outcome.result, outcome.started) == (Result.CANCELLED, 0)


def test_plain_handlers_can_look_whether_they_are_cancelled(shared, tmp_path):
    _, connection = shared
    connection.run(task(1, "thread-block", {"path": str(tmp_path / "never")}))
    connection.began(1)

    connection.say(Cancel(1, 1, "timeout"))

    assert connection.outcomes()[1].result is Result.TIMEOUT


def test_a_handler_that_is_done_all_the_same_is_done(shared, tmp_path):
    _, connection = shared
    connection.run(task(1, "stubborn", {"path": str(tmp_path / "go")}))
    connection.began(1)
    connection.say(Cancel(1, 1, "timeout"))
    (tmp_path / "go").touch()

    assert connection.outcomes()[1].result is Result.OK


def test_stages_are_kept_and_not_run_twice(shared):
    _, connection = shared
    connection.run(task(1, "staged"))

    assert connection.hear(StageDone) == StageDone(1, 1, 0, b'"send {}"')
    connection.run(task(2, "nothing"))
    assert set(connection.outcomes()) == {2}
    connection.say(StageKept(1, 1, 0))
    outcome = connection.outcomes()[1]
    assert (outcome.result, outcome.fault, outcome.stage) == (Result.ERROR, Fault.RETRYABLE, 1)

    again = task(1, "staged", fence=2, counters=Counters(2, 2), stage=1, outputs=[b'"send {}"'])
    outcome = connection.outcome(again)
    assert (outcome.body, outcome.stage) == (b"\"apply {'send': 'send {}'}\"", 1)
    assert not [frame for frame in connection.waiting if isinstance(frame, StageDone)]


def test_a_stage_is_told_again_to_the_next_dispatcher(shared, dispatcher):
    _, connection = shared
    connection.run(task(1, "staged", counters=Counters(2, 2)))
    done = connection.hear(StageDone)
    connection.close()
    connection, _ = dispatcher.accept()

    assert connection.hear(StageDone) == done
    connection.say(StageKept(1, 1, 0), StageKept(1, 1, 0))
    assert connection.outcomes()[1].result is Result.OK


def test_a_run_whose_stage_is_not_kept_says_nothing_more(shared):
    _, connection = shared
    connection.run(task(1, "staged"))
    connection.hear(StageDone)
    connection.say(StageKept(1, 1, 0, held=False))

    assert connection.outcome(task(2, "nothing")).id == 2


@pytest.mark.parametrize("kind", ["locked", "plain-locked"])
@pytest.mark.parametrize("mode", ["shared", "exclusive"])
def test_a_lock_is_asked_for_first(start, mode, kind):
    _, connection, _ = start(mode=mode, level="DEBUG")
    for id, granted in ((1, False), (2, True)):
        connection.run(task(id, kind, {"name": "invoice:7"}))
        assert connection.hear(LockAsked) == LockAsked(id, 1, "invoice:7")
        connection.say(LockAnswered(id, 1, "invoice:7", granted))
    outcomes = connection.outcomes(2)

    assert (outcomes[1].result, outcomes[1].fault, outcomes[1].started) == (Result.LOCKED, Fault.LOCK, 0)
    assert (outcomes[2].result, outcomes[2].body) == (Result.OK, b'"invoice:7"')


def test_no_lock_is_asked_for_without_a_key(shared):
    _, connection = shared

    assert connection.outcome(task(1, "locked", {"name": ""})).body == b'""'


@pytest.mark.parametrize("kind", ["locked", "plain-locked"])
def test_who_waits_for_a_lock_can_be_cancelled(shared, kind):
    _, connection = shared
    connection.run(task(1, kind, {"name": "invoice:7"}))
    connection.hear(LockAsked)

    connection.say(Cancel(1, 1, "cancelled"))

    assert connection.outcomes()[1].result is Result.CANCELLED


def test_progress_is_told_once_a_second(shared):
    _, connection = shared
    connection.run(task(1, "progress"))

    told = [connection.hear(ProgressMade).progress for _ in range(2)]

    assert told == [b'{"step":0}', b'{"step":4}']


@pytest.mark.parametrize("kind", ["payload", "plain-payload"])
@pytest.mark.parametrize("mode", ["shared", "exclusive"])
def test_payloads_come_in_parts(start, mode, kind):
    _, connection, _ = start(mode=mode)
    connection.run(task(1, kind, payload=5))
    for offset, data in ((0, b"abc"), (3, b"de")):
        assert connection.hear(PayloadAsked) == PayloadAsked(1, 1, offset)
        connection.say(PayloadPart(1, offset, data, offset > 0))

    assert connection.outcomes()[1].body == b"5"


def test_draining_gives_back_what_has_not_begun(start):
    executor, connection, _ = start(concurrency=1)
    connection.run(task(1, "sleep", {"seconds": 0.2}), task(2, "nothing"), task(3, "nothing"))
    connection.began(1)

    executor.drain()

    assert connection.hear(Retiring).unbegun == [Held(2, 1), Held(3, 1)]
    connection.run(task(4, "nothing"))
    assert connection.hear(Retiring).unbegun == [Held(4, 1)]
    assert connection.hear(Outcomes).outcomes[0].body == b'"slept"'
    assert Path(f"/proc/{executor.pid}").exists()
    connection.say(Stored(1))
    assert executor.code() == 0


def test_what_drains_says_so_to_the_next_dispatcher(start, dispatcher):
    executor, connection, _ = start(concurrency=1)
    connection.run(task(1, "sleep", {"seconds": 0.2}), task(2, "nothing"))
    connection.began(1)
    executor.drain()
    connection.hear(Retiring)
    connection.close()

    connection, enlist = dispatcher.accept()

    assert (enlist.draining, enlist.holds) == (True, [Held(1, 1)])
    connection.outcomes()
    assert executor.code() == 0


@pytest.mark.parametrize("mode", ["shared", "exclusive"])
def test_sigterm_interrupts_what_runs(start, mode):
    executor, connection, _ = start(mode=mode, concurrency=1)
    connection.run(task(1, "sleep", {"seconds": 30}), task(2, "nothing"))
    connection.began(1)
    began = time.monotonic()

    executor.terminate()

    assert connection.hear(Retiring).unbegun == [Held(2, 1)]
    outcome = connection.outcomes()[1]
    assert (outcome.result, outcome.code) == (Result.INTERRUPTED, "interrupted")
    assert executor.hear() == {"terminated": True}
    assert executor.code() == 0
    assert time.monotonic() - began < 3.0  # the default of `term`


def test_sigterm_interrupts_a_plain_handler_in_the_main_thread(exclusive, tmp_path):
    executor, connection = exclusive
    connection.run(task(1, "stubborn", {"path": str(tmp_path / "never")}))
    connection.began(1)

    executor.terminate()

    assert connection.outcomes()[1].result is Result.INTERRUPTED
    assert executor.code() == 0


def test_a_thread_that_does_not_end_keeps_no_executor(shared, tmp_path):
    """Nothing is said of it: it may be running until the very end."""
    executor, connection = shared
    connection.run(task(1, "stubborn", {"path": str(tmp_path / "never")}))
    connection.began(1)

    executor.terminate()

    assert connection.hear(Retiring) == Retiring([])
    assert connection.hear(Outcomes) is None
    assert executor.code() == 0


def test_sigterm_ends_one_that_idles(exclusive):
    executor, connection = exclusive
    executor.terminate()

    assert connection.hear(Retiring) == Retiring([])
    assert executor.code() == 0


def test_in_exclusive_mode_handlers_have_the_main_thread_for_themselves(exclusive):
    _, connection = exclusive
    connection.run(task(1, "main"), task(2, "own-loop"), task(3, "sleep", {"seconds": 0.01}), task(4, "nothing"))
    outcomes = connection.outcomes(4)

    assert [outcomes[id].body for id in (1, 2, 3, 4)] == [b"true", b'"looped"', b'"slept"', b"null"]


def test_a_blocked_main_thread_keeps_the_connection(exclusive, dispatcher, tmp_path):
    _, connection = exclusive
    connection.run(task(1, "stubborn", {"path": str(tmp_path / "go")}))
    connection.began(1)
    connection.close()

    connection, enlist = dispatcher.accept()

    assert enlist.holds == [Held(1, 1)]
    (tmp_path / "go").touch()
    assert connection.outcomes()[1].result is Result.OK


def test_a_quiet_one_is_ready_and_takes_no_work_before_it_may(zygote, dispatcher):
    executor = Executor(zygote, dispatcher.path, quiet=True)
    with contextlib.closing(executor):
        executor.ready()
        executor.order("serve")
        connection, _ = dispatcher.accept()
        assert connection.outcome(task(1, "nothing")).result is Result.OK


def test_it_waits_for_a_dispatcher_that_is_not_there_yet(zygote, dispatcher):
    dispatcher.die()
    executor = Executor(zygote, dispatcher.path)
    with contextlib.closing(executor):
        tasks = Path(f"/proc/{executor.pid}/task")
        until(lambda: len(list(tasks.iterdir())) > 2, "threads of the heartbeat and the courier")
        dispatcher.open()
        dispatcher.accept()
        executor.ready()


def test_the_log_says_which_message_failed(shared):
    executor, connection = shared
    connection.run(task(7, "says", {"word": "error"}), task(8, "add", {"a": "secret"}), task(9, "nothing"))
    connection.outcomes(3)
    executor.drain()

    log = executor.said()
    assert "says 7 #1 error: ValueError: out of order\nTraceback" in log
    assert "add 8 #1 invalid: ValidationError: Expected `int`, got `str`" in log
    assert "secret" not in log
    assert "nothing 9" not in log


def test_at_the_lowest_level_it_says_what_each_run_was_given_and_came_to(start):
    executor, connection, _ = start(level="TRACE")
    connection.run(task(9, "add", {"a": 1}))
    connection.outcomes()
    executor.drain()

    log = executor.said()
    assert 'add 9 #1 begins: {"a":1}' in log
    assert "add 9 #1 ok after 0.00" in log


def test_modules_without_handlers_are_refused(zygote, dispatcher):
    executor = Executor(zygote, dispatcher.path, handlers=["json"])
    with contextlib.closing(executor):
        assert "none of the modules json declares a handler for mode shared" in executor.said()
