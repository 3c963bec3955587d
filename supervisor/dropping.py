"""Becoming another user, for good. Standard library only: the keeper's children run this between fork and exec."""

import os
from typing import Any


def drop(order: dict[str, Any]) -> None:
    """Runs in the child. `umask`, `groups` (all supplementary ones), `gid` and `uid` of an order, where it has them.

    Real, effective and saved ids are set: there is no way back, and the kernel takes the capabilities of root away.
    Raises OSError, after which the process must not go on.
    """
    if "umask" in order:
        os.umask(order["umask"])
    if "groups" in order:
        os.setgroups(order["groups"])
    if "gid" in order:
        os.setresgid(order["gid"], order["gid"], order["gid"])
    if "uid" in order:
        os.setresuid(order["uid"], order["uid"], order["uid"])
