"""A command given in `bkd top`: on a connection of its own and in a thread, so that the picture goes on."""

import threading

from ...ipc.errors import BkdError
from ..client import Client, Interrupted, NotRunning, next_master
from .figures import plain
from .inbox import Answered, Inbox, Progressed
from .model import Order

NOT_RUNNING = 4


class Errand(threading.Thread):
    """Gives one command; how it goes and how it ends go into the inbox."""

    def __init__(self, path: str, order: Order, inbox: Inbox) -> None:
        super().__init__(name=order.title, daemon=True)
        self.path, self.order, self.inbox = path, order, inbox
        self._said: list[str] = []

    def run(self) -> None:
        """The thread: to the end of the command, over the death of a master if need be."""
        try:
            code = self._give(self.order.verb, self.order.arguments, Client(self.path))
        except BkdError as error:
            code = NOT_RUNNING if isinstance(error, NotRunning) else 1
            self._said.append(f"bkd: {error}")
        text = "".join(self._said).rstrip("\n")
        self.inbox.put(Answered(self.order, code, [plain(line) for line in text.split("\n")] if text else []))

    def _give(self, verb: str, arguments: dict[str, object], client: Client) -> int:
        while True:
            try:
                code, out, err = client.run(verb, arguments, render="text", progress=self._heard)
            except Interrupted as broken:
                client.sock.close()
                client = next_master(self.path, broken.resume)
                verb, arguments = "await", broken.resume
            else:
                self._said += [out, err]
                client.sock.close()
                return code

    def _heard(self, out: str, err: str) -> None:
        self._said += [out, err]
        told = [line for line in (out + err).split("\n") if line]
        if told:
            self.inbox.put(Progressed(self.order, plain(told[-1])))
