"""What a process of a bkd application says to the others.

Importing this package costs nothing: the application's face is loaded at its first use.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .application import Application, Reached, ipc
    from .blocking import sync_ipc
    from .cache import Lru
    from .errors import (
        AwayError,
        BkdError,
        ClosedError,
        DeadlineError,
        HeldError,
        NotConnected,
        RefusedError,
        RemoteError,
    )
    from .handlers import Event
    from .lock import Lock

__all__ = [
    "Application",
    "AwayError",
    "BkdError",
    "ClosedError",
    "DeadlineError",
    "Event",
    "HeldError",
    "Lock",
    "Lru",
    "NotConnected",
    "Reached",
    "RefusedError",
    "RemoteError",
    "ipc",
    "sync_ipc",
]

_MODULES = {
    "Application": "application",
    "Event": "handlers",
    "Lock": "lock",
    "Lru": "cache",
    "Reached": "application",
    "ipc": "application",
    "sync_ipc": "blocking",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    module = importlib.import_module(f".{_MODULES.get(name, 'errors')}", __name__)
    if name == "ipc":
        module.prepare()
    return getattr(module, name)
