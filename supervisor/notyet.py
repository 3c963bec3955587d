"""What a configuration may say already and this version does not do yet: refused."""

from .config.faults import Fault
from .config.schema import Config

_REFUSED = ("user", "group", "umask")


def refused(config: Config) -> list[Fault]:
    """Faults: to start without these would be to do something else than what is written there."""
    faults = []
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
