"""`bkd top`: the loop that brings keys, signals and the threads' messages into the state, and the state onto the
terminal."""

import errno
import os
import select
import shutil
import signal
import sys
import time
from dataclasses import replace

from rich.console import Console

from ...ipc.errors import BkdError
from ..asking import USAGE
from ..client import Client, NotRunning
from . import feed, model
from .console import USUAL, Signals, Terminal, pause, taken, watching
from .errand import Errand
from .feed import Feed
from .inbox import Added, Answered, Gone, Inbox, Lost, Message, Progressed, Told
from .keyboard import Deed, Quit, Redraw, Tail, press
from .keys import PATIENCE, Decoder
from .model import Order, State
from .screen import frame, picture
from .tails import Reading

KEYBOARD, OUTPUT = 0, 1
TICK, LEAST_PAUSE = 1.0, 0.03
MOST_ERRANDS = 4
LEAVING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
NO_TERMINAL = "bkd: bkd top needs a terminal; `bkd top --once` prints one picture"


def run(socket_path: str, once: bool = False) -> int:
    """Show the cluster until somebody leaves; the exit code. Raises NotRunning when it has ended, BkdError."""
    if once:
        return _print(socket_path)
    if not (os.isatty(KEYBOARD) and os.isatty(OUTPUT)) or os.environ.get("TERM", "dumb") == "dumb":
        sys.stderr.write(f"{NO_TERMINAL}\n")
        return USAGE
    inbox = Inbox()
    source = Feed(socket_path, inbox)
    source.start()
    try:
        with watching() as signals, taken(KEYBOARD, OUTPUT) as terminal:
            app = App(terminal, signals, source)
            code = app.run()
    finally:
        source.stop()
        inbox.close()
    if app.is_restarting:
        sys.stderr.write("bkd: what was asked for goes on; see bkd status\n")
    return code


def _print(path: str) -> int:
    client = Client(path)
    width = shutil.get_terminal_size(USUAL).columns
    console = Console(file=sys.stdout, width=width, highlight=False, markup=False, emoji=False)
    for line in picture(feed.ask(client), width):
        console.print(line, soft_wrap=True)
    return 0


class App:
    """What is running: the state, the commands under way, and whoever reads a log."""

    def __init__(self, terminal: Terminal, signals: Signals, source: Feed) -> None:
        self.terminal, self.signals, self.source = terminal, signals, source
        self.path, self.inbox = source.path, source.inbox
        self.state = model.resized(State(told_at=time.monotonic()), *terminal.size())
        self._decoder = Decoder()
        self._errands: list[Errand] = []
        self._reading: Reading | None = None
        self._code: int | None = None
        self._drawn_at = 0.0
        self._is_stale = True

    @property
    def is_restarting(self) -> bool:
        """Whether something was asked for that goes on by itself."""
        return any(errand.is_alive() and errand.order.verb == "restart" for errand in self._errands)

    def run(self) -> int:
        """Until there is an exit code. Raises NotRunning, BkdError; OSError when the terminal is gone."""
        try:
            while self._code is None:
                self._draw()
                self._wait()
            return self._code
        finally:
            self._read(None)

    def _draw(self) -> None:
        now = time.monotonic()
        if self._is_stale and now - self._drawn_at >= LEAST_PAUSE:
            self._is_stale = not self.terminal.paint(frame(self.state, now), self.state.width)
            self._drawn_at = now

    def _wait(self) -> None:
        """For whatever comes first."""
        poll, output = select.poll(), self.terminal.output
        for descriptor in (KEYBOARD, self.signals.descriptor, self.inbox.descriptor):
            poll.register(descriptor, select.POLLIN)
        if output.pending():
            poll.register(output.descriptor, select.POLLOUT)
        ready = dict(poll.poll(self._patience() * 1000 + 1))
        output.flush()
        for number in self.signals.take():
            self._signalled(number)
        for message in self.inbox.take():
            self.state = self._heard(message)
        if KEYBOARD in ready:
            self._typed()
        elif self._decoder.is_waiting:
            self._press(self._decoder.nothing_came())
        self._is_stale = self._is_stale or not ready or set(ready) != {output.descriptor}

    def _patience(self) -> float:
        if self._decoder.is_waiting:
            return PATIENCE
        return LEAST_PAUSE if self._is_stale and not self.terminal.output.pending() else TICK

    def _typed(self) -> None:
        try:
            data = os.read(KEYBOARD, 1 << 10)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            data = b""  # the terminal was closed
        if not data:
            self._code = 128 + signal.SIGHUP
        self._press(self._decoder.feed(data))

    def _press(self, keys: list[str]) -> None:
        for key in keys:
            self.state, deed = press(self.state, key)
            self._do(deed)
        pane = self.state.pane
        if self._reading is not None and (pane is None or pane.source != self._reading.source):
            self._read(None)

    # -- what is to be done

    def _do(self, deed: Deed) -> None:
        match deed:
            case Quit():
                self._code = 0
            case Redraw():
                self.terminal.forget()
            case Tail(source, name):
                self._read(Reading(os.path.dirname(os.path.abspath(self.path)), name, source, self.inbox))
            case Order():
                self._give(deed)

    def _read(self, reading: Reading | None) -> None:
        if self._reading is not None:
            self._reading.stop()
        self._reading = reading
        if reading is not None:
            reading.start()

    def _give(self, order: Order) -> None:
        self._errands = [errand for errand in self._errands if errand.is_alive()]
        if len(self._errands) >= MOST_ERRANDS:
            why = f"{MOST_ERRANDS} commands are under way: wait until one of them has ended"
            self.state = model.answered(self.state, order, 1, [why])
            return
        errand = Errand(self.path, order, self.inbox)
        self._errands.append(errand)
        errand.start()

    # -- what happens

    def _heard(self, message: Message) -> State:
        match message:
            case Told(document):
                return model.told(self.state, document, time.monotonic())
            case Lost(broken, fault):
                return replace(self.state, broken=self.state.broken or broken, fault=fault)
            case Gone(why, is_running):
                raise BkdError(why) if is_running else NotRunning(why)
            case Added(source, lines):
                return model.added(self.state, source, lines)
            case Progressed(_, line):
                return model.progressed(self.state, line)
            case Answered(order, code, text):
                self.source.hurry()
                return model.answered(self.state, order, code, text)

    def _signalled(self, number: int) -> None:
        if number in LEAVING:
            self._code = 128 + number
            return
        if number == signal.SIGTSTP:
            self.terminal.leave()
            pause()
        if number != signal.SIGWINCH:
            self._come_back()
        self.state = model.resized(self.state, *self.terminal.size())
        self.terminal.forget()

    def _come_back(self) -> None:
        """Time has passed in which the master could not be heard."""
        self.terminal.enter()
        self.state = replace(self.state, told_at=time.monotonic())
