"""A terminal that takes nothing stops nobody, and what it missed is told."""

import contextlib
import fcntl
import os
import socket

import pytest

from bkd.supervisor.terminal import PIECE, Terminal

ROOM = 4 * PIECE


@pytest.fixture
def pipe():
    """Both ends of a small pipe whose reader does not block."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, ROOM)
    os.set_blocking(reader, False)
    yield reader, writer
    for end in (reader, writer):
        with contextlib.suppress(OSError):
            os.close(end)


@contextlib.contextmanager
def speaking(descriptor):
    """A terminal, and its own descriptor closed at the end."""
    terminal = Terminal(descriptor)
    try:
        yield terminal
    finally:
        os.close(terminal._own) if isinstance(terminal._own, int) else terminal._own.close()


def read(reader):
    """All that waits in a pipe."""
    text = b""
    with contextlib.suppress(BlockingIOError):
        while piece := os.read(reader, 1 << 16):
            text += piece
    return text.decode()


def test_what_is_read_is_shown(pipe):
    """Lines come out as they were written, odd letters replaced."""
    reader, writer = pipe
    with speaking(writer) as terminal:
        terminal.write("one\n")
        terminal.write("zwei \udcff ä\n")
    assert read(reader) == "one\nzwei ? ä\n"
    assert terminal.dropped == 0


@pytest.mark.parametrize(
    ("lost", "said"),
    [(1, "1 line was dropped here: nobody read it"), (3, "3 lines were dropped here: nobody read them")],
)
def test_a_full_pipe_is_not_waited_for(pipe, lost, said):
    """What does not fit is dropped and counted, and the count comes before the next line that fits."""
    reader, writer = pipe
    os.write(writer, b"x" * ROOM)
    with speaking(writer) as terminal:
        for _ in range(lost):
            terminal.write("lost\n")
        assert terminal.dropped == lost
        assert read(reader) == "x" * ROOM
        terminal.write("here again\n")
        assert read(reader) == f"… {said}\nhere again\n"
        terminal.write("and on\n")
    assert (read(reader), terminal.dropped) == ("and on\n", 0)


def test_a_text_larger_than_the_pipe(pipe):
    """It counts as dropped when only its beginning fits."""
    _reader, writer = pipe
    with speaking(writer) as terminal:
        terminal.write("x" * (ROOM + 1))
    assert terminal.dropped == 1


def test_the_descriptor_still_blocks_for_others(pipe):
    """O_NONBLOCK would be everybody's who shares the open file: the shell's, and the workers'."""
    _reader, writer = pipe
    with speaking(writer) as terminal:
        terminal.write("text\n")
    assert os.get_blocking(writer)


def test_a_reader_that_is_gone(pipe):
    """Nothing is raised when nobody will ever read again."""
    reader, writer = pipe
    with speaking(writer) as terminal:
        os.close(reader)
        terminal.write("lost\n")
    assert terminal.dropped == 1


def test_a_socket_that_nobody_reads():
    """A service manager may hand over a socket as standard error: full, it is not waited for either."""
    ours, theirs = socket.socketpair()
    with ours, theirs, speaking(theirs.fileno()) as terminal:
        for _ in range(2000):
            terminal.write("x" * 1000 + "\n")
        assert terminal.dropped > 0
        assert theirs.getblocking()
        assert ours.recv(5) == b"xxxxx"
