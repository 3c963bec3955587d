"""The terminal while `bkd top` has it: keys come at once and unseen, the picture is on the alternate screen, and
afterwards all is as it was. Only the main thread may use this."""

import io
import os
import signal
import termios
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

from rich.console import Console
from rich.text import Text

from ..viewer import Screen

ENTER = "\x1b[?1049h\x1b[?25l"
LEAVE = "\x1b[0m\x1b[?25h\x1b[?1049l"
CLEAR = "\x1b[0m\x1b[2J"
PATIENCE = 1.0
USUAL = (80, 24)
WATCHED = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGWINCH,
    signal.SIGTSTP,
    signal.SIGCONT,
)


class Terminal:
    """Draws on standard output without ever waiting for it. Raises OSError when the terminal is gone."""

    def __init__(self, keyboard: int, output: int) -> None:
        self.output = Screen(output)
        self._keyboard, self._size_of = keyboard, output
        self._before = termios.tcgetattr(keyboard)
        self._shown: list[str] = []
        self._rich = Console(file=io.StringIO(), force_terminal=True, highlight=False, markup=False, emoji=False)

    def size(self) -> tuple[int, int]:
        """Columns and lines; a serial line knows neither."""
        columns, rows = os.get_terminal_size(self._size_of)
        return columns or USUAL[0], rows or USUAL[1]

    def enter(self) -> None:
        """Take it over, also when somebody has changed it meanwhile."""
        mode = termios.tcgetattr(self._keyboard)
        mode[0] &= ~(termios.ICRNL | termios.IXON)
        mode[3] &= ~(termios.ECHO | termios.ICANON)
        mode[6][termios.VMIN], mode[6][termios.VTIME] = 1, 0
        termios.tcsetattr(self._keyboard, termios.TCSANOW, mode)
        self.output.put(ENTER)
        self.forget()

    def leave(self) -> None:
        """Give it back as it was; one that takes no output has a second, and one that is gone needs nothing."""
        with suppress(OSError, termios.error):
            termios.tcsetattr(self._keyboard, termios.TCSANOW, self._before)
            self.output.put(LEAVE)
            deadline = time.monotonic() + PATIENCE
            while self.output.pending() and (left := deadline - time.monotonic()) > 0:
                self.output.wait(left)
                self.output.flush()

    def forget(self) -> None:
        """The next picture is drawn as a whole."""
        self._shown = []

    def paint(self, lines: Sequence[Text], width: int) -> bool:
        """Draw what is different now; false while the terminal has not taken the last picture."""
        self.output.flush()
        if self.output.pending():
            return False
        rendered = self._rendered(lines)
        pieces = [] if self._shown else [CLEAR]
        for number, (line, text) in enumerate(zip(rendered, lines, strict=True)):
            if number >= len(self._shown) or self._shown[number] != line:
                rest = "\x1b[K" if text.cell_len < width else ""  # at the margin it would erase the last character
                pieces.append(f"\x1b[{number + 1};1H{line}{rest}")
        if len(self._shown) > len(rendered):
            pieces.append(f"\x1b[{len(rendered) + 1};1H\x1b[J")
        self._shown = rendered
        self.output.put("".join(pieces))
        return True

    def _rendered(self, lines: Sequence[Text]) -> list[str]:
        with self._rich.capture() as capture:
            for line in lines:
                self._rich.print(line, soft_wrap=True)
        return capture.get().split("\n")[: len(lines)]


class Signals:
    """Signals as numbers to be read. `descriptor` is readable while there are some."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def take(self) -> list[int]:
        """Those that came since the last time; never waits."""
        try:
            return list(os.read(self.descriptor, 1 << 10))
        except BlockingIOError:
            return []


@contextmanager
def watching() -> Iterator[Signals]:
    """While it lasts signals do nothing by themselves."""
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    handlers = {number: signal.signal(number, _noted) for number in WATCHED}
    try:
        yield Signals(reader)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(before)
        os.close(reader)
        os.close(writer)


@contextmanager
def taken(keyboard: int, output: int) -> Iterator[Terminal]:
    """The terminal, given back at the end, whatever the end is."""
    terminal = Terminal(keyboard, output)
    try:
        terminal.enter()
        yield terminal
    finally:
        terminal.leave()


def pause() -> None:
    """Stop as Ctrl-Z does; returns when somebody continues this process."""
    handler = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
    try:
        os.kill(os.getpid(), signal.SIGTSTP)
    finally:
        signal.signal(signal.SIGTSTP, handler)


def _noted(_number: int, _frame: FrameType | None) -> None:
    """The number is in the pipe already: see signal.set_wakeup_fd."""
