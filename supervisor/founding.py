"""A cluster or a group before anything of it has been started. Pure."""

from .cluster import Cluster, Group, Origin, Release, Slot, slot_names
from .config.schema import GroupSection, PingSection


def founded(
    groups: dict[str, GroupSection],
    ping: PingSection,
    *,
    origins: dict[str, Origin] | None = None,
    exit_when_failed: bool = False,
) -> Cluster:
    """The cluster of a configuration before anything has been started."""
    origins = origins or {}
    return Cluster(
        groups={name: founded_group(settings, origins.get(name)) for name, settings in groups.items()},
        ping=ping,
        exit_when_failed=exit_when_failed,
    )


def founded_group(settings: GroupSection, origin: Origin | None = None) -> Group:
    """A group with empty slots and its first release."""
    names = slot_names(settings.name, settings.count)
    slots = {name: Slot(name) for name in names}
    origin = origin or Origin(settings)
    release = made(1, origin)
    return Group(settings.name, settings, settings.count, 1, {1: release}, slots)


def origin_of(release: Release) -> Origin:
    """What a release is made of."""
    return Origin(release.settings, release.python, release.written, release.interpreter)


def made(number: int, origin: Origin) -> Release:
    """A release of this origin, not loaded yet."""
    return Release(number, origin.settings, origin.python, origin.written, origin.interpreter)
