"""What a configuration may say already and this version does not do yet: refused where it matters, told where not."""

from collections.abc import Iterator

from .config.faults import Fault
from .config.schema import Config, GroupSection

_IGNORED = ("may",)
_REFUSED = ("user", "group", "umask")


def refused(config: Config) -> list[Fault]:
    """Faults: to start without these would be to do something else than what is written there."""
    faults = []
    if config.bus.url != "local:":
        faults.append(Fault("bus.url", '"local:" (this version has no other bus)', config.bus.url.partition(":")[0]))
    for group in config.workers.values():
        key = f"workers.{group.name}"
        if group.kind == "messages":
            faults.append(Fault(f"{key}.kind", "web, python or command (this version runs no messages)", "messages"))
        for name in _REFUSED:
            if getattr(group, name):
                faults.append(
                    Fault(f"{key}.{name}", "nothing (workers run as whoever starts bkd)", getattr(group, name))
                )
        faults.extend(
            Fault(f"{key}.bind", "an address (this version takes no sockets over)", bind)
            for bind in group.bind
            if bind.startswith("fd:")
        )
    return faults


def ignored(config: Config) -> Iterator[str]:
    """Lines for the log: settings that have no effect in this version."""
    for group in config.workers.values():
        plain = GroupSection(group.name, group.kind)
        for name in _IGNORED:
            if getattr(group, name) != getattr(plain, name):
                yield f"workers.{group.name}.{name} has no effect in this version"
