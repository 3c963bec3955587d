"""Many stories in a process of their own: `python -m tests.simulation.stories --first 1 --last 9`.

Prints one JSON document a story and ends with 1 at the first promise that is broken. With `--most` it goes on with
new seeds until so many events were told.
"""

import argparse
import json
import subprocess
import sys
import traceback
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
LIMIT = 600.0


class Told(NamedTuple):
    """What came of some stories: `events` and `actions` by kind; `fault`: which promise was broken, and how to see it
    again."""

    events: Counter[str]
    actions: Counter[str]
    fault: str = ""


def read(output: str) -> Told:
    """The sum of what `main` printed."""
    events, actions, fault = Counter[str](), Counter[str](), ""
    for story in map(json.loads, output.splitlines()):
        events.update(story["events"])
        actions.update(story["actions"])
        fault = fault or story["fault"]
    return Told(events, actions, fault)


def play(*arguments: str, environment: Mapping[str, str] | None = None) -> Told:
    """Play stories in a process of their own; raises RuntimeError when it ends otherwise than `main` does."""
    command = [sys.executable, "-m", "tests.simulation.stories", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    told = read(done.stdout)
    if done.returncode != bool(told.fault):
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr}")
    return told


def main() -> None:
    """Play, print, end with 1 if something is broken."""
    from .world import World

    parser = argparse.ArgumentParser(description="plays many stories")
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--last", type=int)
    parser.add_argument("--most", type=int, help="events in all")
    given = parser.parse_args()
    seed, total = given.first, 0
    while (given.last is None or seed <= given.last) and (given.most is None or total < given.most):
        world, fault = World(seed), ""
        try:
            world.play()
        except Exception:  # noqa: BLE001 - whatever it is, it is told
            fault = traceback.format_exc()
        print(json.dumps({"seed": seed, "events": world.counts, "actions": world.actions, "fault": fault}), flush=True)
        if fault:
            sys.exit(1)
        seed, total = seed + 1, total + world.total


if __name__ == "__main__":
    main()
