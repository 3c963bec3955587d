"""A copy of the bkd that runs, so that an installation which replaces its files can be taken back.

Runs in the disk's thread of the master. The copy lies in `run_dir/code/VERSION-HASH`, which is a PYTHONPATH.
"""

import hashlib
import os
import shutil
from pathlib import Path

from loguru import logger

from .. import __version__

PACKAGE = Path(__file__).parents[1]
LONGEST = 200
_LEFT_OUT = shutil.ignore_patterns("__pycache__")


class Keepsake:
    """`fault`: why there is no copy, "" when there is one or none was tried yet."""

    def __init__(self, run_dir: str, package: Path = PACKAGE) -> None:
        self.folder, self.package = Path(run_dir, "code"), package
        self.fault = ""
        self._copy: Path | None = None

    def keep(self) -> None:
        """Make the copy, once; those of other versions go. A disk that does not take it is told once."""
        if self._copy is not None:
            return
        copy = self.folder / f"{__version__}-{fingerprint(self.package)}"
        try:
            if not copy.exists():
                self._make(copy)
            for other in self.folder.iterdir():
                if other != copy and not self.package.is_relative_to(other):
                    shutil.rmtree(other)
            self._copy, self.fault = copy, ""
        except (OSError, shutil.Error) as error:
            shutil.rmtree(_draft(copy), ignore_errors=True)  # it would only keep the disk full
            if not self.fault:
                logger.warning(
                    "{}: no copy of bkd: {}; an installation in place cannot be taken back", copy, str(error)[:LONGEST]
                )
            self.fault = str(error)[:LONGEST]

    def way_back(self) -> str:
        """The PYTHONPATH of what runs, should its own files be others by now; "" when they are the same, or when there
        is no copy."""
        self.keep()
        if self._copy is None or self._copy.name == f"{__version__}-{fingerprint(self.package)}":
            return ""
        return str(self._copy)

    def _make(self, copy: Path) -> None:
        draft = _draft(copy)
        if draft.exists():
            shutil.rmtree(draft)
        shutil.copytree(self.package, draft / self.package.name, ignore=_LEFT_OUT)
        for folder, _, files in os.walk(self.folder):
            os.chmod(folder, 0o755)
            for file in files:
                os.chmod(os.path.join(folder, file), 0o644)
        draft.rename(copy)


def _draft(copy: Path) -> Path:
    return copy.with_name(f"{copy.name}.new")


def fingerprint(package: Path) -> str:
    """Twelve letters for what all files of a package hold, compiled ones left out. Raises OSError."""
    found = hashlib.sha256()
    for folder, folders, files in os.walk(package, followlinks=True):
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        for name in sorted(files):
            path = Path(folder, name)
            found.update(f"{path.relative_to(package)}\0".encode())
            found.update(hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()[:12]
