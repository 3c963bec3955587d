"""`to` of a message: the master, one worker of a group, the worker of a slot, or everybody of a role. Pure."""

import re
from enum import Enum
from typing import NamedTuple

from ..ipc.errors import RefusedError

LONGEST = 400
_SLOT = re.compile(r"([a-z][a-z0-9_-]*)\.[1-9][0-9]{0,5}")
_GROUP = re.compile(r"[a-z][a-z0-9_-]*")
_TAG = re.compile(r"[^\s:]*")


class Reach(Enum):
    """Who gets it."""

    MASTER = "the master of this host"
    GROUP = "one worker of a group on this host"
    SLOT = "the worker that serves in a slot of this host"
    ROLE = "every worker of a role on every host, or on those with a tag"


class Destination(NamedTuple):
    """`name`: of the group, slot or role."""

    reach: Reach
    name: str
    tag: str = ""

    @property
    def group(self) -> str:
        """The group of a group or slot."""
        return self.name.partition(".")[0]


def parse(to: str, app: str) -> Destination:
    """What `to` means in this app; raises RefusedError."""
    if to == "server":
        return Destination(Reach.MASTER, to)
    if len(to) <= LONGEST:
        if ":" in to:
            return _role(to, app)
        if _GROUP.fullmatch(to):
            return Destination(Reach.GROUP, to)
        if _SLOT.fullmatch(to):
            return Destination(Reach.SLOT, to)
    raise RefusedError(f"nobody can be meant by to = {repr(to[:40])[:80]}: use server, web, web.2, :web or :web:TAG")


def _role(to: str, app: str) -> Destination:
    other, _, rest = to.partition(":")
    role, _, tag = rest.partition(":")
    if other not in ("", app):
        raise RefusedError(f"{to[:80]!r} is a channel of another app; this one is {app}")
    if _GROUP.fullmatch(role) is None or _TAG.fullmatch(tag) is None:
        raise RefusedError(f"{to[:80]!r} is no channel: use :all, :web or :web:TAG")
    return Destination(Reach.ROLE, role, tag)
