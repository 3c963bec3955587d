"""Messages: what is said is heard, and what is no message is a FrameError, however odd."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bkd.ipc.errors import FrameError
from bkd.ipc.message import MESSAGES, Command, ConfigChanged, Envelope, Load, WebWork, body, decode, encode

UNHURRIED = settings(deadline=None, max_examples=60)
ENDLESS = b"\x91" * 900_000
BOMBS = [b"\x81\xa1x" * 300_000, b"\x81\xa9arguments" + ENDLESS, b"\x81\xa4data" + ENDLESS]
NUMBERS = st.integers(0, 1 << 62)
PLAIN = st.none() | st.booleans() | NUMBERS | st.text() | st.lists(st.text())


@pytest.mark.parametrize("kind", MESSAGES)
def test_every_message_by_its_name(kind):
    """Every kind of message comes back from its bytes as it was, under its own name."""
    envelope = decode(encode(kind()))
    assert (envelope.op, body(envelope, kind)) == (kind.op, kind())


def test_no_name_is_used_twice():
    """What a message is called says what it is."""
    assert len({kind.op for kind in MESSAGES}) == len(MESSAGES)


@UNHURRIED
@given(st.text(), st.dictionaries(st.text(), PLAIN), NUMBERS, NUMBERS)
def test_what_is_said_is_heard(verb, arguments, number, answered):
    """A command reaches the other side with its arguments, its number, and the number it answers."""
    command = Command(verb, arguments)
    envelope = decode(encode(command, id=number, re=answered))
    assert (envelope.id, envelope.re, body(envelope, Command)) == (number, answered, command)


def test_a_message_within_a_message():
    """A release to load carries its work and its environment."""
    load = Load(app="shop", work=WebWork("shop:app", ["127.0.0.1:8000"], 1.5), env={"NAME": "ä"})
    assert body(decode(encode(load)), Load) == load


def test_every_field_may_be_missing():
    """Who does not know a field yet is understood; so is who sends one that nobody here knows."""
    for kind in MESSAGES:
        assert body(Envelope(kind.op), kind) == kind()
        assert body(Envelope(kind.op, data=msgspec.Raw(b"\x81\xa7unknown\xc3")), kind) == kind()


def test_an_application_always_finds_the_changed_keys():
    """Handlers look the list up by its name, though it be empty."""
    assert msgspec.msgpack.decode(decode(encode(ConfigChanged())).data) == {"changed": []}


@pytest.mark.parametrize("data", BOMBS)
def test_a_bomb_is_a_frame_error(data):
    """Nesting without end is refused as an envelope and as data."""
    with pytest.raises(FrameError):
        decode(data)
    with pytest.raises(FrameError):
        body(Envelope("command:run", data=msgspec.Raw(data)), Command)


@UNHURRIED
@given(st.binary())
def test_garbage_is_a_frame_error(data):
    """Bytes from anybody are an envelope or a FrameError, nothing else; the same for its data."""
    try:
        body(decode(data), Command)
    except FrameError:
        pass
    try:
        body(Envelope("command:run", data=msgspec.Raw(data)), Command)
    except FrameError:
        pass
