"""`bkd doctor fork-safety`: may an application be forked? Seen in a process that imports it and is thrown away."""

import difflib
import os
from typing import NamedTuple

import msgspec

from ...ipc.errors import BkdError
from ...ipc.message import Load, WebWork, Work
from .. import duties, places
from ..asking import USAGE, show
from ..config.schema import Config, GroupSection
from ..setup import Options, read_config
from .finding import printable, table
from .forkverdict import Judgement, judge
from .seen import Failed, Seen
from .throwaway import Trial, interpreter, seen

LIMIT = 120.0


class NoSuchApp(BkdError):
    """What is named is neither an application nor a group that can be forked; the text says what to write."""


class Target(NamedTuple):
    """What is to be judged, as it would be loaded, and `preload` of its group."""

    trial: Trial
    preload: str


def run(app: str, config: str | None, as_json: bool) -> int:
    """Print what was found; returns the exit code: 0 safe to fork, 1 not, or the import failed, 2 wrong usage.

    Raises NoConfig and ConfigError.
    """
    try:
        chosen = target(app, _configuration(config))
    except NoSuchApp as error:
        show("", f"bkd: {error}\n")
        return USAGE
    found = seen(chosen.trial)
    if isinstance(found, Failed):
        _print_failure(app, found, as_json=as_json)
        return 1
    judgement = judge(found, cwd=chosen.trial.load.cwd, preload=chosen.preload)
    if as_json:
        show(msgspec.json.encode(_document(app, found, judgement)).decode() + "\n", "")
    else:
        show(printable(table(judgement.topics, judgement.verdict)), "")
    return 1 if judgement.reasons else 0


def target(app: str, config: Config | None) -> Target:
    """A group by its name or by what it runs, else `app` in the folder this was called in; raises NoSuchApp."""
    groups = list(config.workers.values()) if config else []
    group = next((group for group in groups if app in (group.name, group.app, group.target)), None)
    python = interpreter(config.app.python if config else "")
    name = config.app.name if config else ""
    if group is not None:
        load = Load(name, group.name, 1, _work(group), group.cwd, group.env)
        return Target(Trial(load, python, group.start_timeout), group.preload)
    if ":" not in app:
        raise NoSuchApp(_unknown(app, [group.name for group in groups]))
    return Target(Trial(Load(name, "", 1, WebWork(app), places.here(os.environ)), python, LIMIT), "auto")


def _configuration(option: str | None) -> Config | None:
    try:
        path = places.find_config(option, os.environ)
    except places.NoConfig:
        if option:
            raise
        return None
    return read_config(Options(fd=-1, config=path))


def _work(group: GroupSection) -> Work:
    if group.kind == "command":
        raise NoSuchApp(f"{group.name} is of kind {group.kind}: its workers are never forked")
    return duties.trial(group)


def _unknown(app: str, groups: list[str]) -> str:
    near = difflib.get_close_matches(app, groups, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"{app}: no such group{hint} (write MODULE:NAME for what is in no configuration)"


def _print_failure(app: str, failed: Failed, *, as_json: bool) -> None:
    if as_json:
        document = {"ok": False, "app": app, "verdict": "failed", "reasons": [failed.reason], "trace": failed.trace}
        show(msgspec.json.encode(document).decode() + "\n", "")
        return
    trace = f"{failed.trace.rstrip()}\n" if failed.trace else ""
    show("", f"{trace}bkd: {app} cannot be imported: {failed.reason}\n")


def _document(app: str, found: Seen, judgement: Judgement) -> dict[str, object]:
    return {
        "ok": not judgement.reasons,
        "app": app,
        "verdict": judgement.verdict,
        "reasons": judgement.reasons,
        "seconds": round(found.inside.seconds, 3),
        "packages": found.packages,
        "memory": found.memory,
        "findings": [
            {"topic": topic, **msgspec.to_builtins(finding)}
            for topic, findings in judgement.topics
            for finding in findings
        ],
    }
