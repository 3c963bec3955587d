"""However bytes arrive, the same frames come out."""

import struct
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bkd.ipc.errors import FrameError
from bkd.ipc.frames import LIMIT, FrameReader, frame

UNHURRIED = settings(deadline=None, max_examples=60)
PAYLOADS = st.lists(st.binary(max_size=40) | st.integers(0, 5000).map(bytes), max_size=10)


@UNHURRIED
@given(PAYLOADS, st.data())
def test_any_chunking(payloads, data):
    """Cut anywhere, a stream gives the payloads that were framed, in their order."""
    stream = b"".join(map(frame, payloads))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    reader, heard = FrameReader(), []
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        heard += reader.feed(stream[begin:end])
    assert heard == payloads


def test_many_small_pieces_of_a_large_frame_cost_no_more_than_they_are():
    """Not the copying of all that came before for each of them: that would be 30 GB here."""
    payload, reader = bytes(250_000), FrameReader()
    stream = frame(payload)
    began = time.process_time()
    heard = [got for at in range(len(stream)) for got in reader.feed(stream[at : at + 1])]
    assert time.process_time() - began < 1.0
    assert heard == [payload]


@UNHURRIED
@given(PAYLOADS, st.binary(min_size=1, max_size=40))
def test_what_is_not_whole_waits(payloads, last):
    """A frame is given out with its last byte and not before."""
    reader = FrameReader()
    assert reader.feed(b"".join(map(frame, payloads)) + frame(last)[:-1]) == payloads
    assert reader.feed(last[-1:]) == [last]


@UNHURRIED
@given(st.binary(), st.integers(LIMIT + 1, (1 << 32) - 1))
def test_a_length_over_the_limit(before, length):
    """It is refused with the length alone, whatever came before it."""
    with pytest.raises(FrameError, match="over the limit"):
        FrameReader().feed(frame(before) + struct.pack("<I", length))


def test_the_limit_itself():
    """LIMIT bytes are a frame, one more is none."""
    assert FrameReader().feed(frame(bytes(LIMIT))) == [bytes(LIMIT)]
    with pytest.raises(FrameError, match="over the limit"):
        frame(bytes(LIMIT + 1))
