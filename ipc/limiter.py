"""`ipc.limiter`: how often something may be done, in the fleet, on this host or in this process."""

import logging
import threading
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import TYPE_CHECKING, Any

import msgspec

from .bucket import Buckets, Rate
from .errors import BkdError

if TYPE_CHECKING:
    from .application import OnError, Scope

Ask = Callable[[str, dict[str, Any]], Awaitable[Any]]
LONGEST_NAME = 200
_log = logging.getLogger("bkd")


class Limiter:
    """The limits of this process, and the way to the others' by `ask` (an op and its data)."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._buckets = Buckets()
        self._lock = threading.Lock()
        self._failing = False

    def take(self, name: str, rate: Rate) -> float:
        """Seconds to wait, 0.0 to go on: in this process alone. Any thread; raises ValueError."""
        check_name(name)
        with self._lock:
            return self._buckets.take(name, rate, monotonic())

    async def take_far(self, name: str, rate: Rate, scope: "Scope", on_error: "OnError") -> float:
        """The same for all processes of the scope. When nobody can tell: 0.0 if `open`, else the rate's interval."""
        check_name(name)
        check_scope(scope)
        if on_error not in _MEANING:
            raise ValueError(f"on_error of a limiter is {' or '.join(_MEANING)}, not {on_error!r}")
        rate.check()
        try:
            delay = float(
                await self._ask("ipc:limiter", {"name": name, "scope": scope, **msgspec.structs.asdict(rate)})
            )
        except (BkdError, TypeError, ValueError) as error:
            return self._unknown(name, rate, error, on_error)
        self._failing = False
        return delay

    def _unknown(self, name: str, rate: Rate, error: Exception, on_error: "OnError") -> float:
        if not self._failing:
            self._failing = True
            _log.error("limiter %s: %s; calls are %s until it works again", name, error, _MEANING[on_error])
        return 0.0 if on_error == "open" else rate.interval


_MEANING = {"open": "let through", "closed": "held back"}


def check_name(name: str) -> None:
    """Raises ValueError for what cannot be the name of a limit or lock."""
    if not isinstance(name, str) or not 0 < len(name) <= LONGEST_NAME:
        raise ValueError(f"a name has 1 to {LONGEST_NAME} characters")


def check_scope(scope: str) -> None:
    """Raises ValueError for what the master would not know."""
    if scope not in ("fleet", "host"):
        raise ValueError(f"scope is fleet, host or process, not {scope!r}")
