"""What a worker is to do, by its kind: a part of the order that its process gets before it imports anything."""

import msgspec


class Doing(msgspec.Struct, frozen=True, omit_defaults=True):
    """Base of the kinds of work."""


class WebWork(Doing, frozen=True, tag="web"):
    """What a web worker needs to know. `listeners` are names in the order of the descriptors that come along."""

    app: str = ""
    listeners: list[str] = []
    lame_duck: float = 2.0
    slots: str = ""


class FunctionWork(Doing, frozen=True, tag="python"):
    """What a worker of kind `python` runs; `notify`: it is ready when it says so itself."""

    target: str = ""
    notify: bool = False


class MessagesWork(Doing, frozen=True, tag="messages"):
    """What an executor needs to know: modules that declare handlers, "shared" or "exclusive", how many runs at once in
    shared mode, and the path of the socket at which the dispatcher is."""

    handlers: list[str] = []
    mode: str = "shared"
    concurrency: int = 10
    socket: str = ""


class DispatcherWork(Doing, frozen=True, tag="dispatcher"):
    """What the dispatcher needs to know: the store's URL, the folder that a path in it is relative to, and the name of
    its node, the same for each dispatcher of this cluster. `listeners` as for the web; `patience`: for how many seconds
    a store that does not answer is waited for at the start. `users`: who may enqueue beside the cluster's own user and
    root; `runners`: which of these may run messages."""

    store: str = ""
    base: str = ""
    name: str = ""
    listeners: list[str] = []
    patience: float = 30.0
    users: list[int] = []
    runners: list[int] = []


Work = WebWork | FunctionWork | MessagesWork | DispatcherWork
