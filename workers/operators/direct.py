"""Verbs of operators without a cluster: the store is opened here for the moment. Runs in the command's own process."""

import asyncio
import importlib
import os
import pwd
import socket
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from ...ipc.durable.model import NewMessage, Receipt
from ...ipc.durable.wire import Answered, Ask
from ...ipc.errors import BkdError
from ..store.opening import opened
from ..store.protocol import Store
from .verbs import FAILED, USAGE, Operators

T = TypeVar("T")


class Here:
    """The store in this process, used by nobody else meanwhile."""

    def __init__(self, store: Store) -> None:
        self.store = store

    async def run(self, function: Callable[[Store, int], T]) -> T:
        """As `verbs.Run`."""
        return function(self.store, self.store.clock())

    def put(self, messages: list[NewMessage]) -> Awaitable[list[Receipt]]:
        """As `verbs.Put`."""
        return self.run(lambda store, now: store.enqueue(messages, now))


Show = Callable[[str, str], None]


def run(verb: str, arguments: dict[str, Any], config: str | None, render: str, width: int, show: Show) -> int:
    """Give one command to the store of this configuration (None: looked for as usual); output and errors go to `show`.
    The exit code."""
    try:
        store = _store(config)
        answered = _answered(store, Ask(1, verb.partition(":")[2], arguments, render, width, _actor()), show)
    except BkdError as error:
        show("", f"bkd: {error}\n")
        return USAGE if hasattr(error, "faults") else FAILED
    show(answered.out, answered.err)
    return answered.code


def _store(config: str | None) -> Store:
    places = importlib.import_module("bkd.supervisor.places")  # by name: what a configuration is, is known there
    load = importlib.import_module("bkd.supervisor.config.load")
    read = load.load(places.find_config(config, os.environ), os.environ, hostname=socket.gethostname())
    url, base = str(read.store.url), str(read.base)
    return opened(url, base)


def _answered(store: Store, ask: Ask, show: Show) -> Answered:
    if ask.verb != "migrate":
        store.open()
    try:
        here = Here(store)
        return asyncio.run(
            Operators(here.run, lambda: None, here.put).answer(ask, lambda said: show(said.out, said.err))
        )
    finally:
        store.close()


def _actor() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"
