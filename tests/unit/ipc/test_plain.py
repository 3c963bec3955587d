"""The command line's own MessagePack says and hears the same as everybody else's."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bkd.ipc.errors import FrameError
from bkd.ipc.plain import pack, unpack

UNHURRIED = settings(deadline=None, max_examples=60)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 63) - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.sampled_from([0, 127, 128, 255, 256, 65535, 65536, -1, -32, -33, -128, -129, "x" * 31, "x" * 32, "x" * 70_000])
)
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(), inner, max_size=20), max_leaves=30
)


@UNHURRIED
@given(VALUES)
def test_others_read_what_it_packs(value):
    """Whatever it packs is MessagePack for msgspec, and for itself."""
    assert msgspec.msgpack.decode(pack(value)) == unpack(pack(value)) == value


@UNHURRIED
@given(VALUES | st.binary() | st.integers(1 << 63, (1 << 64) - 1))
def test_it_reads_what_others_pack(value):
    """Whatever msgspec encodes is read as the same value."""
    assert unpack(msgspec.msgpack.encode(value)) == value


@UNHURRIED
@given(st.binary())
def test_garbage_is_a_frame_error(data):
    """Bytes from anybody give a value or FrameError, nothing else."""
    try:
        unpack(data)
    except FrameError:
        pass


@UNHURRIED
@given(VALUES, st.data())
def test_what_is_cut_off_is_a_frame_error(value, data):
    """A message that lacks its end, or has something behind it, is none."""
    whole = pack(value)
    for wrong in (whole[: data.draw(st.integers(0, len(whole) - 1))], whole + b"\xc0"):
        with pytest.raises(FrameError):
            unpack(wrong)


@pytest.mark.parametrize(
    "data", [b"\x91" * 900_000, b"\x81" * 900_000, b"\x81\x90\xc0", b"\xdd" + b"\xff" * 4, b"\xc1", b"\xc7\x00\x01"]
)
def test_bombs_and_oddities_are_frame_errors(data):
    """Endless nesting, keys that cannot be any, sizes without content, and types nobody here sends."""
    with pytest.raises(FrameError):
        unpack(data)


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", [{"a": object()}]])
def test_what_cannot_be_packed(value):
    """What commands are not made of is a TypeError of the sender."""
    with pytest.raises(TypeError, match="cannot send"):
        pack(value)
