"""A promise, what it means to break one, and what is written down about a worker to judge by."""

from dataclasses import dataclass

from bkd.supervisor.cluster import Verdict


class Broken(AssertionError):
    """A promise was broken."""


@dataclass
class Record:
    """What was done to a worker, when; `ready`: since when it is; `hasty`: it may be killed at once;
    `again`: it was killed by a master that died over it; `killed_before`: when, if the next one knows; `given_up`: it
    did not even end by that."""

    ready: float | None = None
    condemned: float | None = None
    verdict: Verdict = Verdict.OK
    gathered: bool = False
    hasty: bool = False
    asked: float | None = None
    termed: float | None = None
    killed: float | None = None
    killed_before: float = 0.0
    again: bool = False
    given_up: bool = False


def expect(holds: bool, text: str) -> None:
    """Raise Broken unless it holds."""
    if not holds:
        raise Broken(text)
