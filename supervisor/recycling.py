"""When a healthy worker has lived long enough: by requests, age or memory. Pure."""

from zlib import crc32

from .cluster import Group, Pulse, Worker
from .config.units import format_duration, format_size
from .watch import Watch

SPREAD = 0.1


def worn(group: Group, worker: Worker, pulse: Pulse) -> str:
    """Why this heartbeat is one too many, "" when it is not."""
    settings = group.settings
    if settings.max_requests and pulse.served >= _spread(settings.max_requests, worker):
        return f"{pulse.served} requests served (max_requests = {settings.max_requests})"
    if settings.max_memory and pulse.rss >= _spread(settings.max_memory, worker):
        return f"{format_size(pulse.rss, rough=True)} of memory (max_memory = {format_size(settings.max_memory)})"
    return ""


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
