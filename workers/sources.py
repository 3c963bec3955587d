"""The application's source files this process has imported, for whoever watches them."""

import os
import sys
import traceback
from collections.abc import Iterable, Iterator
from functools import lru_cache
from types import ModuleType

MOST_FILES = 5_000
MOST_BYTES = 1 << 19  # a message holds twice as much
INSTALLED = {"site-packages", "dist-packages"}
_STDLIB = os.path.realpath(os.path.dirname(os.__file__)) + os.sep


class Sources:
    """What has been imported so far: real paths of .py files, not of the standard library, nor of what is installed."""

    def __init__(self) -> None:
        self._modules = 0
        self._skipped: set[str] = set()
        self._seen: set[str] = set()

    def skip(self) -> None:
        """What is imported now is known to everybody."""
        self._skipped = _files()

    def again(self) -> None:
        """Whoever was told is gone: only what was skipped is known."""
        self._modules, self._seen = 0, set(self._skipped)

    def new(self, error: BaseException | None = None) -> list[str]:
        """What has been imported since the last call, at most MOST_FILES; costs next to nothing if that is nothing.

        `error`: an import has failed with it, and what was on the way to it is in no table of modules any more.
        """
        if len(sys.modules) == self._modules and error is None:
            return []
        self._modules = len(sys.modules)
        new = (_files() | set(_named(error))) - self._seen
        self._seen |= new
        real = _real(file for file in new if file.endswith(".py") and not _is_installed(file))
        return _sendable(sorted(file for file in real if not _is_installed(file)))


def _files() -> set[str]:
    return {_file(module) for module in list(sys.modules.values())}


def _real(files: Iterable[str]) -> set[str]:
    """Their real paths; a folder is looked at once for all that is in it."""
    folder = lru_cache(maxsize=None)(os.path.realpath)
    found = (os.path.join(folder(os.path.dirname(file)), os.path.basename(file)) for file in files)
    return {os.path.realpath(file) if os.path.islink(file) else file for file in found}


def _file(module: ModuleType) -> str:
    """Where the module comes from, "" if that is not known. Lazy modules do not notice that somebody looks."""
    try:
        file = object.__getattribute__(module, "__dict__").get("__file__")
    except AttributeError:
        return ""
    return file if isinstance(file, str) else ""


def _named(error: BaseException | None) -> Iterator[str]:
    """Files of the traceback and of the text that is no Python, of the errors behind this one as well."""
    known: set[int] = set()
    while error is not None and id(error) not in known:
        known.add(id(error))
        yield from (frame.f_code.co_filename for frame, _line in traceback.walk_tb(error.__traceback__))
        if isinstance(error, SyntaxError) and error.filename:
            yield error.filename
        error = error.__cause__ or error.__context__


def _is_installed(file: str) -> bool:
    return file.startswith(_STDLIB) or not INSTALLED.isdisjoint(file.split(os.sep))


def _sendable(files: list[str]) -> list[str]:
    """As many as a message holds; it cannot hold a name that is no text."""
    kept, size = [], 0
    for file in files[:MOST_FILES]:
        size += len(os.fsencode(file))
        if size > MOST_BYTES:
            break
        if file.encode(errors="replace").decode() == file:
            kept.append(file)
    return kept
