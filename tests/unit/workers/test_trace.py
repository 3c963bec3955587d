"""What is told of an error: short enough and clean enough for a message, whatever the error is."""

import pytest

from bkd.ipc.frames import frame
from bkd.ipc.message import LoadFailed, body, decode, encode
from bkd.workers.trace import LONGEST_LINE, LONGEST_TRACE, one_line, told


class Unspeakable(Exception):
    def __str__(self):
        raise RuntimeError("there are no words for it")


def caught(error):
    """The error with a traceback."""
    try:
        raise error
    except BaseException as raised:  # noqa: BLE001 - whatever an application raises
        return raised


@pytest.mark.parametrize(
    "error", [ValueError("x" * 2_000_000), ValueError("\udcff"), Unspeakable(), SystemExit(), KeyError("ä\nb")]
)
def test_any_error_fits_a_message(error):
    """Long texts, lone surrogates and errors that cannot say themselves reach whoever is to hear of them."""
    raised = caught(error)
    message = LoadFailed(one_line(raised), told(raised))
    payload = encode(message)
    assert frame(payload)
    assert body(decode(payload), LoadFailed) == message
    assert message.reason.startswith(type(error).__name__)


def test_a_reason_is_one_short_line():
    """The type and the first line of the text, cut at the limit."""
    assert one_line(ValueError("first\nsecond")) == "ValueError: first"
    assert one_line(ValueError()) == one_line(ValueError(" \n ")) == "ValueError"
    assert one_line(Unspeakable()) == "Unspeakable"
    assert len(one_line(ValueError("x" * 10_000))) == LONGEST_LINE


def test_of_a_long_traceback_the_end_is_told():
    """The error itself stands last, and that is the part that is kept."""
    text = told(caught(ValueError("x" * LONGEST_TRACE + " the end")))
    assert len(text) <= LONGEST_TRACE
    assert text.endswith("the end\n")


def test_a_traceback_begins_with_the_application():
    """Frames that are not bkd's are kept."""
    assert "in caught" in told(caught(ValueError("no")))
