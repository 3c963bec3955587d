"""What faulthandler writes, read back: stacks of Python threads from text. Pure.

The text may end anywhere, since its process died or still writes, and may be anything, since its process wrote it:
what can be read is given, nothing raises.
"""

import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field

from ...ipc.stacks import Frame, ThreadStack

MOST = 100  # threads and frames of one thread: faulthandler writes no more either
LONGEST = 503  # characters of a name: 500 and "..."
ENTRY = ("<string>", "<module>")
FATAL = "Fatal Python error: "
SIGNALS = {
    "Segmentation fault": int(signal.SIGSEGV),
    "Bus error": int(signal.SIGBUS),
    "Illegal instruction": int(signal.SIGILL),
    "Floating point exception": int(signal.SIGFPE),
}
CUT_STACK, CUT_LIST = "  ...", "..."

_THREAD = re.compile(r"(Current thread|Thread) 0x([0-9a-fA-F]{1,16})(?: \[(.*)\])? \(most recent call first\):")
_ONLY_THREAD = "Stack (most recent call first):"
_FRAME = re.compile(r'  File (?:"(.*)"|\?\?\?), line (?:([0-9]{1,9})|\?\?\?) in (.*)')
_ESCAPE = re.compile(r"\\(?:x([0-9a-f]{2})|u([0-9a-f]{4})|U([0-9a-f]{8}))")


@dataclass
class _Stack:
    """A thread while it is being read. `current`: the handler ran in it."""

    name: str
    current: bool
    frames: list[Frame] = field(default_factory=list)

    @property
    def entered(self) -> bool:
        """Whether it begins where a process of bkd begins."""
        return bool(self.frames) and (self.frames[-1].file, self.frames[-1].function) == ENTRY


def parse(text: str) -> list[ThreadStack]:
    """The threads, main first; of one that was written twice the later stack. A last line without its end is left out.

    Main is the thread that begins at the entry of a bkd process; if none does, the one that was written last, which is
    the oldest, and none at all where the end of the list is missing.
    """
    stacks, whole = _stacks(text)
    main = _main(stacks, whole=whole)
    return _told(stacks, main, first=main)


def fatal(text: str) -> tuple[str, list[ThreadStack]]:
    """The line `Fatal Python error: …` with what follows it; the thread in which it happened comes first.

    ("", []) where there is no such line; of several the last one counts.
    """
    _, found, rest = f"\n{text}\n".rpartition(f"\n{FATAL}")
    if not found:
        return "", []
    head, _, rest = rest.partition("\n")
    stacks, whole = _stacks(rest)
    main = _main(stacks, whole=whole)
    crashed = next((stack for stack in stacks if stack.current), main)
    return FATAL + _plain(head), _told(stacks, main, first=crashed)


def signal_of(head: str) -> int:
    """The signal of which a process ends after this line of `fatal`; the interpreter's own errors end by SIGABRT."""
    return next((number for words, number in SIGNALS.items() if words in head), int(signal.SIGABRT))


def complete(text: str) -> bool:
    """Whether a dump seems to be all there. faulthandler sets no end mark, so this is a guess.

    It writes the oldest thread last, which in a bkd process is the main one: the dump ends with the entry of the
    process, or with the last frame that is written of a deep stack, if the handler ran in that thread, or with the dots
    of a list that is too long. Any other end looks like a pause: whoever waits needs a deadline.
    """
    if not text.endswith("\n"):
        return False
    stacks, whole = _stacks(text)
    last = text[:-1].rpartition("\n")[2]
    if not whole or last.startswith("Extension modules: "):
        return bool(stacks)
    frame = _frame(last)
    if frame is not None and (frame.file, frame.function) == ENTRY:
        return True
    deep = bool(stacks) and stacks[-1].current and len(stacks[-1].frames) == MOST
    return deep and (frame is not None or last == CUT_STACK)


def _stacks(text: str) -> tuple[list[_Stack], bool]:
    """In the order of the text, and whether the end of the list is there."""
    lines = text.split("\n")
    found: dict[str, _Stack] = {}
    reading: _Stack | None = None
    for line in lines[:-1]:
        begun = _begun(line)
        if begun is not None:
            ident, reading = begun
            found.pop(ident, None)
            if len(found) < MOST:
                found[ident] = reading
        elif not line.startswith("  "):
            reading = None
        elif reading is not None and len(reading.frames) < MOST and (frame := _frame(line)) is not None:
            reading.frames.append(frame)
    return list(found.values()), not lines[-1] and CUT_LIST not in lines


def _begun(line: str) -> tuple[str, _Stack] | None:
    """A thread's number and its stack, without frames yet, if this line is its head."""
    if line == _ONLY_THREAD:
        return "", _Stack("", current=True)
    match = _THREAD.fullmatch(line)
    if match is None:
        return None
    return match[2].lower(), _Stack(_plain(match[3] or ""), current=match[1] == "Current thread")


def _frame(line: str) -> Frame | None:
    match = _FRAME.fullmatch(line)
    if match is None:
        return None
    file, number, function = match.groups()
    return Frame(_plain(file or "???"), int(number or 0), _plain(function))


def _main(stacks: list[_Stack], *, whole: bool) -> _Stack | None:
    oldest = stacks[-1] if stacks and whole else None
    return next((stack for stack in reversed(stacks) if stack.entered), oldest)


def _told(stacks: list[_Stack], main: _Stack | None, *, first: _Stack | None) -> list[ThreadStack]:
    ordered = [*(stack for stack in stacks if stack is first), *(stack for stack in stacks if stack is not first)]
    return [ThreadStack(stack.name, stack.frames, main=stack is main) for stack in ordered]


def _plain(text: str) -> str:
    """faulthandler writes ASCII and escapes the rest: letters are put back, what could disturb a terminal is not."""
    return "".join(_printable(_ESCAPE.sub(_letter, text)))[:LONGEST]


def _letter(match: re.Match[str]) -> str:
    code = int(match[1] or match[2] or match[3], 16)
    known = 0x7F < code < 0x110000 and chr(code).isprintable()
    return chr(code) if known else match[0]


def _printable(text: str) -> Iterator[str]:
    return (letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
