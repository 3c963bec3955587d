"""The application: found by its name, and told apart by looking: ASGI 3, ASGI 2 or WSGI."""

import difflib
import functools
import importlib
import inspect
from collections.abc import Callable
from enum import Enum
from types import ModuleType
from typing import Any

from ...ipc.errors import BkdError

WSGI_NAMES = {"environ", "env", "start_response"}
ASGI_NAMES = {"scope"}


class AppError(BkdError):
    """The application cannot be used; the text says what to change."""


class Interface(Enum):
    """How the application wants to be called, by its number of arguments."""

    ASGI3 = 3  # (scope, receive, send)
    WSGI = 2  # (environ, start_response)
    ASGI2 = 1  # (scope), then (receive, send)


def find(name: str) -> Any:
    """Import `module:attribute`, `module:one.of.many` or `module:factory()`.

    Raises AppError when the name leads nowhere; what the application itself raises passes through unchanged.
    """
    module_name, _, path = name.partition(":")
    factory = path.endswith("()")
    path = path.removesuffix("()")
    if not module_name or not path or not all(part.isidentifier() for part in path.split(".")):
        raise AppError(f'app = "{name}": write it as "module:attribute" or "module:factory()"')
    target = _attribute(_module(module_name), path)
    return _made(target, name) if factory else target


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        raise AppError(f"no module named {error.name!r}: check app and cwd of the group") from error


def _attribute(module: ModuleType, path: str) -> Any:
    target: Any = module
    for part in path.split("."):
        if not hasattr(target, part):
            raise AppError(_missing(module, path, target, part))
        target = getattr(target, part)
    return target


def _missing(module: ModuleType, path: str, target: Any, part: str) -> str:
    near = difflib.get_close_matches(part, dir(target), 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    where = module.__name__ if part == path else f"{module.__name__}:{path}"
    return f"{where} has no attribute {part!r}{hint}"


def _made(factory: Any, name: str) -> Any:
    if not callable(factory):
        raise AppError(f"{name}: {type(factory).__name__} cannot be called; leave the () out")
    signature = _signature(factory)
    if signature is not None and _required(signature):
        raise AppError(f"{name}: the factory needs arguments ({', '.join(_required(signature))}); it is called without")
    made = factory()
    if inspect.iscoroutine(made):
        made.close()
        raise AppError(f"{name}: an async function cannot be a factory; make it a plain one")
    return made


def look(app: Any, name: str) -> Interface:
    """Which interface `app` has. Raises AppError when that cannot be told, with what to write instead."""
    if not callable(app):
        raise AppError(f"{name}: {type(app).__name__} is not an application")
    signature = _signature(app)
    if signature is None:
        raise _unclear(name)
    required = _required(signature)
    if not required and not _is_open(signature):
        hint = f"{name}()" if not name.endswith(")") else "an application"
        raise AppError(f"{name} takes no arguments, so it is no application; if it makes one write {hint}")
    return _by_coroutine(app) or _by_count(signature) or _by_name(required) or _raise(_unclear(name))


def _raise(error: Exception) -> Any:
    raise error


def _unclear(name: str) -> AppError:
    return AppError(
        f"{name}: cannot tell ASGI from WSGI by its arguments; "
        "wrap it in a function of (scope, receive, send) or (environ, start_response)"
    )


def _signature(app: Any) -> inspect.Signature | None:
    try:
        return inspect.signature(app)
    except (TypeError, ValueError):  # builtins and C extensions may have none
        return None


def _required(signature: inspect.Signature) -> list[str]:
    plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [p.name for p in signature.parameters.values() if p.kind in plain and p.default is p.empty]


def _is_open(signature: inspect.Signature) -> bool:
    return any(p.kind is p.VAR_POSITIONAL for p in signature.parameters.values())


def _by_coroutine(app: Any) -> Interface | None:
    if inspect.isclass(app):
        return Interface.ASGI3 if hasattr(app, "__await__") else None
    called = app if inspect.isroutine(app) or isinstance(app, functools.partial) else app.__call__
    return Interface.ASGI3 if inspect.iscoroutinefunction(called) else None


def _by_count(signature: inspect.Signature) -> Interface | None:
    count = len(_required(signature))
    if _is_open(signature) or count not in (1, 2, 3):
        return None
    return Interface(count)


def _by_name(required: list[str]) -> Interface | None:
    if WSGI_NAMES & set(required):
        return Interface.WSGI
    return Interface.ASGI3 if ASGI_NAMES & set(required) else None


def strict(app: Callable[..., Any], interface: Interface) -> Callable[..., Any]:
    """`app`, behind a function of just its arguments if it would take none: uvicorn tries every application as a
    factory first."""

    def asgi3(scope: Any, receive: Any, send: Any) -> Any:
        return app(scope, receive, send)

    def asgi2(scope: Any) -> Any:
        return app(scope)

    if _takes_none(inspect.signature(app)):
        return asgi2 if interface is Interface.ASGI2 else asgi3
    return app


def _takes_none(signature: inspect.Signature) -> bool:
    try:
        signature.bind()
    except TypeError:
        return False
    return True
