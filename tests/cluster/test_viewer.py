"""The viewer as a process of its own, and output files that are cut while a program writes to them."""

import os
import pty
import select
import signal
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from bkd.supervisor.logfiles import Stream, moment
from bkd.supervisor.rotation import rotate

DEADLINE = 40.0
LINES = 200_000
FOREIGN = f"""
import os
for number in range({LINES}):
    os.write(1, b"%060d\\n" % number)
"""


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "log"
    folder.mkdir()
    return folder


@contextmanager
def viewer(folder, *, stdout=subprocess.PIPE, since="", env=None):
    """Shows everything unless told otherwise; killed at the end if it should still be there."""
    command = [sys.executable, "-m", "bkd.supervisor.viewer", str(folder), *([] if since is None else [since])]
    environ = {**os.environ, **(env or {})}
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=stdout, stderr=subprocess.PIPE, env=environ, start_new_session=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe:
                pipe.close()


def read_until(descriptor, wanted):
    """What comes from the descriptor until it holds `wanted`."""
    data = b""
    deadline = time.monotonic() + DEADLINE
    while wanted not in data:
        assert select.select([descriptor], [], [], deadline - time.monotonic())[0], f"no {wanted!r} in {data[-500:]!r}"
        more = os.read(descriptor, 1 << 16)
        assert more, f"ended without {wanted!r}: {data[-500:]!r}"
        data += more
    return data


def append(path, data):
    with path.open("ab") as file:
        file.write(data)


def test_prefixed_lines_until_stdin_ends(folder):
    append(folder / "web.1.log", b"old\n")
    since = moment(folder)
    append(folder / "web.1.log", b"early\n")
    with viewer(folder, since=since) as process:
        assert read_until(process.stdout.fileno(), b"early\n") == b"web.1 | early\n"
        append(folder / "jobs.10.log", b"\x1b[2Jnew\n")
        assert read_until(process.stdout.fileno(), b"new\n") == b"jobs.10 | \\x1b[2Jnew\n"
        append(folder / "web.1.log", b"last words")
        process.stdin.close()
        process.wait(DEADLINE)
        assert process.stdout.read() == b"web.1   | last words\n"
        assert process.stderr.read() == b""
        assert process.returncode == 0


def test_from_now_on_without_a_moment(folder):
    append(folder / "web.1.log", b"old\n" * 1000)
    with viewer(folder, since=None) as process:
        append(folder / "web.2.log", b"")
        data = b""
        while not data:  # until the viewer has begun
            append(folder / "web.1.log", b"new\n")
            if select.select([process.stdout], [], [], 0.1)[0]:
                data = os.read(process.stdout.fileno(), 1 << 16)
        assert b"old" not in data


def test_ctrl_c_is_for_the_keeper(folder):
    with viewer(folder) as process:
        append(folder / "web.1.log", b"ready\n")
        read_until(process.stdout.fileno(), b"ready")
        process.send_signal(signal.SIGINT)
        append(folder / "web.1.log", b"stopping\n")
        read_until(process.stdout.fileno(), b"stopping")


def test_a_flood_does_not_drown_the_others(folder):
    with viewer(folder) as process, (folder / "flood.1.log").open("ab") as flood:
        flood.write(b"x" * 99 + b"\n")
        flood.flush()
        read_until(process.stdout.fileno(), b"flood.1 | ")
        for _ in range(100):
            flood.write((b"x" * 99 + b"\n") * 10_000)
        flood.flush()
        append(folder / "quiet.1.log", b"a word\n")
        data = read_until(process.stdout.fileno(), b"a word")
        assert len(data) < 4 << 20
        append(folder / "flood.1.log", b"the end\n")
        data += read_until(process.stdout.fileno(), b"flood.1 | the end\n")
        assert f"MB skipped, see {folder}/flood.1.log".encode() in data
        assert len(data) < 40 << 20


def test_a_closed_pipe_ends_it_quietly(folder):
    with viewer(folder) as process:
        append(folder / "web.1.log", b"hello\n")
        read_until(process.stdout.fileno(), b"hello")
        process.stdout.close()
        append(folder / "web.1.log", b"anybody?\n")
        process.wait(DEADLINE)
        assert (process.returncode, process.stderr.read()) == (0, b"")


def test_a_reader_that_stopped_reading_does_not_keep_it(folder):
    with viewer(folder) as process:
        append(folder / "web.1.log", (b"x" * 99 + b"\n") * 10_000)
        read_until(process.stdout.fileno(), b"xxx")
        process.stdin.close()
        process.wait(DEADLINE)
        assert (process.returncode, process.stderr.read()) == (0, b"")


@pytest.mark.parametrize(("env", "coloured"), [({"NO_COLOR": ""}, True), ({"NO_COLOR": "1"}, False)])
def test_colours_on_a_terminal(folder, env, coloured):
    ours, theirs = pty.openpty()
    append(folder / "web.1.log", b"one\n")
    append(folder / "web.2.log", b"two\n")
    with viewer(folder, stdout=theirs, env=env) as process:
        os.close(theirs)
        shown = read_until(ours, b"two\r\n")
        if coloured:
            assert b"\x1b[36mweb.1 | \x1b[0mone\r\n\x1b[33mweb.2 | \x1b[0mtwo\r\n" in shown
        else:
            assert shown == b"web.1 | one\r\nweb.2 | two\r\n"
        os.close(ours)
        append(folder / "web.1.log", b"nobody looks\n")
        process.wait(DEADLINE)
        assert (process.returncode, process.stderr.read()) == (0, b"")


def test_it_is_small(folder):
    heavy = "{'typing', 'pathlib', 're', 'asyncio', 'json', 'subprocess', 'msgspec'}"
    code = f"import sys, bkd.supervisor.viewer; print({heavy} & set(sys.modules))"
    output = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert output.stdout == "set()\n"
    with viewer(folder) as process:
        append(folder / "web.1.log", b"ready\n")
        read_until(process.stdout.fileno(), b"ready")
        resident = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        assert resident < 16 << 20


def test_a_program_that_cannot_reopen_loses_no_line(folder):
    path = folder / "cache.1.log"
    with path.open("ab") as output, closing(Stream(str(path))) as stream:
        if not removes_ranges(folder):
            pytest.skip("this file system cannot remove a range of a file")
        program = subprocess.Popen([sys.executable, "-c", FOREIGN], stdout=output)
        lines, ended, more = [], False, [b""]
        try:
            while more or not ended:
                ended = program.poll() is not None
                lines += (more := stream.read(1 << 16))
                rotate(path, limit=1 << 20, keep=100)
        finally:
            program.kill()
            program.wait()
    assert [int(line) for line in lines] == list(range(LINES))
    assert len(list(folder.iterdir())) > 3


def removes_ranges(folder):
    """Whether a cut here leaves something behind, as it does where only whole blocks can be removed."""
    probe = folder / "probe"
    probe.write_bytes(b"x" * 10_000)
    rotate(probe, limit=1, keep=1)
    left = probe.stat().st_size
    for path in (probe, folder / "probe.1"):
        path.unlink()
    return left > 0
