"""How the arguments of a message become those of a function."""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, TypedDict

import msgspec
import pytest

from bkd.ipc.message import UNREADABLE
from bkd.workers.messages.arguments import Arguments
from bkd.workers.messages.context import Context


class Invoice(msgspec.Struct, tag=True):
    id: int
    tags: list[str] = []


class Receipt(msgspec.Struct, tag=True):
    id: int


@dataclass
class Order:
    id: int
    at: datetime | None = None

    def __post_init__(self):
        if self.id < 0:
            raise ValueError("no such order")


class Place(TypedDict):
    city: str


def called(function, body, context="context"):
    """What the function makes of these arguments."""
    arguments = Arguments(function)
    return arguments.call(arguments.read(body), context)


def by_struct(args: Invoice):
    return args


def by_struct_of_another_name(invoice: Invoice, context: Context):
    return invoice, context


def by_dataclass(order: Order):
    return order


def by_typed_dict(place: Place):
    return place


def by_union(what: Invoice | Receipt):
    return what


def by_anything(args):
    return args


def by_position(args: dict[str, int], /, context):
    return args, context


@pytest.mark.parametrize(
    ("function", "body", "value"),
    [
        (by_struct, b'{"type":"Invoice","id":7}', Invoice(7)),
        (by_struct_of_another_name, b'{"type":"Invoice","id":7,"tags":["a"]}', (Invoice(7, ["a"]), "context")),
        (
            by_dataclass,
            b'{"id":7,"at":"2026-01-02T03:04:05Z"}',
            Order(7, datetime.fromisoformat("2026-01-02T03:04:05Z")),
        ),
        (by_typed_dict, b'{"city":"Bern"}', {"city": "Bern"}),
        (by_union, b'{"type":"Receipt","id":7}', Receipt(7)),
        (by_anything, b"[1,2]", [1, 2]),
        (by_position, b'{"a":1}', ({"a": 1}, "context")),
    ],
)
def test_as_a_whole(function, body, value):
    assert called(function, body) == value


def by_name(a: int, b: Annotated[str, msgspec.Meta(max_length=3)] = "x", *, c: Any = None, d: list[int] = [1]):  # noqa: B006 - it may be
    return a, b, c, d


def with_context(a: int, connection: Context):
    return a, connection


def of_struct_and_more(invoice: Invoice, copy: bool = False):
    return invoice, copy


def of_nothing():
    return "called"


def of_a_dict(options: dict[str, int]):
    return options


@pytest.mark.parametrize(
    ("function", "body", "value"),
    [
        (by_name, b'{"a":1}', (1, "x", None, [1])),
        (by_name, b'{"d":[],"c":{"x":1},"b":"y","a":1}', (1, "y", {"x": 1}, [])),
        (with_context, b'{"a":1}', (1, "context")),
        (of_struct_and_more, b'{"invoice":{"type":"Invoice","id":7}}', (Invoice(7), False)),
        (of_nothing, b"{}", "called"),
        (of_a_dict, b'{"options":{"a":1}}', {"a": 1}),
    ],
)
def test_by_name(function, body, value):
    assert called(function, body) == value


@pytest.mark.parametrize(
    ("function", "body"),
    [
        (by_name, b'{"a":"1"}'),
        (by_name, b'{"a":1,"e":2}'),
        (by_name, b"{}"),
        (by_name, b'{"a":1,"b":"long"}'),
        (by_name, b"[1]"),
        (by_name, b"{"),
        (by_name, b""),
        (by_name, b'{"a":1,"c":"\xff"}'),
        (by_anything, b"[" * 100_000),
        (of_nothing, b'{"a":1}'),
        (by_struct, b'{"type":"Other","id":7}'),
        (by_dataclass, b'{"id":-1}'),
        (by_typed_dict, b"{}"),
    ],
)
def test_what_does_not_fit_is_unreadable(function, body):
    with pytest.raises(UNREADABLE):
        called(function, body)


def test_what_is_asked_of_a_class_that_can_be_called():
    class Callable:
        def __call__(self, a: int):
            return a

    assert called(Callable(), b'{"a":1}') == 1
