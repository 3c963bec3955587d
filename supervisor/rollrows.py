"""Rows about rolls: what is asked for, how far it has gone, how it ended. See `cluster`."""

from enum import StrEnum

import msgspec

from .config.schema import GroupSection


class Stage(StrEnum):
    """How far a roll has gone."""

    LOADING = "loading"
    CANARY = "canary"
    ROLLING = "rolling"
    SETTLING = "settling"
    ABORTING = "aborting"


class Origin(msgspec.Struct, frozen=True):
    """What a release is made of: `settings` with links in `cwd` and in unix sockets' folders resolved, and the
    interpreter ("": bkd's own); `written` and `interpreter`: the same as the configuration has them."""

    settings: GroupSection
    python: str = ""
    written: GroupSection | None = None
    interpreter: str = ""


class Wanted(msgspec.Struct, frozen=True):
    """A roll that is asked for: onto `release`, or onto a new one of this `origin` (0). `ticket`: the number of
    the newest request that it answers; `hard`: the old ones are killed first; `quick`: nobody waits for `min_ready`."""

    why: str
    ticket: int
    origin: Origin
    release: int = 0
    hard: bool = False
    quick: bool = False


class Roll(msgspec.Struct, frozen=True):
    """A group on its way from release `old` to `new`. `canary`: the slot that goes first; `fault`: why it cannot go on,
    `culprit`: in which slot; `kills`: the slots in which a new worker was killed from outside."""

    new: int
    old: int
    wanted: Wanted
    began: float
    stage: Stage = Stage.LOADING
    stage_at: float = 0.0
    canary: str = ""
    fault: str = ""
    culprit: str = ""
    trace: str = ""
    failed_in: Stage = Stage.LOADING
    kills: tuple[str, ...] = ()


class Outcome(msgspec.Struct, frozen=True):
    """How a roll ended: at `stage` when it was aborted for `reason`; `left`: held slots that keep another release;
    `serving`: slots that still did their work when it was aborted, -1 when that does not matter any more."""

    done: bool
    ticket: int
    release: int
    old: int
    stage: Stage
    took: float
    reason: str = ""
    trace: str = ""
    left: tuple[str, ...] = ()
    serving: int = -1
