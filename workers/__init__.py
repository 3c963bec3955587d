"""The processes that work, and what applications say about durable messages.

Loaded by every worker: the names below are imported when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .messages.context import Context as Context
    from .messages.handlers import handler as handler
    from .messages.producer import end_of as end_of
    from .messages.producer import enqueue as enqueue
    from .messages.producer import enqueue_many as enqueue_many
    from .messages.producer import sync_end_of as sync_end_of
    from .messages.producer import sync_enqueue as sync_enqueue
    from .messages.producer import sync_enqueue_many as sync_enqueue_many
    from .messages.retrying import Calendar as Calendar
    from .messages.retrying import Exponential as Exponential
    from .messages.retrying import Fixed as Fixed
    from .messages.words import Invalid as Invalid
    from .messages.words import Reject as Reject
    from .messages.words import Retry as Retry
    from .messages.words import Snooze as Snooze

_HOMES = {
    "handler": "handlers",
    "Context": "context",
    "Retry": "words",
    "Reject": "words",
    "Snooze": "words",
    "Invalid": "words",
    "Exponential": "retrying",
    "Fixed": "retrying",
    "Calendar": "retrying",
    "enqueue": "producer",
    "enqueue_many": "producer",
    "end_of": "producer",
    "sync_enqueue": "producer",
    "sync_enqueue_many": "producer",
    "sync_end_of": "producer",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".messages.{home}", __name__), name)
