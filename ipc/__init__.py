"""What a process of a bkd application says to the others.

Importing this package costs nothing: the application's face is loaded at its first use.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .application import Application, Event, ipc
    from .errors import BkdError, NotConnected

__all__ = ["Application", "BkdError", "Event", "NotConnected", "ipc"]


def __getattr__(name: str) -> object:
    if name in ("ipc", "Application", "Event"):
        from . import application

        return getattr(application, name)
    if name in ("BkdError", "NotConnected"):
        from . import errors

        return getattr(errors, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
