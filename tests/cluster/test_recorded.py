"""What a real master decided is what the policy decides: its events are recorded and played again."""

import functools
import operator
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec

from bkd.supervisor import actions, events
from bkd.supervisor.apply import apply
from bkd.supervisor.cluster import Cluster
from bkd.supervisor.reconcile import reconcile

from .clients import deploy, served
from .cluster import kill, until

MASTER = """
import msgspec
from bkd.supervisor import turns
from bkd.supervisor.master import main

record, apply, reconcile = open({path!r}, "ab", buffering=0), turns.apply, turns.reconcile

def write(**entry):
    data = msgspec.msgpack.encode(entry)
    record.write(len(data).to_bytes(4, "little") + data)

def recorded_apply(cluster, event, now):
    kind = type(event).__name__
    write(now=now, kind=kind, what=event.action if kind == "Taken" else event)
    return apply(cluster, event, now)

def recorded_reconcile(cluster, now):
    if not record.tell():
        write(now=now, kind="cluster", what=cluster)
    plan = reconcile(cluster, now)
    write(now=now, kind="plan", what=plan.actions, wake=plan.wake)
    return plan

turns.apply, turns.reconcile = recorded_apply, recorded_reconcile
main()
"""

START = f"""
import sys
from bkd.supervisor import keeperupgrade, launch

keeperupgrade.MASTER = {MASTER!r}.format(path=sys.argv[1])
sys.exit(launch.start_from_file(dict(config=sys.argv[-1])))
"""

WEB = {"app": "versioned:app", "count": 2, "min_ready": "300ms", "lame_duck": "2s", "term": "1s"}


class Entry(msgspec.Struct):
    """One call of the policy: an event that was applied, an action that was taken, or a plan with its next look."""

    now: float
    kind: str
    what: msgspec.Raw
    wake: float = 0.0


def union(base: type) -> msgspec.msgpack.Decoder:
    """Decodes every kind of event, or of action."""
    kinds = [kind for kind in base.__subclasses__() if kind is not events.Taken]
    return msgspec.msgpack.Decoder(functools.reduce(operator.or_, kinds))


def entries(path: Path) -> Iterator[Entry]:
    """What was recorded, in order."""
    data = path.read_bytes()
    while data:
        end = 4 + int.from_bytes(data[:4], "little")
        yield msgspec.msgpack.decode(data[4:end], type=Entry)
        data = data[end:]


def story(cluster) -> list[Entry]:
    """A start, a kill, a roll, a refused one, a change of the count, a stop."""
    path = cluster.folder / "record"
    cluster.start(prefix=[sys.executable, "-c", START, str(path)])
    old = cluster.pids("web")[0]
    kill(old)
    until(lambda: cluster.is_renewed(old))
    deploy(cluster, 2)
    assert cluster.bkd("restart", "web").returncode == 0
    deploy(cluster, "bad", "from starts import fails as start")
    assert cluster.bkd("restart", "web").returncode == 1
    assert served(cluster) == {"2"}
    assert cluster.bkd("scale", "web=3").returncode == 0
    assert cluster.stop().returncode == 0
    assert cluster.exit_code() == 0
    return list(entries(path))


def test_the_policy_decides_again_what_it_decided(prepare):
    first, *record = story(prepare(web=WEB))
    cluster = msgspec.msgpack.decode(first.what, type=Cluster)
    action, event = union(actions.Action), union(events.Event)
    seen = Counter()
    for number, entry in enumerate(record):
        seen[entry.kind] += 1
        if entry.kind == "plan":
            given = [action.decode(one) for one in msgspec.msgpack.decode(entry.what, type=list[msgspec.Raw])]
            assert reconcile(cluster, entry.now) == (given, entry.wake), number
            seen.update(type(one).__name__ for one in given)
        elif entry.kind == "Taken":
            cluster = apply(cluster, events.Taken(action.decode(entry.what)), entry.now)
        else:
            cluster = apply(cluster, event.decode(entry.what), entry.now)
    assert {"Pinged", "Exited", "RollAsked", "BootFailed", "Scaled", "StopAsked"} <= set(seen)
    assert {"Spawn", "Retire", "AdvanceRoll", "AbortRoll", "FinishRoll", "DropLoader", "Leave"} <= set(seen)
