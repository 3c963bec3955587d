"""Classes of errors: what an exception of a handler means for its message."""

import logging
from collections.abc import Callable, Mapping
from types import MappingProxyType

from ...ipc.durable.model import Fault
from ...ipc.errors import HeldError

Classifier = Callable[[BaseException], Fault | str | None]
Classes = Mapping[type[BaseException], Fault | str]
_log = logging.getLogger("bkd")

BY_DEFAULT: Classes = MappingProxyType(
    {
        HeldError: Fault.LOCK,
        TimeoutError: Fault.RETRYABLE,
        OSError: Fault.RETRYABLE,  # with ConnectionError, and names that cannot be resolved
        Exception: Fault.RETRYABLE,  # a fault in the code may be mended before the attempts are used up
        BaseException: Fault.RETRYABLE,
    }
)


def classifier(given: Classes | Classifier | None) -> Classifier | None:
    """What a kind has declared, as a function. Raises ValueError for a table that cannot be."""
    if given is None or not isinstance(given, Mapping):
        if given is not None and not callable(given):
            raise ValueError(f"classify: {given!r} is no table of exceptions and no function")
        return given
    table = {_exception(kind): _fault(fault) for kind, fault in given.items()}
    return lambda error: found(table, error)


def classed(error: BaseException, own: Classifier | None) -> Fault:
    """By the kind's own rule as far as that goes, then by the common table."""
    try:
        said = own(error) if own is not None else None
        if said is not None:
            return Fault(said)
    except Exception:  # noqa: BLE001 - it is code of the application, and this is about another error
        _log.exception("classify= failed; the error counts as retryable")
    return Fault(found(BY_DEFAULT, error) or Fault.RETRYABLE)


def found(table: Classes, error: BaseException) -> Fault | str | None:
    """The entry of the nearest class of this exception."""
    return next((table[kind] for kind in type(error).__mro__ if kind in table), None)


def _exception(kind: object) -> type[BaseException]:
    if not isinstance(kind, type) or not issubclass(kind, BaseException):
        raise ValueError(f"classify: {kind!r} is no type of exception")
    return kind


def _fault(fault: object) -> Fault:
    try:
        return Fault(fault)  # type: ignore[arg-type]
    except ValueError as error:
        raise ValueError(f"classify: {fault!r} is none of {', '.join(Fault)}") from error
