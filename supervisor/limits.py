"""What there may be at most: open files (the master has two or three for every worker), addresses."""

import resource

from ..ipc.quantity import counted
from .config.faults import Fault
from .config.schema import Config

MOST_ADDRESSES = 200  # descriptors travel in one message, which takes 253 (unix(7), SCM_RIGHTS)
FOR_ITSELF = 64
FOR_A_WORKER = 3


def raise_files() -> None:
    """Up to the hard limit; for the master alone: workers are the keeper's children and keep what they were given."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def too_few(slots: int) -> str:
    """What to do when so many slots need more open files than there may be; "" when they do not."""
    limit, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = FOR_ITSELF + FOR_A_WORKER * slots
    if limit == resource.RLIM_INFINITY or needed <= limit:
        return ""
    need = counted(slots, "worker needs", "workers need")
    return f"{need} {needed} open files, and the limit is {limit}: raise it (ulimit -Hn, LimitNOFILE=)"


def too_many_addresses(config: Config) -> list[Fault]:
    """The fault of a configuration that listens on more addresses than can be handed on."""
    count = sum(len(group.bind) for group in config.workers.values())
    return (
        [Fault("workers", f"at most {MOST_ADDRESSES} addresses in all", str(count))] if count > MOST_ADDRESSES else []
    )
