"""What the files of each release were when they were imported, and which of them are others by now."""

import hashlib
from collections.abc import Mapping

MOST_RELEASES = 64
Prints = Mapping[str, bytes]


class OriginFiles:
    """The files of the last releases by group and number: path (relative to the release's folder where it is below
    that) and a digest of the content. Nothing of it outlives the master: living zygotes tell the next one again."""

    def __init__(self) -> None:
        self._files: dict[tuple[str, int], Prints] = {}

    def compared(self, release: tuple[str, int], files: Prints) -> tuple[str, str]:
        """The fingerprint of these files, and how they differ from those that this release had at first, "" when they
        do not or when these are not known."""
        newest = next(reversed(self._files.values()), {})
        first = self._files.setdefault(release, _sharing(newest, files))
        while len(self._files) > MOST_RELEASES:
            self._files.pop(next(iter(self._files)))
        return fingerprint(files), edits(first, files)


def _sharing(known: Prints, files: Prints) -> Prints:
    """`files`, of which nothing is held twice that is in `known` as well: of thousands a deploy changes a few."""
    if files == known:
        return known
    paths = {path: path for path in known}
    return {
        paths.get(path, path): known[path] if known.get(path) == content else content for path, content in files.items()
    }


def fingerprint(files: Prints) -> str:
    """The same for the same files with the same content, "" for none."""
    if not files:
        return ""
    whole = hashlib.blake2b(digest_size=16)
    for path, content in sorted(files.items()):
        whole.update(path.encode() + b"\0" + content + b"\0")
    return whole.hexdigest()


def edits(first: Prints, now: Prints) -> str:
    """The difference as a clause: "app.py was edited since", "" for none."""
    changed = [path for path in sorted(now) if path in first and now[path] != first[path]]
    added, gone = sorted(set(now) - set(first)), sorted(set(first) - set(now))
    said = [(changed, "edited"), (added, "added"), (gone, "removed")]
    parts = [f"{_named(names)} {what}" for names, what in said if names]
    return f"{', '.join(parts)} since" if parts else ""


def _named(paths: list[str]) -> str:
    return f"{paths[0]} was" if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more were"
