"""What is wrong with a configuration: every fault at once, in words, and never with a secret in them."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from ...ipc.errors import BkdError

Key = tuple[str | int, ...]

LONGEST_SHOWN = 60
NOTHING = object()


class Fault(NamedTuple):
    """One fault: where it stands, what would be right, what stands there."""

    key: str
    expected: str
    found: str

    def __str__(self) -> str:
        where = f"{self.key}: " if self.key else ""
        return f"{where}expected {self.expected}, found {self.found}"


class ConfigError(BkdError):
    """The configuration cannot be used. `source` is the file's name, `faults` all that is wrong, one line each."""

    def __init__(self, source: str, faults: Iterable[Fault]) -> None:
        self.source = source
        self.faults = tuple(faults)
        super().__init__("\n".join(f"{source}: {fault}" for fault in self.faults))


class Faults:
    """Collects faults while a file is read. `layers` are the overrides in force: a key they hold gets their name."""

    def __init__(self) -> None:
        self.found: list[Fault] = []
        self.layers: Sequence[tuple[Key, dict[str, Any]]] = ()
        self._keys: set[Key] = set()

    def add(self, key: Key, expected: str, value: object = NOTHING) -> None:
        """The value at `key` is not what is expected there; without a value, nothing is there."""
        self._keys.update(key[:depth] for depth in range(1, len(key) + 1))
        fault = Fault(dotted(self._located(key)), expected, shown(key, value))
        if fault not in self.found:
            self.found.append(fault)

    def unknown(self, key: Key, known: Iterable[str]) -> None:
        """`key` is none of the known ones."""
        name = str(key[-1])
        self.add(key, _known(name, sorted(known)), name)

    def touch(self, key: Key) -> bool:
        """Whether something is wrong with `key` or below it."""
        return key in self._keys

    def _located(self, key: Key) -> Key:
        return next((prefix + key for prefix, tree in self.layers if _holds(tree, key)), key)


def dotted(key: Key) -> str:
    """The key as it would be written in TOML, with the place in a list in brackets."""
    text = ""
    for part in key:
        text += f"[{part}]" if isinstance(part, int) else f".{_bare(part)}"
    return text.removeprefix(".")


def shown(key: Key, value: object) -> str:
    """A value for a message: short, on one line, hidden where it may be a secret."""
    if value is NOTHING:
        return "nothing"
    if isinstance(value, dict | list):
        return "a table" if isinstance(value, dict) else "a list"
    if _is_secret(key):
        return "a value that is not shown"
    if isinstance(value, str):
        return quoted(_without_password(value))
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value) if abs(value) < 1 << 64 else "a very large number"
    return str(value)


def quoted(text: str) -> str:
    """Text in double quotes, on one line, cut when it is long."""
    short = text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 1] + "…"
    return '"' + "".join(c if c.isprintable() else ascii(c)[1:-1] for c in short) + '"'


def _bare(part: str) -> str:
    plain = part.isascii() and part.replace("-", "_").replace("_", "a").isalnum()
    return part if plain else quoted(part)


def _is_secret(key: Key) -> bool:
    names = [part.lower() for part in key if isinstance(part, str)]
    return "env" in names[:-1] or any(name.startswith(("secret", "password", "token")) for name in names[-1:])


def _without_password(text: str) -> str:
    head, scheme, rest = text.partition("://")
    user, at, place = rest.rpartition("@")
    return f"{head}{scheme}…@{place}" if at and user else text


def _known(name: str, known: list[str]) -> str:
    from difflib import get_close_matches

    nearest = get_close_matches(name, known, n=1, cutoff=0.3)
    return f"a known key, perhaps {nearest[0]}" if nearest else f"one of {', '.join(known)}"


def _holds(tree: object, key: Key) -> bool:
    for part in key:
        if isinstance(part, int):
            return True
        if not isinstance(tree, dict) or part not in tree:
            return False
        tree = tree[part]
    return True
