"""What is to be done: the closed set that `reconcile` returns and the shell carries out. Orders, in the imperative."""

import msgspec

from .cluster import Stage, Verdict


class Action(msgspec.Struct, frozen=True, tag=True):
    """Base of all actions."""


class LoadRelease(Action, frozen=True):
    """Start a zygote and import the release's application in it."""

    group: str
    release: int


class DropLoader(Action, frozen=True):
    """End a release's zygote: it does not answer or end its import (`hung`), or nothing is to be forked any more."""

    group: str
    release: int
    why: str
    hung: bool = False


class Spawn(Action, frozen=True):
    """Start a process in a slot; `fork`: from the release's zygote, else by exec; `quiet`: without work at first."""

    worker: int
    group: str
    slot: str
    release: int
    fork: bool
    quiet: bool = False


class Admit(Action, frozen=True):
    """Let a worker that was started quiet take work."""

    worker: int


class Observe(Action, frozen=True):
    """Read /proc of a worker; answered with `Observed`."""

    worker: int


class Warn(Action, frozen=True):
    """Report a worker without progress for `age` seconds."""

    worker: int
    verdict: Verdict
    age: float


class Condemn(Action, frozen=True):
    """Give a hung worker up: gather evidence, replace it at once, then end it. `why`: what is the matter, where that is
    not its slot's fault."""

    worker: int
    verdict: Verdict
    age: float
    why: str = ""


class Retire(Action, frozen=True):
    """End a worker in peace, for `why`; `hasty`: with SIGKILL."""

    worker: int
    why: str
    hasty: bool = False


class Wear(Action, frozen=True):
    """A worker has lived long enough: a fresh one is to take its place."""

    worker: int
    why: str


class BeginRoll(Action, frozen=True):
    """A worker is needed, for `why`, and the current release cannot be loaded again: roll onto its heir."""

    group: str
    why: str


class AdvanceRoll(Action, frozen=True):
    """A roll has come to this stage; `canary`: the slot that goes first."""

    group: str
    stage: Stage
    canary: str = ""


class AbortRoll(Action, frozen=True):
    """A roll cannot go on, for `why`: the slots go back to the old release."""

    group: str
    why: str


class FinishRoll(Action, frozen=True):
    """A roll is over, done or taken back: the next one may begin."""

    group: str


class ForgetRelease(Action, frozen=True):
    """A release has neither zygote nor worker and is not wanted any more."""

    group: str
    release: int


class MakeWay(Action, frozen=True):
    """Those that take a group's addresses over have come, or those that it was there for have gone: it is drained."""

    group: str


class ForgetGroup(Action, frozen=True):
    """Nothing is left of a group that is no longer in the configuration."""

    group: str


class Ask(Action, frozen=True):
    """Ask a worker to finish: the drain message, or the stop signal of a command."""

    worker: int


class Terminate(Action, frozen=True):
    """SIGTERM, to the whole process tree where the worker is a foreign program."""

    worker: int


class Kill(Action, frozen=True):
    """SIGKILL to the worker, its process group and every descendant."""

    worker: int


class GiveUp(Action, frozen=True):
    """The worker did not even end by SIGKILL: free its slot and say so."""

    worker: int


class Sweep(Action, frozen=True):
    """Look for what an ended worker left behind and end it; answered with `Swept`."""

    worker: int
    hasty: bool


class OpenBreaker(Action, frozen=True):
    """Much of the group dies: try one slot at a time from now on."""

    group: str


class CloseBreaker(Action, frozen=True):
    """The group works again."""

    group: str


class Stop(Action, frozen=True):
    """Begin to stop the whole cluster of its own accord."""

    why: str
    code: int


class Leave(Action, frozen=True):
    """Everything has ended: let the keeper exit with this code."""

    code: int
