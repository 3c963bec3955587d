"""What the processes of a group are to do, as their order says it."""

from typing import NamedTuple

from loguru import logger

from ..ipc.message import DispatcherWork, FunctionWork, MessagesWork, WebWork, Work
from . import dispatcher
from .cluster import Cluster
from .config.schema import Config, GroupSection
from .privileges import Accounts, Credentials, PrivilegeError


def trial(settings: GroupSection) -> Work:
    """What imports the same as the group's workers would."""
    if settings.kind == "messages":
        return executing(settings, "")
    return FunctionWork(settings.target) if settings.kind == "python" else WebWork(settings.app)


def executing(settings: GroupSection, socket: str) -> MessagesWork:
    """The work of an executor; `socket`: where its dispatcher is."""
    return MessagesWork(list(settings.handlers), settings.mode, settings.concurrency, socket)


class Admitted(NamedTuple):
    """Another user whose processes may enqueue, and whether they may run messages."""

    credentials: Credentials
    runs: bool


def admitted(cluster: Cluster, accounts: Accounts) -> dict[int, Admitted]:
    """The users, by uid, as whom groups run, or will when they are taken back to a release that is kept."""
    found: dict[int, Admitted] = {}
    for release in (release for group in cluster.groups.values() for release in group.releases.values()):
        try:
            credentials = accounts.of(release.settings)
        except PrivilegeError as error:
            logger.warning("{} cannot reach the dispatcher: {}", release.settings.name, error)
            continue
        if credentials.uid >= 0:
            known = found.get(credentials.uid, Admitted(credentials, runs=False))
            found[credentials.uid] = known._replace(runs=known.runs or release.settings.kind == "messages")
    return found


def dispatching(config: Config, run_dir: str, listeners: list[str], admits: dict[int, Admitted]) -> DispatcherWork:
    """The work of the dispatcher of this cluster, at these listeners."""
    node = f"{config.app.host}/{config.app.name}{run_dir}"
    runners = [uid for uid, user in admits.items() if user.runs]
    return DispatcherWork(config.store.url, config.base, node, listeners, dispatcher.PATIENCE, [*admits], runners)
