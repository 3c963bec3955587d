"""`handler`: how an application says which function runs which kind of message; and what it has said so far."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from .declaration import Declaration, HandlerError, LockKey, Mode, Terms
from .draft import Duration
from .faults import Classes, Classifier
from .retrying import Retrying

F = TypeVar("F", bound=Callable[..., Any])


class Handlers:
    """Those of one process, by kind."""

    def __init__(self) -> None:
        self._declared: dict[str, Declaration] = {}

    def add(self, declaration: Declaration) -> None:
        """Raises HandlerError for a kind that another function handles."""
        kind = declaration.policy.name
        other = self._declared.get(kind)
        if other is not None and not other.is_same(declaration):
            raise HandlerError(f'handler "{kind}" is declared twice: {other.where} and {declaration.where}')
        self._declared[kind] = declaration

    def of(self, mode: str) -> dict[str, Declaration]:
        """What an executor of this mode can run."""
        return {kind: each for kind, each in self._declared.items() if each.mode in ("", mode)}

    def get(self, kind: str) -> Declaration | None:
        """The handler of one kind."""
        return self._declared.get(kind)


handlers = Handlers()


def handler(
    kind: str,
    *,
    stages: Iterable[str] = ("run",),
    retry: Retrying | None = None,
    max_attempts: int | None = None,
    timeout: Duration = "5m",
    grace: Duration = "5s",
    lock: LockKey | None = None,
    notify: str = "",
    classify: Classes | Classifier | None = None,
    mode: Mode = "",
    keep: Duration | None = "7d",
    keep_dead: Duration | None = "90d",
    max_crashes: int = 3,
    max_locks: int = 20,
    max_running: int = 0,
    alarm: int = 100,
) -> Callable[[F], F]:
    """Decorator: this function, async or plain, runs messages of this `kind`. It stays what it was, and gets `kind`.

    `stages`: it is called once for each, `context.stage` says for which; a finished one is never run again. `retry`:
    Exponential, Fixed or Calendar. `timeout`: of one run, 0 for none; `grace`: how long after it the process of a run
    that goes on is ended. `lock`: from the arguments to the name of what only one run at a time may use, or None.
    `notify`: who is told of a dead letter. `classify`: exceptions to "retryable", "final", "lock", "auth", as a table
    or a function, before the common table. `mode`: only executors of this mode run it. `keep`, `keep_dead`: how long
    ends are kept, None for ever. `max_crashes`: of its process; `max_locks`: runs that find the lock taken;
    `max_running`: at once in the whole fleet, 0 for any number; `alarm`: runs after which a loop is suspected.

    Raises HandlerError in a line that says what is wrong.
    """
    if callable(kind):
        raise HandlerError('handler needs the name of a kind: @handler("invoice.send")')
    terms = Terms(
        stages=stages,
        retry=retry,
        max_attempts=max_attempts,
        timeout=timeout,
        grace=grace,
        lock=lock,
        notify=notify,
        classify=classify,
        mode=mode,
        keep=keep,
        keep_dead=keep_dead,
        max_crashes=max_crashes,
        max_locks=max_locks,
        max_running=max_running,
        alarm=alarm,
    )

    def register(function: F) -> F:
        handlers.add(Declaration(kind, function, terms))
        function.kind = kind  # type: ignore[attr-defined]
        return function

    return register
