"""What applications may say to each other and to the master: names of events, seeds, and the rule `may`. Pure."""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

LONGEST = 200
RESERVED = frozenset({"worker", "zygote", "cluster", "command", "bkd", "fleet", "shell", "ipc"})
VERBS = ("restart", "rollback", "reload", "scale")
FORGET = "ipc:lru:del"
_SHAPE = re.compile(r"[A-Za-z0-9._-]+(?::[A-Za-z0-9._-]+)+")


class Seed(NamedTuple):
    """An event that the masters obey, whatever channel it is sent to: a verb for all groups of some kinds."""

    verb: str
    kinds: tuple[str, ...] = ()

    def arguments(self, kinds: Mapping[str, str]) -> dict[str, Any]:
        """What stands behind the verb; `kinds`: the kind of each group."""
        if self.verb != "restart":
            return {"tell": True, "no_wait": True}
        return {"names": [name for name, kind in kinds.items() if kind in self.kinds], "no_wait": True}

    def lacks(self, arguments: Mapping[str, Any]) -> str:
        """Why there is nothing to be done, "" when there is."""
        return f"there is no group of kind {' or '.join(self.kinds)}" if arguments.get("names") == [] else ""


SEEDS = {
    "api:restart": Seed("restart", ("web",)),
    "worker:restart": Seed("restart", ("python", "messages")),
    "config:init": Seed("reload"),
}


def refusal(op: str) -> str:
    """Why no application may use this name for an event, "" when it may. Seeds come before."""
    if len(op) > LONGEST or _SHAPE.fullmatch(op) is None:
        return (
            f"{op[:40]!r} is no name of an event: noun:verb of letters, digits and . _ -, at most {LONGEST} characters"
        )
    noun, _, verb = op.partition(":")
    if noun == "repl":
        return f"{op} is not for events: use bkd shell NAME"
    if noun in RESERVED:
        return f"{op}: events of {noun} are bkd's own; choose another noun"
    if verb == "ready" or verb.endswith(":ready"):
        return f"{op} is a fact that bkd finds out itself; choose another verb"
    return ""


def concerned(verb: str, arguments: Mapping[str, Any], groups: Iterable[str]) -> list[str]:
    """The groups that a command is about; `groups`: those there are."""
    if verb == "scale":
        return [str(name) for name in arguments]
    if verb == "rollback":
        return [_group(arguments.get("name"))]
    if verb == "restart":
        names = arguments.get("names")
        return [_group(name) for name in names] if isinstance(names, list) and names else list(groups)
    return []


def _group(name: object) -> str:
    """That of a group or slot."""
    return str(name).partition(".")[0]


def allowed(may: Collection[str], verb: str, groups: Collection[str]) -> bool:
    """Whether `may` lets workers do this to these groups: VERB and VERB:* are for all, VERB:GROUP for one."""
    if verb in may or f"{verb}:*" in may:
        return True
    return bool(groups) and all(f"{verb}:{group}" in may for group in groups)


def missing(may: Collection[str], verb: str, groups: Collection[str]) -> list[str]:
    """What `may` lacks for this; empty when nothing."""
    if allowed(may, verb, groups):
        return []
    return [f"{verb}:{group}" for group in groups if f"{verb}:{group}" not in may] or [verb]
