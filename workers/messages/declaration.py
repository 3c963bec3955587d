"""A handler as it was declared: its function, what is promised of its kind, and whatever is wrong with that."""

import inspect
from collections.abc import Callable, Iterable
from typing import Any, Literal

import msgspec

from ...ipc.durable.policy import NAME, WHAT_NAMES_ARE, KindPolicy
from ...ipc.errors import BkdError
from .arguments import Arguments
from .draft import Duration
from .faults import Classes, Classifier, classifier
from .retrying import ATTEMPTS, Exponential, Retrying, span

MOST_ATTEMPTS, MOST_STAGES = 100_000, 100
MOST_LOCK = 1024
Mode = Literal["", "shared", "exclusive"]
LockKey = Callable[[Any], str | None]


class HandlerError(BkdError):
    """A handler cannot be as it is declared; the text says which one, and what is wrong."""


class Terms(msgspec.Struct, frozen=True):
    """What `handler` was told, as it was told."""

    stages: Iterable[str] = ("run",)
    retry: Retrying | None = None
    max_attempts: int | None = None
    timeout: Duration = "5m"
    grace: Duration = "5s"
    lock: LockKey | None = None
    notify: str = ""
    classify: Classes | Classifier | None = None
    mode: Mode = ""
    keep: Duration | None = "7d"
    keep_dead: Duration | None = "90d"
    max_crashes: int = 3
    max_locks: int = 20
    max_running: int = 0
    alarm: int = 100


class Declaration:
    """One handler. `call(args, context)` calls the function with what `read(bytes)` gave. Raises HandlerError."""

    def __init__(self, kind: str, function: Callable[..., Any], terms: Terms) -> None:
        self.function, self.where = function, place(function)
        try:
            self.policy = _policy(kind, terms)
            self.classify = classifier(terms.classify)
            self.lock, self.mode = _lock(terms.lock), _mode(terms.mode)
            arguments = Arguments(function)
        except ValueError as error:
            raise HandlerError(f'handler "{kind}" ({self.where}): {error}') from error
        self.read, self.call, self.wants_context = arguments.read, arguments.call, bool(arguments.context)
        self.stages = self.policy.stages
        self.is_async = is_async(function)

    def locks(self, value: Any) -> str:
        """The lock that a run with these arguments needs, "" for none. Raises TypeError if it is no text, ValueError if
        it is a long one."""
        key = None if self.lock is None else self.lock(value)
        if key is not None and not isinstance(key, str):
            raise TypeError(f"lock= gave a {type(key).__name__}, not a text or None")
        if key and len(key.encode()) > MOST_LOCK:
            raise ValueError(
                f"lock= gave a text of {len(key)} characters, more than {MOST_LOCK} bytes: use a hash of it"
            )
        return key or ""

    def is_same(self, other: "Declaration") -> bool:
        """Whether it is the same piece of code, imported once more."""
        mine, others = (getattr(inspect.unwrap(each.function), "__code__", None) for each in (self, other))
        return (
            mine is not None
            and others is not None
            and (mine.co_filename, mine.co_firstlineno) == (others.co_filename, others.co_firstlineno)
        )


def place(function: Callable[..., Any]) -> str:
    """Where it is written, for people."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    name = f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', repr(function))}"
    return f"{name}, line {code.co_firstlineno}" if code is not None else name


def is_async(function: Callable[..., Any]) -> bool:
    """Whether calling it gives something to be awaited, as far as that can be seen."""
    inner = inspect.unwrap(function)
    called = getattr(inner, "__call__", None)  # noqa: B004 - the method itself is looked at
    return any(inspect.iscoroutinefunction(each) for each in (function, inner, called))


def _policy(kind: str, terms: Terms) -> KindPolicy:
    if not isinstance(kind, str) or not NAME.fullmatch(kind):
        raise ValueError(WHAT_NAMES_ARE)
    retry: Retrying = Exponential() if terms.retry is None else terms.retry
    return KindPolicy(
        name=kind,
        stages=_stages(terms.stages),
        schedule=_schedule(retry),
        max_attempts=_attempts(terms),
        max_crashes=_count("max_crashes", terms.max_crashes, 1),
        max_locks=_count("max_locks", terms.max_locks, 1),
        timeout=span("timeout", terms.timeout),
        grace=span("grace", terms.grace),
        locks=terms.lock is not None,
        notify=_text("notify", terms.notify),
        keep=_kept("keep", terms.keep),
        keep_dead=_kept("keep_dead", terms.keep_dead),
        alarm=_count("alarm", terms.alarm, 1),
        max_running=_count("max_running", terms.max_running, 0),
    )


def _schedule(retry: Any) -> Any:
    if not hasattr(retry, "schedule"):
        raise ValueError(f"retry: {retry!r} is none of Exponential(…), Fixed(…), Calendar(…)")
    try:
        return retry.schedule()
    except (TypeError, ValueError) as error:
        raise ValueError(f"retry: {error}") from error


def _attempts(terms: Terms) -> int:
    here, there = terms.max_attempts, ATTEMPTS if terms.retry is None else terms.retry.max_attempts
    if here is not None and there not in (here, ATTEMPTS):
        raise ValueError(f"max_attempts: {here} here, but {there} in retry")
    return _count("max_attempts", there if here is None else here, 1)


def _stages(stages: Any) -> tuple[str, ...]:
    names = tuple(stages) if isinstance(stages, Iterable) and not isinstance(stages, str) else ()
    if not names or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f'stages: {stages!r} are no names: say it like ("send", "apply")')
    if len(names) > MOST_STAGES or len(set(names)) < len(names):
        raise ValueError(f"stages: 1 to {MOST_STAGES} different names, not {names!r}")
    return names


def _count(what: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= MOST_ATTEMPTS:
        raise ValueError(f"{what}: {value!r} is no number from {least} to {MOST_ATTEMPTS}")
    return value


def _text(what: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{what}: {value!r} is no text")
    return value


def _kept(what: str, value: Duration | None) -> float:
    return -1.0 if value is None else span(what, value)


def _lock(lock: Any) -> LockKey | None:
    if lock is not None and (not callable(lock) or is_async(lock)):
        raise ValueError("lock: give a plain function of the arguments that returns a text, or None for no lock")
    return lock  # type: ignore[no-any-return]


def _mode(mode: Any) -> Mode:
    if mode not in ("", "shared", "exclusive"):
        raise ValueError(f'mode: {mode!r} is neither "shared" nor "exclusive"')
    return mode  # type: ignore[no-any-return]
