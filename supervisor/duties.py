"""What the processes of a group are to do, as their order says it."""

from ..ipc.message import DispatcherWork, FunctionWork, MessagesWork, WebWork, Work
from . import dispatcher
from .config.schema import Config, GroupSection


def trial(settings: GroupSection) -> Work:
    """What imports the same as the group's workers would."""
    if settings.kind == "messages":
        return executing(settings, "")
    return FunctionWork(settings.target) if settings.kind == "python" else WebWork(settings.app)


def executing(settings: GroupSection, socket: str) -> MessagesWork:
    """The work of an executor; `socket`: where its dispatcher is."""
    return MessagesWork(list(settings.handlers), settings.mode, settings.concurrency, socket)


def dispatching(config: Config, run_dir: str, listener: str) -> DispatcherWork:
    """The work of the dispatcher of this cluster, at this listener."""
    node = f"{config.app.host}/{config.app.name}{run_dir}"
    return DispatcherWork(config.store.url, config.base, node, [listener], dispatcher.PATIENCE)
