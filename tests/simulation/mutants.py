"""Faults planted in the policy, one at a time: the simulation has to find each of them, and soon.

`python -m tests.simulation.mutants [NAME…]` prints how many events that took and ends with 1 if one was not found.
"""

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from .stories import ROOT, Told, play

MOST = 100_000
PROCESSES = 2
PACKAGES = ("supervisor", "ipc", "workers")
FACE = ("__init__.py", "__main__.py", "cli.py")


class Mutant(NamedTuple):
    """In this module of the supervisor one piece of text, which occurs once, becomes another."""

    module: str
    old: str
    new: str


MUTANTS = {
    "killed at interval": Mutant("health", "(ping.kill or NEVER)", "ping.interval"),
    "judging in a late pass": Mutant("apply", "min(at + seconds + HEARING, now)", "at"),
    "no jitter in back-off": Mutant("backoff", "2.0 ** min(score, 30.0)) * chance", "2.0 ** min(score, 30.0))"),
    "no back-off": Mutant("moves", "self.watch.due(slot.next_try)", "True"),
    "planned exits are charged": Mutant("exits", "worker.ending is not None or not (trial", "not (trial"),
    "drain cut short": Mutant("endings", "end.step_at + group.settings.drain", "end.step_at"),
    "held slots are moved": Mutant("moves", "if slot.held:", "if False:"),
    "a wedged zygote is kept": Mutant("reconcile", "ORDER_LIMIT = 5.0", "ORDER_LIMIT = 5000.0"),
    "any ready worker passes for the canary": Mutant(
        "rolls", "w.release == roll.new and has_proven(group, w, watch)", "has_proven(group, w, watch)"
    ),
    "the canary is not watched": Mutant(
        "rolls",
        "if worker.phase != Phase.READY or not watch.due(worker.ready_at + time):",
        "if worker.phase != Phase.READY:",
    ),
    "drained before the successor is ready": Mutant(
        "moves", "has_proven(self.group, fresh, self.watch) if trial else fresh.phase == Phase.READY", "True"
    ),
    "surge unbounded": Mutant("moves", "elif self._second > 0:", "elif True:"),
    "recycling all at once": Mutant(
        "moves", "RECYCLED_LEAST, RECYCLED_SHARE = 1,", "RECYCLED_LEAST, RECYCLED_SHARE = 99,"
    ),
    "no limit on draining": Mutant(
        "moves", "DRAINING_LEAST, DRAINING_SHARE = 2,", "DRAINING_LEAST, DRAINING_SHARE = 99,"
    ),
    "everybody is killed": Mutant("moves", "roll.wanted.hard and roll.stage", "roll.stage"),
    "the old release is dropped too early": Mutant(
        "rolls", "number <= roll.old or number == roll.new", "number == roll.new"
    ),
    "the canary never gets work": Mutant(
        "reconcile", "if worker.quiet and rolls.may_serve(", "if False and rolls.may_serve("
    ),
    "nothing is forgotten": Mutant(
        "rolls", "elif release.number not in (*used,", "elif not release.number and release.number not in (*used,"
    ),
    "an abort leaves slots behind": Mutant(
        "rollouts", "replace(group, current=roll.old, roll=roll,", "replace(group, roll=roll,"
    ),
    "done before the last one is gone": Mutant("rolls", "if all(settled) and not any(", "if all(settled) or not any("),
    "deaths on trial are ignored": Mutant(
        "rollouts", "if end.cause in CHARGED or end.cause == Cause.OUTSIDE:", "if False:"
    ),
    "deaths on trial are charged": Mutant("exits", "    if trial:\n        return slot\n", ""),
    "hangs on trial are ignored": Mutant(
        "rollouts", 'return faulty(group, f"{worker.slot} {what}{reason}", slot=worker.slot)', "return group"
    ),
    "a second request is forgotten": Mutant("rollouts", "replace(group, queued=wanted)", "group"),
    "a limit without room for a fresh worker is applied": Mutant("recycling", "ROOM = 1.2", "ROOM = 0.0"),
    "another limit is not judged": Mutant("apply", "group.settings.max_memory != settings.max_memory", "False"),
    "what is shared counts in full": Mutant(
        "recycling", "limit and pulse.pss >= limit", "limit and pulse.rss >= limit"
    ),
    "the leanest is recycled first": Mutant("moves", "-max(worn, default=0)", "max(worn, default=0)"),
    "who has failed rolls on": Mutant("rolls", "if roll.fault and roll.stage != Stage.ABORTING:", "if False:"),
    "absence is silence": Mutant("apply", "return replace(cluster, judged_from=now)", "return cluster"),
    "deadlines run on without a master": Mutant(
        "apply", "replace(_postponed(cluster, event.seconds, now), sweeps", "replace(cluster, sweeps"
    ),
    "only silence is forgiven to the absent": Mutant(
        "apply",
        "replace(_postponed(cluster, event.seconds, now), sweeps",
        "replace(cluster, judged_from=now, sweeps",
    ),
    "a search dies with its master": Mutant("apply", "replace(sweep, taken=False)", "sweep"),
    "a kill dies with its master": Mutant("apply", "ending.step == Step.KILLED:", "ending.step == Step.SURVIVED:"),
    "an adoption ends the roll": Mutant(
        "apply", "roll = group.roll and replace(group.roll, stage_at=later(group.roll.stage_at))", "roll = None"
    ),
    "an adoption forgets who is held": Mutant(
        "apply",
        "return replace(slot, workers=tuple(_worker_later",
        "return replace(slot, held=False, workers=tuple(_worker_later",
    ),
    "an adoption forgives": Mutant(
        "apply",
        "return replace(slot, workers=tuple(_worker_later",
        "return replace(slot, next_try=0.0, workers=tuple(_worker_later",
    ),
    "the absence counts for those who start": Mutant(
        "apply", "ordered = later(worker.ordered) if worker.phase == Phase.STARTING else", "ordered ="
    ),
    "the absence counts for those who end": Mutant(
        "apply", "replace(ending, since=later(ending.since), step_at=later(ending.step_at))", "ending"
    ),
    "the absence counts for imports": Mutant("apply", "replace(release, since=later(release.since))", "release"),
    "nobody is blameless": Mutant("exits", "    if event.blameless:", "    if False:"),
    "who says again that it is ready begins anew": Mutant(
        "apply", "if place is None or place.worker.phase != Phase.STARTING:", "if place is None:"
    ),
    "a death is told again": Mutant(
        "exits",
        "return _settled(cluster, place, slot, cause, at)\n\n\ndef _noted",
        "return told(_settled(cluster, place, slot, cause, at), fact)\n\n\ndef _noted",
    ),
    "a lost release is loaded as if it were the same": Mutant("rollouts", "prints != release.prints", "False"),
    "an heir takes over at once": Mutant("rolls", "return all(worker.stale for worker in slot.staying)", "return True"),
}


