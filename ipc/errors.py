"""Everything bkd raises. The type says whose fault it is."""


class BkdError(Exception):
    """Base of all errors of bkd."""


class FrameError(BkdError):
    """The peer sent bytes that are no frame, or a frame that is no message."""


class NotConnected(BkdError):
    """There is no cluster here, or its master cannot be reached."""


class RefusedError(BkdError):
    """The master understood and said no; the text says why."""


class DeadlineError(BkdError):
    """No answer came before the deadline."""
