"""When a healthy worker has lived long enough: by requests, age or memory. Pure.

Memory is PSS: what is shared with the zygote and the siblings counts by halves, thirds and so on. A `max_memory` that a
fresh worker hardly fits into would recycle one after the other for ever: it is refused for that release, as long as
that is so. What is fresh is judged when all slots serve: until then whoever comes first has much that will be shared.
"""

from math import ceil
from zlib import crc32

from msgspec.structs import replace

from ..ipc.quantity import counted
from ..ipc.units import format_duration
from .cluster import Cluster, Group, Phase, Pulse, Release, Worker
from .fact import span, volume
from .facts import LimitRefused
from .memorytrend import Sample, Trend, begun, followed, growth_per_request
from .rows import told, with_group, with_release
from .watch import Watch

SPREAD = 0.1
ROOM = 1.2
FRESH = 30.0
MEASURED = 6.0  # seconds after which a worker has measured its memory a second time, and said so
UNITS = (1 << 30, 1 << 20, 1 << 10)


def worn(group: Group, worker: Worker, pulse: Pulse) -> str:
    """Why this heartbeat is one too many, "" when it is not."""
    settings = group.settings
    if settings.max_requests and pulse.served >= _spread(settings.max_requests, worker):
        what = ("message run", "messages run") if settings.kind == "messages" else ("request served", "requests served")
        return f"{counted(pulse.served, *what)} (max_requests = {settings.max_requests})"
    limit = limit_of(group, worker)
    return _grown(settings.max_memory, worker, pulse) if limit and pulse.pss >= limit else ""


def outlived(group: Group, worker: Worker, watch: Watch) -> str:
    """Why this worker is too old, "" when it is not."""
    limit = group.settings.max_lifetime
    if not limit or not watch.due(worker.ready_at + _spread(limit, worker)):
        return ""
    return f"its time is over (max_lifetime = {format_duration(limit)})"


def _spread(limit: float, worker: Worker) -> float:
    """The limit of this one worker: siblings that started together do not end together."""
    share = crc32(b"%d %s" % (worker.id, worker.slot.encode())) / 0xFFFFFFFF
    return limit * (1.0 - SPREAD + 2 * SPREAD * share)


def _grown(limit: int, worker: Worker, pulse: Pulse) -> str:
    """Size and limit, and how it came to that as far as it is known."""
    text = f"{volume(pulse.pss)} of memory (max_memory = {volume(limit)})"
    trend = worker.trend
    if trend is None or not trend.fresh:
        return text
    text += f"; it grew from {volume(trend.fresh)}"
    growth = growth_per_request(trend, here(pulse))
    if growth is None:
        return f"{text} in {span(pulse.at - worker.ready_at)}"
    return f"{text}, {volume(round(growth))} a request over {counted(pulse.served - trend.fresh_served, 'request')}"


# -- memory


def here(pulse: Pulse) -> Sample:
    """What a heartbeat says of the memory."""
    return Sample(pulse.at, pulse.served, pulse.pss)


def measured(worker: Worker, pulse: Pulse) -> Trend | None:
    """The worker's trend after this heartbeat; most of them repeat the last measurement."""
    trend, before = worker.trend, worker.pulse
    if not pulse.pss or worker.phase == Phase.STARTING:
        return trend
    if trend is None:
        return begun(here(pulse), fresh=pulse.at < worker.ready_at + FRESH)
    return trend if before is not None and before.pss == pulse.pss else followed(trend, here(pulse))


def limit_refused(group: Group, number: int) -> bool:
    """Whether `max_memory` does not count for the workers of this release."""
    release, limit = group.releases.get(number), group.settings.max_memory
    return release is not None and limit != 0 and release.refused == limit


def limit_of(group: Group, worker: Worker) -> int:
    """At how many bytes this one worker is recycled, 0 when its memory does not matter, or not yet."""
    limit, release = group.settings.max_memory, group.releases.get(worker.release)
    if not limit or worker.trend is None or (release is not None and too_small(limit, release)):
        return 0
    return int(_spread(limit, worker))


def least(release: Release) -> int:
    """The smallest `max_memory`, in bytes, that makes sense for a release; rounded up to what is easily written."""
    size = ROOM * release.fresh
    unit = next((unit for unit in UNITS if size >= unit), 1)
    step = unit // 10 if unit > 1 and size < 10 * unit else unit
    return ceil(size / step) * step


def too_small(limit: int, release: Release) -> bool:
    """Whether a fresh worker of the release hardly fits into this `max_memory`."""
    return 0 < limit < ROOM * release.fresh


def refusal(release: Release) -> str:
    """Why the limit of `Release.refused` is not applied."""
    limit, fresh, small = (volume(size) for size in (release.refused, release.fresh, least(release)))
    why = f"a fresh worker of release {release.number} has {fresh}; at least {small} makes sense"
    return f"max_memory = {limit} is not applied: {why}"


def judged(cluster: Cluster, group: Group, number: int, fresh: int, now: float) -> Cluster:
    """A worker of this release had this size when it was fresh; the smallest one counts."""
    release, limit = group.releases.get(number), group.settings.max_memory
    if release is None:
        return cluster
    small = replace(release, fresh=min(release.fresh or fresh, fresh))
    if not too_small(limit, small):
        small = replace(small, refused=0)
    elif small.refused != limit and _is_whole(group, now):
        return _refused(cluster, group.name, replace(small, refused=limit))
    return cluster if small == release else with_release(cluster, group.name, small)


def _is_whole(group: Group, now: float) -> bool:
    """Whether all have come that share memory, and have been measured since."""
    slots = [slot for slot in group.eligible() if not slot.failed and not slot.done]
    youngest = max((worker.ready_at for slot in slots for worker in slot.staying), default=0.0)
    return group.roll is None and all(slot.serves for slot in slots) and now >= youngest + MEASURED


def thinned(group: Group) -> Group:
    """Its workers share their memory with fewer others from now on: what a fresh one has is to be seen again."""

    def unknown(worker: Worker) -> Worker:
        return worker if worker.trend is None else replace(worker, trend=replace(worker.trend, fresh=0))

    slots = {name: replace(row, workers=tuple(map(unknown, row.workers))) for name, row in group.slots.items()}
    limit = group.settings.max_memory  # one that is too small is so all the more
    releases = {
        number: row if row.refused or too_small(limit, row) else replace(row, fresh=0)
        for number, row in group.releases.items()
    }
    return replace(group, slots=slots, releases=releases)


def rejudged(cluster: Cluster, group: Group) -> Cluster:
    """Another `max_memory` is in force."""
    limit = group.settings.max_memory
    releases = {
        number: replace(release, refused=limit if too_small(limit, release) else 0)
        for number, release in group.releases.items()
    }
    cluster = with_group(cluster, replace(group, releases=releases))
    current = releases[group.current]
    return _refused(cluster, group.name, current) if current.refused else cluster


def _refused(cluster: Cluster, name: str, release: Release) -> Cluster:
    why, limit = refusal(release), release.refused
    fact = LimitRefused(group=name, release=release.number, limit=limit, fresh=release.fresh, why=why)
    return told(with_release(cluster, name, release), fact)
