"""What operators do: each a function of the world, chosen and aimed by its seeded chance."""

from typing import TYPE_CHECKING

from bkd.supervisor import events, rolls
from bkd.supervisor.cluster import Group

from .faults import LONGEST, Fault, a_group, aim
from .settings import FLAWS, coming, origin, pings, relived, staying

if TYPE_CHECKING:
    from .world import World


def _a_slot(world: "World") -> str | None:
    slots = [slot.name for _, slot in world.cluster.slots()]
    return world.random.choice(slots) if slots else None


def _roll(world: "World", group: Group, *, flaw: str = "", hard: bool = False) -> None:
    quick = world.random.random() < 0.1
    made_of = origin(group.settings, flaw)
    world.post(events.RollAsked(group.name, made_of, flaw or "bkd restart", hard=hard, quick=quick))


def roll(world: "World") -> None:
    """New code that works."""
    _roll(world, world.cluster.groups[a_group(world)])


def bad_roll(world: "World") -> None:
    """New code that does not."""
    _roll(world, world.cluster.groups[a_group(world)], flaw=world.random.choice(FLAWS))


def second_roll(world: "World") -> None:
    """Two or three requests, one soon after the other."""
    name = a_group(world)
    for _ in range(world.random.randint(2, 3)):
        world.after(world.random.uniform(0.0, 8.0), lambda: _again(world, name))


def _again(world: "World", name: str) -> None:
    group = world.cluster.groups.get(name)
    if group is not None and not world.calm:
        _roll(world, group, flaw=_flaw(world))


def _flaw(world: "World") -> str:
    return world.random.choice(FLAWS) if world.random.random() < 0.3 else ""


def hard_roll(world: "World") -> None:
    """The old ones are killed first."""
    _roll(world, world.cluster.groups[a_group(world)], flaw=_flaw(world), hard=True)


def rollback(world: "World") -> None:
    """Back to the release before, if there is one."""
    group = world.cluster.groups[a_group(world)]
    if group.roll is None and rolls.kept(group):
        made_of = origin(group.settings)
        world.post(events.RollAsked(group.name, made_of, "bkd rollback", release=rolls.kept(group)[0]))


def call_off(world: "World") -> None:
    """A roll that is under way is not wanted any more."""
    rolling = [name for name, group in world.cluster.groups.items() if group.roll is not None]
    if rolling:
        world.post(events.RollCalledOff(world.random.choice(rolling), "a rollback was asked for"))


def replace_one(world: "World") -> None:
    """A fresh worker for a slot."""
    slot = _a_slot(world)
    if slot is not None:
        world.post(events.Replaced(slot, hard=world.random.random() < 0.3))


def reconfigure(world: "World") -> None:
    """Another configuration: settings and counts change, groups come and go; some groups roll onto it."""
    random, groups = world.random, world.cluster.groups
    if world.absent or world.now < world.paused:
        return
    sections = {name: group.settings for name, group in groups.items() if not group.leaving}
    sections = {name: relived(random, row) if random.random() < 0.6 else row for name, row in sections.items()}
    sections = staying(sections, random) | coming(random, groups)
    ping = pings(random) if random.random() < 0.3 else world.cluster.ping
    origins = {name: origin(section) for name, section in sections.items()}
    gone = [name for name, group in groups.items() if name not in sections and not group.leaving]
    taker: tuple[str, ...] = (random.choice(sorted(sections)),)
    makes_way = {name: taker for name in gone if random.random() < 0.5}
    world.post(events.Reconfigured(sections, ping, origins, world.cluster.exit_when_failed, makes_way))
    for name in sorted(set(sections) & set(groups)):
        if random.random() < 0.3:
            world.post(events.RollAsked(name, origins[name], "bkd reload"))


def scale(world: "World") -> None:
    """A count is changed."""
    world.post(events.Scaled(a_group(world), world.random.randint(0, 6)))


def hold(world: "World") -> None:
    """A slot is debugged for a while."""
    slot = _a_slot(world)
    if slot is not None:
        world.post(events.Held(slot, True))
        world.after(world.random.uniform(1.0, LONGEST), lambda: world.post(events.Held(slot, False)))


def reset(world: "World") -> None:
    """A slot or a group is forgiven."""
    name = world.random.choice((a_group(world), _a_slot(world)))
    if name is not None:
        world.post(events.Cleared(name))


def signal(world: "World") -> None:
    """A signal is sent through the supervisor."""
    process = aim(world)
    if process is not None:
        world.post(events.Signalled(process.worker, 15))
        world.machine.die(process, -15)


ORDERS: dict[str, tuple[int, Fault]] = {
    "roll": (12, roll),
    "bad roll": (16, bad_roll),
    "second roll": (6, second_roll),
    "hard roll": (3, hard_roll),
    "rollback": (6, rollback),
    "call off": (4, call_off),
    "replace": (4, replace_one),
    "reconfigure": (4, reconfigure),
    "scale": (3, scale),
    "hold": (3, hold),
    "reset": (2, reset),
    "signal": (2, signal),
}
