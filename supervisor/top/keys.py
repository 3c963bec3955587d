"""What a terminal sends, as names of keys. Pure: bytes go in, names come out."""

import codecs
import re

ESCAPE = "\x1b"
PATIENCE = 0.05  # an escape alone is the key Esc when nothing follows it for so long

NAMED = {
    "A": "up",
    "B": "down",
    "H": "home",
    "F": "end",
    "1~": "home",
    "7~": "home",
    "4~": "end",
    "8~": "end",
    "5~": "pgup",
    "6~": "pgdn",
}
PLAIN = {"\r": "enter", "\n": "enter", "\x7f": "backspace", "\b": "backspace", "\x0c": "^L"}

_SEQUENCE = re.compile(r"\x1b(?:\[([0-9;?<>=]*)([ -/]*[@-~])|O([@-~]))")
_BEGUN = re.compile(r"\x1b(?:\[[0-9;?<>=]*[ -/]*|O)?")


class Decoder:
    """Cuts what is read into keys: one character each, or `up down pgup pgdn home end enter backspace esc ^L`. What has
    no name here is passed over."""

    def __init__(self) -> None:
        self._text = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""

    @property
    def is_waiting(self) -> bool:
        """Whether the rest of a sequence may come, or else Esc was pressed."""
        return bool(self._rest)

    def feed(self, data: bytes) -> list[str]:
        """The keys that are complete now."""
        text, keys = self._rest + self._text.decode(data), []
        while text and not _BEGUN.fullmatch(text):
            key, text = _first(text)
            keys += [key] if key else []
        self._rest = text
        return keys

    def nothing_came(self) -> list[str]:
        """Called when PATIENCE is over: it was Esc alone, or a sequence that was never finished."""
        was_alone, self._rest = self._rest == ESCAPE, ""
        return ["esc"] if was_alone else []


def _first(text: str) -> tuple[str, str]:
    if not text.startswith(ESCAPE):
        key = PLAIN.get(text[0], text[0])
        return (key if key.isprintable() else ""), text[1:]
    sequence = _SEQUENCE.match(text)
    if sequence is None:
        return "esc", text[1:]
    parameters, final, single = sequence.groups()
    name = single or (parameters + final if final == "~" else final)
    return NAMED.get(name, ""), text[sequence.end() :]
