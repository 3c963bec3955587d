"""The folder of a release: where its application is imported from, now and later."""

import os
import sys


def enter(folder: str) -> None:
    """Work in this folder and import from it first. Raises OSError when that is impossible.

    Everything that may still be imported comes from where the symlinks lead now, not from where they will lead once
    the next release is there.
    """
    os.chdir(folder)
    real = [os.getcwd(), *map(_resolved, sys.path)]
    if real[1:] != sys.path:
        _resolve_packages()
    sys.path[:] = real


def _resolved(entry: str) -> str:
    """Entries that are no folders but marks for import hooks stay as they are."""
    return os.path.realpath(entry) if os.path.isabs(entry) or os.path.exists(entry or os.curdir) else entry


def _resolve_packages() -> None:
    """Packages imported before remember on their own where their modules are."""
    for module in list(sys.modules.values()):
        path = getattr(module, "__path__", None)
        if isinstance(path, list):
            path[:] = map(_resolved, path)
