"""The process that shows what workers print while `bkd start` runs in the foreground; a helper of the keeper.

Standard library only. It reads run_dir/log and nothing stands between the workers and their files: a slow terminal or
the end of this process delays nobody. It ends when its standard input does.
"""

import errno
import os
import select
import signal
import stat
import sys
import time
from collections.abc import Sequence

from .logfiles import Follower, show

FARTHEST_BEHIND = 8 << 20
KEPT = 64 << 10
LAST_WORDS = 1.0

_COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)
_SMALL = 512
_GONE = (errno.EPIPE, errno.EIO, errno.ENXIO, errno.EBADF)


class Screen:
    """Standard output, written without ever waiting for it; raises OSError when it is gone."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor, self._piece = _unblocked(descriptor)
        self._pending = memoryview(b"")

    def pending(self) -> bool:
        """Whether it has not taken all of what was put."""
        return len(self._pending) > 0

    def put(self, text: str) -> None:
        """Show `text` as soon as there is room."""
        self._pending = memoryview(bytes(self._pending) + text.encode(errors="replace"))
        self.flush()

    def flush(self) -> None:
        """Write as much as it takes now."""
        while self._pending and self._writable():
            try:
                written = os.write(self.descriptor, self._pending[: self._piece])
            except BlockingIOError:
                return
            self._pending = self._pending[written:]

    def wait(self, timeout: float, *others: int) -> set[int]:
        """Until it has room or one of the others is readable; returns those that are."""
        poll = select.poll()
        poll.register(self.descriptor, select.POLLOUT)
        for other in others:
            poll.register(other, select.POLLIN)
        return {descriptor for descriptor, _ in poll.poll(timeout * 1000 + 1)} - {self.descriptor}

    def _writable(self) -> bool:
        if self._piece != _SMALL:
            return True
        poll = select.poll()
        poll.register(self.descriptor, select.POLLOUT)
        return bool(poll.poll(0))


class Viewer:
    """Lines of all workers with their names before them, the same share for each."""

    def __init__(self, folder: str, screen: Screen, *, since: str | None, coloured: bool) -> None:
        self._folder, self._screen, self._coloured = folder, screen, coloured
        self._follower = Follower(folder, since=since)
        self._colours: dict[str, int] = {}
        self._width = 0

    def run(self, stdin: int) -> None:
        """Show lines until `stdin` ends; then what was written until then, for at most LAST_WORDS seconds."""
        while not self._ended(stdin):
            self._turn()
        deadline = time.monotonic() + LAST_WORDS
        while self._turn() and (left := deadline - time.monotonic()) > 0:
            if self._screen.pending():
                self._screen.wait(left)
        self._show(self._follower.rest())

    def close(self) -> None:
        """Close all files."""
        self._follower.close()

    def _ended(self, stdin: int) -> bool:
        readable = self._screen.wait(60.0, stdin) if self._screen.pending() else self._follower.wait(stdin)
        return stdin in readable and not os.read(stdin, 1 << 12)

    def _turn(self) -> bool:
        """Whether anything was shown. While the screen is full nothing is read, so that no more than a turn waits."""
        self._screen.flush()
        if self._screen.pending():
            return True
        self._catch_up()
        lines = self._follower.turn()
        self._show(lines)
        return bool(lines)

    def _catch_up(self) -> None:
        for name, stream in self._follower.streams.items():
            if skipped := stream.skip(FARTHEST_BEHIND, KEPT):
                notice = f"… {skipped / 1e6:.1f} MB skipped, see {self._folder}/{name}.log"
                self._show([(name, notice.encode())])

    def _show(self, lines: list[tuple[str, bytes]]) -> None:
        for name, _ in lines:
            self._width = max(self._width, len(name))
        self._screen.put("".join(f"{self._prefix(name)}{show(line)}\n" for name, line in lines))

    def _prefix(self, name: str) -> str:
        prefix = f"{show(name.encode(errors='replace')):<{self._width}} | "
        if not self._coloured:
            return prefix
        colour = self._colours.setdefault(name, _COLOURS[len(self._colours) % len(_COLOURS)])
        return f"\x1b[{colour}m{prefix}\x1b[0m"


def main(argv: Sequence[str]) -> int:
    """Show the output in the folder `argv[0]`, from now or from the moment `argv[1]` (see `logfiles.moment`) on.

    Returns 0 when standard input ended or the terminal is gone, 2 for wrong arguments.
    """
    if len(argv) not in (1, 2):
        sys.stderr.write("usage: viewer FOLDER [MOMENT]\n")
        return 2
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    coloured = os.isatty(1) and not os.environ.get("NO_COLOR")
    try:
        Viewer(argv[0], Screen(1), since=argv[1] if len(argv) == 2 else None, coloured=coloured).run(0)
    except OSError as error:
        if error.errno not in _GONE:
            raise
    return 0


def _unblocked(descriptor: int) -> tuple[int, int]:
    """A descriptor that does not block, and how much to write at once.

    The flag O_NONBLOCK belongs to the terminal's open file, which the shell has too: so it is opened once more. Where
    that is not allowed, small pieces are written when there is room.
    """
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor, 1 << 20
    try:
        return os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC), 1 << 16
    except OSError:
        return descriptor, _SMALL


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
