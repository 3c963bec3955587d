"""What a configuration may say already and this version does not do yet: refused."""

from .config.faults import Fault
from .config.schema import Config, GroupSection
from .privileges import PrivilegeError, resolve


def refused(config: Config) -> list[Fault]:
    """Faults: to start without these would be to do something else than what is written there."""
    return [
        Fault(f"workers.{group.name}.user", "the user that bkd runs as: others cannot reach the messages", group.user)
        for group in config.workers.values()
        if group.kind == "messages" and _is_other(group)
    ]


def _is_other(group: GroupSection) -> bool:
    """Whether its processes would belong to another user; one that does not exist is a fault found elsewhere."""
    try:
        return resolve(group).uid >= 0
    except PrivilegeError:
        return False
