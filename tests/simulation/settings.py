"""Configurations and releases, drawn by chance: what a cluster is started with, what it is given later, and what is
wrong with a release."""

from collections.abc import Iterable
from random import Random
from zlib import crc32

from msgspec.structs import replace

from bkd.supervisor.cluster import Origin
from bkd.supervisor.config.schema import GroupSection, Kind, PingSection, Restart

NAMES = ("web", "api", "jobs", "cache")
KINDS: dict[str, Kind] = {"jobs": "python", "cache": "command"}
FLAWS = (
    "import fails",
    "import hangs",
    "boot crash",
    "exit 78",
    "never ready",
    "short life",
    "dies settling",
    "killed twice",
    "hangs",
    "zygote dies",
    "zygote wedges",
    "spawn fails",
)
LIFETIME = 40.0
REPLACED = 10.0


def configuration(random: Random) -> tuple[dict[str, GroupSection], PingSection]:
    """What a cluster is started with."""
    names = random.sample(NAMES, random.randint(1, 3))
    return {name: section(random, name) for name in names}, pings(random)


def pings(random: Random) -> PingSection:
    """`[ping]`."""
    return PingSection(*random.choice(((10.0, 30.0), (2.0, 6.0), (1.0, 1.0), (10.0, 0.0))))


def section(random: Random, name: str) -> GroupSection:
    """`[workers.NAME]`; the kind follows from the name."""
    kind = KINDS.get(name, "web")
    restarts: tuple[Restart, ...] = ("always", "failure") if kind == "web" else ("always", "failure", "never")
    chosen = GroupSection(
        name=name,
        kind=kind,
        restart=random.choice(restarts),
        preload=random.choice(("auto", "auto", "true", "false")),
    )
    return relived(random, chosen)


def relived(random: Random, section: GroupSection) -> GroupSection:
    """The same group with other settings of those that change while its processes run."""
    surge, unavailable = random.choice(((1, 0), (1, 0), (2, 0), (1, 1), (0, 1), (0, 2), (3, 2)))
    if section.kind == "command" and random.random() < 0.5:
        surge, unavailable = 0, 1
    count = random.choice((1, 2, 4, 6, 12))
    return replace(
        section,
        count=count,
        start_timeout=random.choice((5.0, 30.0)),
        min_ready=random.choice((0.0, 1.0, 3.0)),
        drain=random.choice((0.0, 2.0, 10.0)),
        term=random.choice((0.5, 3.0)),
        max_restarts=random.choice((0, 0, 0, 20)),
        max_surge=surge,
        max_unavailable=unavailable,
        keep_releases=random.choice((0, 1, 1, 2)),
        max_requests=random.choice((0, 0, 200)),
        max_lifetime=random.choice((0.0, 0.0, renewable(count, surge, unavailable))),
        max_memory=random.choice((0, 50_000, 100_000)),
    )


def renewable(count: int, surge: int, unavailable: int) -> float:
    """A lifetime in which every slot can be renewed: without a surge one has to be gone before the next one starts."""
    return LIFETIME if surge else max(LIFETIME, REPLACED * count / unavailable)


def origin(section: GroupSection, flaw: str = "") -> Origin:
    """What a release is made of; a flaw lies in its code, wherever that runs."""
    return Origin(replace(section, env={"FLAW": flaw}))


def flaw(section: GroupSection) -> str:
    """What is wrong with the release that has these settings, "" when nothing is."""
    return section.env.get("FLAW", "")


def fresh_size(group: str, release: int, worker: int) -> int:
    """Bytes of memory a worker begins with: those of a release differ a little, releases a lot."""
    size = 20_000 + crc32(f"{group} {release}".encode()) % 50_000
    return size + size // 20 * (worker % 7) // 7


def staying(sections: dict[str, GroupSection], random: Random) -> dict[str, GroupSection]:
    """All but one at times, and always one at least."""
    names = sorted(sections)
    away = {random.choice(names)} if len(names) > 1 and random.random() < 0.4 else set()
    return {name: sections[name] for name in names if name not in away}


def coming(random: Random, known: Iterable[str]) -> dict[str, GroupSection]:
    """A group that was not there before, at times."""
    free = sorted(set(NAMES) - set(known))
    if not free or random.random() < 0.5:
        return {}
    name = random.choice(free)
    return {name: section(random, name)}
