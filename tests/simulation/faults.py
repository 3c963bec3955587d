"""What can go wrong by itself: each a function of the world, chosen and aimed by its seeded chance."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from bkd.supervisor import events

from .processes import Process

if TYPE_CHECKING:
    from .world import World

Fault = Callable[["World"], None]
LONGEST = 60.0
ABSENCES = (0.1, 0.3, 1.0, 20.0)


def aim(world: "World", *, ready: bool = True) -> Process | None:
    """One living process that nothing is wrong with yet."""
    found = [p for p in world.machine.living() if p.ready == ready and p.hung is None and p.clean and p.known]
    return world.random.choice(found) if found else None


def a_group(world: "World") -> str:
    """The name of some group."""
    return world.random.choice(sorted(world.cluster.groups))


def _dies(code: int, *, ready: bool = True, oom: bool = False) -> Fault:
    def fault(world: "World") -> None:
        process = aim(world, ready=ready)
        if process is not None:
            world.machine.die(process, code, oom=oom)

    return fault


def terminated(world: "World") -> None:
    """Somebody sends SIGTERM to a worker."""
    process = aim(world)
    if process is not None:
        world.machine.terminate(process)


def crash_all(world: "World") -> None:
    """A whole group crashes at the same moment."""
    group = a_group(world)
    for process in world.machine.living():
        if process.group == group and process.known:
            world.machine.die(process, -11)


def kill_flood(world: "World") -> None:
    """Somebody kills the same slot again and again."""
    process = aim(world)
    if process is None:
        return
    slot = process.slot

    def again(left: int) -> None:
        for victim in world.machine.living():
            if victim.slot == slot:
                world.machine.die(victim, -9)
        if left and not world.calm:
            world.after(0.5, lambda: again(left - 1))

    again(40)


def boots_fail(world: "World") -> None:
    """The database is away for a while: every boot of a group fails."""
    dials = world.machine.dials[a_group(world)]
    dials.boots_fail, dials.boot_code = True, world.random.choice((1, 3, 0, -6))
    world.after(world.random.uniform(1.0, LONGEST), lambda: setattr(dials, "boots_fail", False))


def imports_fail(world: "World") -> None:
    """Half a deploy: the application cannot be imported for a while."""
    dials = world.machine.dials[a_group(world)]
    dials.imports_fail = True
    world.after(world.random.uniform(1.0, LONGEST), lambda: setattr(dials, "imports_fail", False))


def slow_boot(world: "World") -> None:
    """The next boot of a group does not come to an end."""
    world.machine.dials[a_group(world)].slow_boots = 1


def spawns_fail(world: "World") -> None:
    """The kernel refuses the next processes of a group."""
    world.machine.dials[a_group(world)].spawns_fail = world.random.randint(1, 5)


def zygote_dies(world: "World") -> None:
    """A zygote is gone."""
    if not world.machine.zygotes:
        return
    world.machine.lose_zygote(world.random.choice(list(world.machine.zygotes.values())), "signal 9")


def zygote_wedges(world: "World") -> None:
    """A zygote answers nothing any more, and nothing else is seen of it."""
    if world.machine.zygotes:
        world.random.choice(list(world.machine.zygotes.values())).wedged = True


def _hangs(state: str, *, mute: bool, busy: float = 0.0, waiting: float = 0.0, traced: bool = False) -> Fault:
    def fault(world: "World") -> None:
        process = aim(world)
        if process is None:
            return
        process.hung, process.state, process.mute, process.traced = world.now, state, mute, traced
        process.starved = waiting > busy
        process.deaf = world.random.random() < 0.3
        process.use(world.now, busy, waiting)
        if state == "D" or traced or world.random.random() < 0.3:
            world.after(world.random.uniform(1.0, LONGEST), lambda: _recovers(world, process))

    return fault


def _recovers(world: "World", process: Process) -> None:
    if not process.alive:
        return
    process.hung, process.state, process.mute, process.traced = None, "S", False, False
    process.starved = process.deaf = False
    process.recovered = world.now
    process.use(world.now, 0.0, 0.0)
    if process.kill_waits:
        world.machine.die(process, -9)


def deaf(world: "World") -> None:
    """A worker will not hear of ending."""
    process = aim(world)
    if process is not None:
        process.deaf = True


def pause(world: "World") -> None:
    """The master itself stands still."""
    world.pause(world.random.choice((0.6, 3.0, 20.0, 120.0)))


def takeover(world: "World") -> None:
    """The master dies, and another one takes over."""
    world.take_over(world.random.choice(ABSENCES))


def doom(world: "World") -> None:
    """The master dies over one of its next orders, or a moment after; the next one perhaps as well."""
    world.doom(world.random.randint(1, 6))


def restless(world: "World") -> None:
    """Masters die again and again, also while they take over."""
    for _ in range(world.random.randint(2, 5)):
        world.after(world.random.uniform(0.0, 6.0), lambda: None if world.calm else world.take_over(0.1))


def disk_full(world: "World") -> None:
    """What happens now is not written down, and then the master dies."""
    seconds = world.random.choice((0.2, 1.0, 5.0))
    world.succession.forgets = world.now + 10.0
    world.after(seconds, lambda: _forgets(world))


def _forgets(world: "World") -> None:
    world.take_over(0.1)
    world.succession.forgets = 0.0


def state_lost(world: "World") -> None:
    """Another master begins beside all that there is, with nothing to go by."""
    world.succession.save = None
    world.take_over(world.random.choice(ABSENCES))


def several(world: "World") -> None:
    """More than one thing at once, the master among them as often as not."""
    if world.random.random() < 0.5:
        world.take_over(world.random.choice(ABSENCES))
    for fault in world.random.sample(AT_ONCE, world.random.randint(2, 3)):
        fault(world)


def edited(world: "World") -> None:
    """The files of a group are edited in place; now and then the edit is taken back."""
    name = a_group(world)
    dials = world.machine.dials[name]
    dials.edition = dials.edition + 1 if dials.edition == 1 or world.random.random() < 0.7 else dials.edition - 1
    zygotes = [zygote for zygote in world.machine.zygotes.values() if zygote.group == name]
    if zygotes and world.random.random() < 0.7:
        world.machine.lose_zygote(world.random.choice(zygotes), "signal 9")


def trips(world: "World") -> None:
    """A program says that it is stuck, or wants more time."""
    programs = [p for p in world.machine.living() if not p.speaks and p.known and p.told and p.clean]
    if programs:
        process = world.random.choice(programs)
        if world.random.random() < 0.5:
            process.tripped = True
            world.post(events.Tripped(process.worker, 1.0))
        else:
            world.post(events.Extended(process.worker, 2.0))


AT_ONCE: tuple[Fault, ...] = (
    _dies(-9),
    _dies(-11),
    _dies(1),
    _dies(-9, ready=False),
    crash_all,
    zygote_dies,
    zygote_wedges,
    deaf,
    edited,
)
FAULTS: dict[str, tuple[int, Fault]] = {
    "crash": (8, _dies(-11)),
    "exit 1": (5, _dies(1)),
    "exit 0": (2, _dies(0)),
    "exit 78": (1, _dies(78)),
    "out of memory": (2, _dies(-9, oom=True)),
    "kill from outside": (6, _dies(-9)),
    "boot crash": (4, _dies(1, ready=False)),
    "boot kill": (2, _dies(-9, ready=False)),
    "terminated": (1, terminated),
    "crash all": (1, crash_all),
    "kill flood": (1, kill_flood),
    "boots fail": (2, boots_fail),
    "imports fail": (2, imports_fail),
    "slow boot": (2, slow_boot),
    "spawns fail": (2, spawns_fail),
    "zygote dies": (3, zygote_dies),
    "zygote wedges": (2, zygote_wedges),
    "stuck": (4, _hangs("S", mute=True)),
    "loop stuck": (4, _hangs("S", mute=False)),
    "busy": (3, _hangs("R", mute=False, busy=0.95)),
    "starved": (2, _hangs("R", mute=True, busy=0.1, waiting=0.9)),
    "stopped": (3, _hangs("T", mute=True)),
    "traced": (2, _hangs("t", mute=True, traced=True)),
    "uninterruptible": (2, _hangs("D", mute=True)),
    "deaf": (2, deaf),
    "pause": (2, pause),
    "takeover": (2, takeover),
    "doom": (5, doom),
    "restless": (1, restless),
    "disk full": (1, disk_full),
    "state lost": (1, state_lost),
    "several": (2, several),
    "edited": (4, edited),
    "trips": (1, trips),
}
