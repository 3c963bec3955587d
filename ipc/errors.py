"""Everything bkd raises. The type says whose fault it is."""


class BkdError(Exception):
    """Base of all errors of bkd."""


class FrameError(BkdError):
    """The peer sent bytes that are no frame, or a frame that is no message."""


class NotConnected(BkdError):
    """There is no cluster here, or its master cannot be reached."""


class RefusedError(BkdError):
    """The master understood and said no; the text says why."""


class AwayError(RefusedError):
    """What the master needs for it, such as the bus, cannot be reached now; it may work later."""


class HeldError(RefusedError):
    """Another one holds the lock, for at most `wait` seconds more unless it renews it."""

    def __init__(self, text: str, wait: float) -> None:
        super().__init__(text)
        self.wait = wait


class DeadlineError(BkdError):
    """No answer came before the deadline."""


class ClosedError(BkdError):
    """Whoever was to answer went before it did."""


class RemoteError(BkdError):
    """The handler that was called raised something; the text says what, such as `ValueError: no such price`."""


def said(error: BaseException) -> str:
    """Type and text of whatever an application has raised, even if it cannot say itself."""
    try:
        text = str(error)
    except Exception as silent:  # noqa: BLE001 - it is the application's code that fails here
        text = f"its text cannot be had: {type(silent).__name__}"
    return f"{type(error).__name__}: {text}"
