"""What the checks know, as of a save: a new master is judged by what it can know."""

from collections import Counter
from copy import copy
from typing import TYPE_CHECKING, NamedTuple

from bkd.supervisor.cluster import Cluster

from .promise import Record
from .trial import RollKey

if TYPE_CHECKING:
    from .checks import Checks


class Knowledge(NamedTuple):
    """Copies of what changes: see `Checks`, `RollChecks`, `SurvivalChecks`."""

    records: dict[int, Record]
    live: dict[str, int]
    asks: Counter[str]
    dropped: dict[str, int]
    doomed: set[RollKey]
    kills: Counter[tuple[RollKey, str]]


def knowledge(checks: "Checks") -> Knowledge:
    """As it is now; what is written down is final for the journal."""
    rolls = checks.rolls
    records = {number: copy(checks.records[number]) for number in checks.world.cluster.places}
    checks.survival.saved()
    return Knowledge(
        records, dict(rolls.live), Counter(rolls.asks), dict(rolls.dropped), set(rolls.doomed), Counter(rolls.kills)
    )


def restored(checks: "Checks", known: Knowledge | None, cluster: Cluster) -> None:
    """As it was then; of workers that the state does not know nothing stays, for their numbers come again."""
    rolls = checks.rolls
    known = known or Knowledge({}, {}, Counter(), {}, set(), Counter())
    for number in [number for number in checks.records if number >= cluster.next_worker]:
        del checks.records[number]
    for number, record in known.records.items():
        killed = checks.records[number].killed is not None
        checks.records[number] = copy(record)
        checks.records[number].again = record.again or killed
    for row, then in ((rolls.live, known.live), (rolls.dropped, known.dropped)):
        row.clear()
        row.update(then)
    rolls.asks, rolls.doomed, rolls.kills = Counter(known.asks), set(known.doomed), Counter(known.kills)
    checks.fresh.clear()
    checks.condemned = {number for number, record in known.records.items() if record.condemned is not None}
    checks.unborn = {worker.id for _, _, worker in cluster.workers() if not worker.pid}
    rolls.prints = {made: prints for made, prints in rolls.prints.items() if _is_known(cluster, *made)}
    checks.survival.forgotten()


def _is_known(cluster: Cluster, group: str, release: int) -> bool:
    """Whether the state knows which files this release is made of."""
    row = cluster.groups.get(group)
    return row is not None and release in row.releases and bool(row.releases[release].prints)
