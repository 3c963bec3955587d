"""Lines of text for people: labelled rows, titles, what may be cut and what may not. Pure.

Whatever it is given gets no power over the terminal.
"""

import re
import textwrap

from ..logfiles import clean

LABEL = 10
NARROWEST = 40

_COLOUR = re.compile(r"\x1b\[[0-9;:]*m")
_STYLES = {"bold": "\x1b[1m", "dim": "\x1b[2m"}
_PLAIN = "\x1b[0m"


class Page:
    """Lines of text for a terminal of `width` columns (0: as long as they are)."""

    def __init__(self, width: int, colours: bool) -> None:
        self._width = max(width, NARROWEST) if width else 1 << 20
        self._colours = colours
        self._lines: list[str] = []

    def text(self) -> str:
        """All of it."""
        return "".join(f"{line}\n" for line in self._lines)

    def headline(self, what: str, where: str) -> None:
        """In one line or two, each whole."""
        what, where = self._safe(what), self._safe(where)
        if where and len(what) + len(where) > self._width:
            self.line(what.rstrip(","), style="bold")
            what = " "
        self.line(f"{what}{where}", style="bold")

    def line(self, text: str = "", *, style: str = "") -> None:
        """One line, however long it is."""
        text = self._safe(text).rstrip()
        self._lines.append(f"{_STYLES[style]}{text}{_PLAIN}" if style and self._colours else text)

    def cut(self, text: str, *, indent: int, style: str = "") -> None:
        """A line that may lose its end."""
        room = self._width - indent
        text = self._safe(text)
        self.line(" " * indent + (text if len(text) <= room else f"{text[: room - 1]}…"), style=style)

    def row(self, label: str, text: str) -> None:
        """A labelled text, which is broken where it is too long."""
        if text:
            self._wrapped(f"  {label:{LABEL}}", self._safe(text), " " * (LABEL + 2))

    def entry(self, text: str) -> None:
        """One of a list; it is broken where it is too long."""
        self._wrapped("  ", self._safe(text), " " * 6)

    def item(self, mark: str, text: str, more: str = "") -> None:
        """A marked line; `more` follows below where it does not fit beside it. Neither is cut."""
        text, more = self._safe(text), self._safe(more)
        if more and len(mark) + len(text) + 2 + len(more) > self._width:
            self.line(f"{mark}{text}:")
            self.line(f"{' ' * len(mark)}    {more}")
        else:
            self.line(f"{mark}{text}" + (f": {more}" if more else ""))

    def title(self, text: str) -> None:
        """What the next lines are."""
        self.line()
        self.cut(text, indent=0, style="bold")

    def rule(self) -> None:
        """Another report begins."""
        self.line()
        self.line("-" * min(self._width, 80), style="dim")

    def _safe(self, text: str) -> str:
        safe = clean(text)
        return safe if self._colours else _COLOUR.sub("", safe)

    def _wrapped(self, first: str, text: str, others: str) -> None:
        lines = textwrap.wrap(
            text,
            self._width,
            initial_indent=first,
            subsequent_indent=others,
            break_long_words=False,
            break_on_hyphens=False,
        )
        for line in lines:
            self.line(line)
