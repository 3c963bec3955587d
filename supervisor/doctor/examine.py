"""`bkd doctor`: every probe is tried, and what was found is printed."""

import msgspec

from ..asking import show
from . import clocks, controlgroup, folders, interpreter, kernel, resources, sight, subject, surroundings
from .attempt import Probe, tried
from .finding import Finding, printable, table
from .subject import Subject


def run(config: str | None, as_json: bool) -> int:
    """Print what was found; returns the exit code: 0, 1 when something that bkd needs is missing.

    Raises NoConfig when the file that is named is not there.
    """
    topics = examined(subject.find(config))
    findings = [finding for _topic, found in topics for finding in found]
    ok = not any(finding.state == "missing" for finding in findings)
    if as_json:
        documents = [{"topic": topic, **msgspec.to_builtins(one)} for topic, found in topics for one in found]
        show(msgspec.json.encode({"ok": ok, "findings": documents}).decode() + "\n", "")
    else:
        show(printable(table(topics)), "")
    return 0 if ok else 1


def examined(about: Subject) -> list[tuple[str, list[Finding]]]:
    """The findings of each topic."""
    every = probes(about)
    found = iter(tried({name: probe for _topic, some in every for name, probe in some.items()}))
    return [(topic, [next(found) for _name in some]) for topic, some in every]


def probes(about: Subject) -> list[tuple[str, dict[str, Probe]]]:
    """Everything that is tried, by topic."""
    return [
        ("kernel", kernel.probes()),
        ("control group", controlgroup.probes()),
        ("sight", sight.probes()),
        ("limits", resources.probes(about)),
        ("clocks", clocks.probes(about)),
        ("folders", {"configuration": lambda: subject.configuration(about), **folders.probes(about)}),
        ("surroundings", surroundings.probes(about)),
        ("Python", interpreter.probes()),
    ]
