"""Where a signal may interrupt the main thread of an exclusive executor."""

import threading

import pytest

from bkd.workers.messages.exclusive import Gate, Stopped


def test_code_of_the_application_is_interrupted():
    gate = Gate()
    with pytest.raises(Stopped), gate.opened():
        gate.interrupt()

    assert not gate.is_open


def test_our_own_code_is_not_and_what_comes_next_does_not_begin():
    gate = Gate()
    gate.interrupt()

    with pytest.raises(Stopped), gate.opened():
        pytest.fail("it began")


def test_what_calls_us_back_is_interrupted_when_we_are_done():
    gate, steps = Gate(), []
    with pytest.raises(Stopped), gate.opened():
        with gate.closed():
            gate.interrupt()
            steps.append("done")
        steps.append("went on")

    assert steps == ["done"]


def test_a_fault_of_ours_leaves_it_open():
    gate = Gate()
    with gate.opened():
        with pytest.raises(ValueError, match="ours"), gate.closed():
            raise ValueError("ours")
        assert gate.is_open
    assert not gate.is_open


def test_threads_of_the_application_do_not_touch_it():
    gate, seen = Gate(), []

    def call_back():
        with gate.closed():
            seen.append(gate.is_open)

    with gate.opened():
        thread = threading.Thread(target=call_back)
        thread.start()
        thread.join()

    assert seen == [True]
