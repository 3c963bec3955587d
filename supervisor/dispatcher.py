"""The dispatcher of messages: a group that no configuration names, there as long as one has groups of kind messages."""

from typing import Literal

from msgspec.structs import replace

from ..ipc.durable.wire import letterbox
from .cluster import Cluster, Group
from .config.schema import Config, GroupSection, PingSection

NAME = "dispatcher"
KIND: Literal["dispatcher"] = "dispatcher"
SLOT = "dispatcher.1"
LISTENER = "messages"  # among the listeners of the cluster
DRAIN = 5.0  # seconds to write what is left; when it is asked, all who run messages have ended
MIN_READY = 1.0
WARN, KILL = 2.0, 5.0  # seconds of silence at most: all messages wait for it, and no application makes it wait
PATIENCE = 30.0  # seconds that a store which is away at first is waited for


def with_dispatcher(config: Config) -> Config:
    """The configuration with its dispatcher, if it needs one. A store has one owner: the old one ends first."""
    if not has_messages(config):
        return config
    groups = config.workers.values()
    section = GroupSection(
        NAME,
        KIND,
        preload="false",
        cwd=config.base,
        start_timeout=PATIENCE + max(group.start_timeout for group in groups if group.kind == "messages"),
        min_ready=MIN_READY,
        drain=DRAIN,
        max_surge=0,
        max_unavailable=1,
    )
    return replace(config, workers={NAME: section, **config.workers})


def limits(settings: GroupSection | None, ping: PingSection) -> PingSection:
    """How long workers with these settings may be silent, or their loop stand still. What is never to be ended for that
    never is."""
    if settings is None or settings.kind != KIND:
        return ping
    return replace(ping, interval=min(ping.interval, WARN), kill=min(ping.kill, KILL))


def has_messages(config: Config) -> bool:
    """Whether any group runs messages."""
    return any(group.kind == "messages" for group in config.workers.values())


def is_last(cluster: Cluster, group: Group) -> bool:
    """Whether this is the dispatcher, and others are there: whatever ends, they end first, and it writes what they come
    to."""
    return group.settings.kind == KIND and any(slot != SLOT for slot in cluster.places.values())


def is_superfluous(cluster: Cluster, group: Group) -> bool:
    """Whether this is the dispatcher, and the last group of messages is gone."""
    if group.settings.kind != KIND or group.leaving:
        return False
    return not any(other.settings.kind == "messages" for other in cluster.groups.values())


def listener(uid: int = -1) -> str:
    """The name of the listener for processes of that user, -1: of bkd's own."""
    return LISTENER if uid < 0 else f"{LISTENER}:{uid}"


def is_listener(name: str) -> bool:
    """Whether the dispatcher listens there."""
    return name == LISTENER or name.startswith(f"{LISTENER}:")


def path(run_dir: str, uid: int = -1) -> str:
    """Where it listens for that user."""
    return letterbox(f"{run_dir}/worker.{uid}.sock" if uid >= 0 else f"{run_dir}/control.sock")
