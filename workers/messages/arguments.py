"""How the arguments of a message become those of a function: by its signature, checked on every run."""

import dataclasses
import inspect
import types
from collections.abc import Callable
from typing import Any, Union, get_args, get_origin, get_type_hints, is_typeddict

import msgspec

from .context import Context

WHOLE, CONTEXT = "args", "context"
Parameter = inspect.Parameter


class Arguments:
    """Of one function. `read` makes an object of the bytes, or raises what is UNREADABLE; `call` calls with it.

    A function takes them as a whole when its one parameter is called `args`, or is a Struct, a dataclass or a
    TypedDict; else each key is a parameter. What is called `context`, or is annotated as Context, is not among them.
    Raises ValueError for a function that cannot be called so.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        parameters = _parameters(function)
        contexts = [each for each in parameters if each.annotation is Context or each.name == CONTEXT]
        rest = [each for each in parameters if each not in contexts]
        if len(contexts) > 1:
            raise ValueError(f"{contexts[0].name} and {contexts[1].name} are both the context")
        self.context = contexts[0].name if contexts else ""
        self.call: Callable[[Any, Any], Any]
        if len(rest) == 1 and (rest[0].name == WHOLE or _is_whole(rest[0].annotation)):
            self.type: Any = rest[0].annotation
            self.call = self._whole(function, rest[0])
        else:
            self.type = _keywords(function, rest)
            self.call = self._by_name(function)
        self.read = _decoder(self.type).decode

    def _whole(self, function: Callable[..., Any], parameter: Parameter) -> Callable[[Any, Any], Any]:
        name, context = parameter.name, self.context
        if not context:
            return lambda value, _: function(value)
        if parameter.kind is Parameter.POSITIONAL_ONLY:
            return lambda value, given: function(value, **{context: given})
        return lambda value, given: function(**{name: value, context: given})

    def _by_name(self, function: Callable[..., Any]) -> Callable[[Any, Any], Any]:
        context, fields = self.context, msgspec.structs.asdict
        if not context:
            return lambda value, _: function(**fields(value))
        return lambda value, given: function(**fields(value), **{context: given})


def _parameters(function: Callable[..., Any]) -> list[Parameter]:
    """With their annotations as types; the return type does not matter here and may be anything."""
    inner = inspect.unwrap(function)
    inner = inner if hasattr(inner, "__globals__") else type(inner).__call__
    signature = inspect.signature(function)
    names = {name: hint for name, hint in inner.__annotations__.items() if name != "return"}
    try:
        hints = get_type_hints(_Annotated(names), inner.__globals__, include_extras=True)
    except NameError as error:
        raise ValueError(f"its annotations name {error.name}, which is not defined at that point") from error
    found = [each.replace(annotation=hints.get(each.name, Any)) for each in signature.parameters.values()]
    for each in found:
        if each.kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD):
            raise ValueError(f"it takes any number of {each.name}: name each argument, or take all of them as `args`")
    return found


class _Annotated:
    def __init__(self, annotations: dict[str, Any]) -> None:
        self.__annotations__ = annotations


def _is_whole(kind: Any) -> bool:
    if get_origin(kind) in (Union, types.UnionType):
        return all(_is_whole(each) for each in get_args(kind))
    kind = get_origin(kind) or kind
    is_struct = isinstance(kind, type) and issubclass(kind, msgspec.Struct)
    return is_struct or dataclasses.is_dataclass(kind) or is_typeddict(kind)


def _keywords(function: Callable[..., Any], parameters: list[Parameter]) -> type[msgspec.Struct]:
    """A type with a field for each parameter; a key that is none of them is refused, as Python refuses it."""
    for each in parameters:
        if each.kind is Parameter.POSITIONAL_ONLY:
            raise ValueError(f"{each.name} can only be given by position, but arguments of messages have names")
    name = getattr(function, "__name__", "arguments")
    return msgspec.defstruct(name, [_field(each) for each in parameters], kw_only=True, forbid_unknown_fields=True)


def _field(parameter: Parameter) -> tuple[str, Any] | tuple[str, Any, Any]:
    _decoder(parameter.annotation, parameter.name)
    if parameter.default is Parameter.empty:
        return parameter.name, parameter.annotation
    return parameter.name, parameter.annotation, msgspec.field(default_factory=lambda: parameter.default)


def _decoder(kind: Any, what: str = WHOLE) -> "msgspec.json.Decoder[Any]":
    try:
        if isinstance(msgspec.inspect.type_info(kind), msgspec.inspect.CustomType):
            raise TypeError(f"{getattr(kind, '__name__', kind)} cannot be read from JSON")
        return msgspec.json.Decoder(kind)
    except TypeError as error:
        raise ValueError(f"{what}: {str(error).splitlines()[0]}") from error