def fits(mutant: Mutant) -> bool:
    """Whether the text to be changed is there, once."""
    return _source(mutant).count(mutant.old) == 1


def planted(mutant: Mutant | None) -> Told:
    """Play stories with this fault, or none, until one is broken or MOST events were told."""
    with _package(mutant) as folder:
        environment = {**os.environ, "PYTHONPATH": folder, "PYTHONDONTWRITEBYTECODE": "1"}
        return play("--first", "1001", "--most", str(MOST), environment=environment)


def _source(mutant: Mutant) -> str:
    return (ROOT / "supervisor" / f"{mutant.module}.py").read_text()


@contextmanager
def _package(mutant: Mutant | None) -> Iterator[str]:
    """A folder with a copy of the whole package, in which the fault is."""
    with tempfile.TemporaryDirectory(prefix="bkd-mutant-") as folder:
        package = Path(folder, "bkd")
        package.mkdir()
        for name in PACKAGES:
            shutil.copytree(ROOT / name, package / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in FACE:
            shutil.copy(ROOT / "src" / "bkd" / name, package)
        if mutant is not None:
            module = package / "supervisor" / f"{mutant.module}.py"
            module.write_text(_source(mutant).replace(mutant.old, mutant.new))
        yield folder


def _verdict(name: str, told: Told) -> str:
    why = told.fault.strip().splitlines()[-2:]
    return f"{name:<40} {told.events.total():>8,}  {why[0].rpartition('Broken: ')[2][:100] if why else 'NOT FOUND'}"


def main() -> None:
    """Plant the named faults, or all, and print what was found."""
    parser = argparse.ArgumentParser(description="plants faults in the policy, which the simulation has to find")
    parser.add_argument("names", nargs="*", default=sorted(MUTANTS), metavar="NAME")
    names = parser.parse_args().names
    unfit = [name for name in names if not fits(MUTANTS[name])]
    if unfit:
        sys.exit(f"the source is another by now: {', '.join(unfit)}; mend tests/simulation/mutants.py")
    print(f"{'fault':<40} {'events':>8}  what was found")
    with ThreadPoolExecutor(PROCESSES) as pool:
        sound = pool.submit(planted, None)
        found = dict(zip(names, pool.map(lambda name: planted(MUTANTS[name]), names), strict=True))
    if sound.result().fault:
        sys.exit(f"without any fault planted, this was found; mend it first:\n{sound.result().fault}")
    for name, told in found.items():
        print(_verdict(name, told))
    missed = [name for name, told in found.items() if not told.fault or told.events.total() > MOST]
    if missed:
        sys.exit(f"not found within {MOST:,} events: {', '.join(missed)}")


if __name__ == "__main__":
    main()
