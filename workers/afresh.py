"""Importing what stands in the sources now: compiled code is trusted only where it cannot be of an earlier edit.

A compiled file knows its source by size and whole seconds, so after two edits of one size within a second, Python runs
the first. A deploy must not.
"""

import os
import sys
from importlib.abc import PathEntryFinder
from importlib.machinery import (
    BYTECODE_SUFFIXES,
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    SourceFileLoader,
    SourcelessFileLoader,
)

from .sources import INSTALLED

RACE = 2.0


class Afresh(SourceFileLoader):
    """What was compiled RACE seconds after the source came to lie there is of that source; the rest is compiled again.

    By the change time, not the one of modification: whoever unpacks or synchronises files sets that back.
    """

    def get_data(self, path: str) -> bytes:
        """The file's content. Raises OSError for compiled code that is not to be trusted, as if there were none."""
        if path.endswith(".pyc") and os.stat(path).st_mtime < os.stat(self.path).st_ctime + RACE:
            raise OSError(f"{path} may be older than {self.path}")
        return super().get_data(path)


def import_afresh() -> None:
    """From now on, in everything but the standard library and what is installed, which nobody edits."""
    loaders = (ExtensionFileLoader, EXTENSION_SUFFIXES), (Afresh, SOURCE_SUFFIXES)
    find = FileFinder.path_hook(*loaders, (SourcelessFileLoader, BYTECODE_SUFFIXES))
    stdlib = os.path.join(os.path.dirname(os.__file__), "")

    def hook(folder: str) -> PathEntryFinder:
        if os.path.join(folder, "").startswith(stdlib) or not INSTALLED.isdisjoint(folder.split(os.sep)):
            raise ImportError(f"nobody edits what is installed in {folder}")
        return find(folder)

    sys.path_hooks.insert(0, hook)
    sys.path_importer_cache.clear()
