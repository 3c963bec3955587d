"""Running a course in a thread that may wait: everything it awaits is done when it returns."""

from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from .context import Context
from .courier import Courier
from .run import Run

T = TypeVar("T")


class Blocking:
    """The way of plain handlers."""

    def __init__(self, courier: Courier) -> None:
        self.courier = courier

    async def call(self, run: Run, value: Any, context: Context | None) -> Any:
        return run.declaration.call(value, context)

    async def answer(self, run: Run, question: Any) -> Any:
        return run.awaited(self.ask(question))

    def progress(self, run: Run, body: bytes) -> None:
        self.courier.progress(run, body)

    def ask(self, question: Any) -> "Future[Any]":
        return self.courier.ask(question)


def stepped(coroutine: Coroutine[Any, Any, T]) -> "T":
    """The result of a coroutine that never suspends. Raises RuntimeError if it does."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    coroutine.close()
    raise RuntimeError("what has to block was suspended")
