"""From a picture to families of metrics. Pure. Labels are names of the configuration and closed sets, never a pid.

What a family could say is said from the beginning, as zero: a counter that appears with its first event has, for who
scrapes, never risen.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
    StateSetMetricFamily,
)

from ...ipc.durable.model import State
from ..bus.letter import Refusal
from ..cluster import Cause, Stage, Verdict
from .picture import Picture

STATES = ("starting", "ready", "draining", "backoff", "failed", "held", "done")
CAUSES = tuple(str(cause) for cause in Cause)
VERDICTS = tuple(str(verdict) for verdict in Verdict if verdict != Verdict.OK)
CONSEQUENCES = ("reported", "replaced")
OUTCOMES = ("done", "aborted")
GROUP, SLOT = ("group",), ("group", "slot")
MOST_KINDS = 500  # kinds of messages, which whoever enqueues may invent

Row = tuple[tuple[str, ...], float | None]


class Reading(NamedTuple):
    """A number in a row of the status: where it stands there, and what it is called here."""

    key: str
    name: str
    help: str
    unit: str = ""
    counts: bool = False


WORKER = (
    Reading("restarts", "bkd_worker_restarts", "Restarts of this slot, over masters as well", counts=True),
    Reading("uptime", "bkd_worker_uptime_seconds", "Age of the process, from when it was ready", "seconds"),
    Reading("release", "bkd_worker_release", "Release of the process"),
    Reading("ping_age", "bkd_worker_heartbeat_age_seconds", "Since the last heartbeat", "seconds"),
    Reading("lag", "bkd_worker_lag_seconds", "Largest delay of the main loop since the last heartbeat", "seconds"),
    Reading("late", "bkd_worker_late", "How often the main loop was later than ping.lag_warn", counts=True),
    Reading("in_flight", "bkd_worker_in_flight", "Requests or messages being worked on"),
    Reading("served", "bkd_worker_requests", "Requests finished; 0 for what is no web worker", counts=True),
    Reading("rss", "bkd_worker_resident_bytes", "Memory, shared pages counted in full", "bytes"),
    Reading("pss", "bkd_worker_proportional_bytes", "Memory, shared pages divided by those who share", "bytes"),
    Reading("limit_in", "bkd_worker_limit_in_seconds", "Until max_memory, as its memory grows now", "seconds"),
    Reading("cpu", "bkd_worker_cpu_ratio", "Share of one CPU between the last two heartbeats", "ratio"),
    Reading("cpu_seconds", "bkd_worker_cpu_seconds", "CPU time of the process", "seconds", counts=True),
    Reading("dropped", "bkd_worker_events_dropped", "Application events it had no room for", counts=True),
)
IPC = (
    Reading("connections", "bkd_ipc_connections", "Connections of applications"),
    Reading("pending", "bkd_ipc_calls_pending", "Calls that wait for an answer"),
    Reading("dropped", "bkd_ipc_dropped", "Messages that their receivers had no room for", counts=True),
    Reading("refused", "bkd_ipc_refused", "Messages that were refused", counts=True),
)
BUS = (
    Reading("connected", "bkd_bus_connected", "1 while the bus is connected"),
    Reading("hosts", "bkd_bus_hosts", "Hosts known on the bus, this one included"),
    Reading("reconnects", "bkd_bus_reconnects", "Connections made anew", counts=True),
    Reading("late", "bkd_bus_late_commands", "Commands of the fleet that came too late", counts=True),
    Reading("lost", "bkd_bus_lost_messages", "Messages that could not be sent over the bus", counts=True),
)
COUNTED = (
    Reading("WorkerWorn", "bkd_recycled", "Workers recycled for requests, age, memory or want of descriptors"),
    Reading("WorkerKilled", "bkd_worker_sigkills", "Workers that got SIGKILL because they did not end"),
    Reading("Survivor", "bkd_worker_survivors", "Processes that survived SIGKILL"),
    Reading("CrashLoop", "bkd_crash_loops", "Slots found in a crash loop"),
    Reading("BreakerOpened", "bkd_breaker_opened", "How often the breaker opened"),
    Reading("ReleaseFailed", "bkd_release_failures", "Loads of a release that failed"),
)


def families(picture: Picture) -> Iterator[Metric]:
    """Everything, in the order in which it is documented."""
    status = picture.status
    groups: Sequence[dict[str, Any]] = status["groups"]
    workers = [((group["name"], worker["name"]), worker) for group in groups for worker in group["workers"]]
    yield InfoMetricFamily("bkd_build", "The version of bkd", {"version": status["version"]})
    identity = {name: status[name] for name in ("app", "tag", "host")}
    yield InfoMetricFamily("bkd_cluster", "Which cluster this is", identity)
    yield _gauge("bkd_up", "1 while the cluster runs, 0 while it stops", [((), status["state"] == "running")])
    yield _gauge("bkd_uptime_seconds", "Age of the cluster", [((), status["uptime"])], unit="seconds")
    yield from _of_groups(groups, picture)
    yield from _of_rolls(groups)
    yield from _of_facts([group["name"] for group in groups], picture)
    yield _states(workers)
    backoff = [(names, worker["next_try"] or 0.0) for names, worker in workers]
    yield _gauge("bkd_slot_backoff_seconds", "Until the next try, 0 when none is waited for", backoff, SLOT, "seconds")
    yield from (_read(reading, workers, SLOT) for reading in WORKER)
    yield from (_read(reading, [((), status["ipc"])]) for reading in IPC)
    yield from (_read(reading, [((), status["bus"])]) for reading in BUS)
    refused = [((str(reason),), status["bus"]["refused"].get(str(reason), 0)) for reason in Refusal]
    yield _counter("bkd_bus_refused", "Messages on the bus that were not believed", refused, ("reason",))
    yield from _of_messages(picture)
    yield from _of_the_master(picture)


def _of_groups(groups: Sequence[dict[str, Any]], picture: Picture) -> Iterator[Metric]:
    kinds = GaugeMetricFamily("bkd_group_kind", "1: the kind of the group", labels=("group", "kind"))
    by_state: list[Row] = []
    zygotes: list[Row] = []
    for group in groups:
        kinds.add_metric((group["name"], group["kind"]), 1)
        states = [worker["state"] for worker in group["workers"]]
        by_state += [((group["name"], state), states.count(state)) for state in STATES]
        loaders = [helper for helper in group["helpers"] if helper["role"] == "zygote"]
        zygotes += [((group["name"], str(helper["release"])), helper["rss"]) for helper in loaders]
    yield kinds
    yield _gauge("bkd_group_workers", "Slots of the group in each state", by_state, ("group", "state"))
    yield _gauge("bkd_group_workers_wanted", "Workers wanted", [((g["name"],), g["count"]) for g in groups], GROUP)
    yield _gauge("bkd_group_workers_ready", "Slots that serve", [((g["name"],), g["ready"]) for g in groups], GROUP)
    limits = [((g["name"],), picture.limits.get(g["name"])) for g in groups]
    yield _gauge("bkd_group_memory_limit_bytes", "max_memory of a worker, if set", limits, GROUP, "bytes")
    yield _gauge("bkd_zygote_resident_bytes", "Memory of what forks", zygotes, ("group", "release"), "bytes")
    opened = [((g["name"],), g["breaker"] == "open") for g in groups]
    yield _gauge("bkd_breaker_open", "1 while one slot is tried at a time", opened, GROUP)


def _of_rolls(groups: Sequence[dict[str, Any]]) -> Iterator[Metric]:
    stages = [
        ((group["name"], str(stage)), bool(group["roll"]) and group["roll"]["stage"] == str(stage))
        for group in groups
        for stage in Stage
    ]
    yield _gauge("bkd_roll_in_progress", "1 for the stage in which a roll is", stages, ("group", "stage"))
    yield _gauge("bkd_release", "The release in force", [((g["name"],), g["release"]) for g in groups], GROUP)


def _of_facts(groups: Sequence[str], picture: Picture) -> Iterator[Metric]:
    counts = picture.counts
    exits = [((name, _label(cause)), counts.get(("exits", name, cause), 0)) for name in groups for cause in CAUSES]
    yield _counter("bkd_worker_exits", "Ends of workers", exits, ("group", "cause"))
    verdicts = [
        ((name, _label(verdict), consequence), counts.get(("verdicts", name, verdict, consequence), 0))
        for name in groups
        for verdict in VERDICTS
        for consequence in CONSEQUENCES
    ]
    labels = ("group", "verdict", "consequence")
    yield _counter("bkd_worker_verdicts", "Workers found to make no progress", verdicts, labels)
    rolls = [((name, outcome), counts.get(("rolls", name, outcome), 0)) for name in groups for outcome in OUTCOMES]
    yield _counter("bkd_rolls", "Rolls that came to an end", rolls, ("group", "outcome"))
    for reading in COUNTED:
        rows = [((name,), counts.get((reading.key, name), 0)) for name in groups]
        yield _counter(reading.name, reading.help, rows, GROUP)


def _of_messages(picture: Picture) -> Iterator[Metric]:
    """What is not known of messages is left out, as everything of them is where there are none."""
    kinds = picture.messages.kinds[:MOST_KINDS] if picture.messages else ()
    counts = [((str(kind["kind"]), str(state)), kind.get(str(state))) for kind in kinds for state in State]
    yield _gauge("bkd_messages", "Messages of each kind in each state", counts, ("kind", "state"))
    ages = [((str(kind["kind"]),), kind.get("oldest_age")) for kind in kinds]
    name = "bkd_messages_oldest_age_seconds"
    yield _gauge(name, "For how long one of this kind has been due", ages, ("kind",), "seconds")
    up = [((), picture.messages.is_up)] if picture.messages else []
    yield _gauge("bkd_message_store_up", "1 while the store of messages answers", up)


def _of_the_master(picture: Picture) -> Iterator[Metric]:
    counts, itself = picture.counts, picture.itself
    yield _counter("bkd_bus_losses", "How often the bus went away", [((), counts.get(("BusLost",), 0))])
    yield _counter("bkd_events_lost", "Events that the journal could not take", [((), itself.lost)])
    yield _gauge("bkd_master_epoch", "How many masters the cluster has had", [((), itself.epoch)])
    yield _gauge("bkd_master_uptime_seconds", "Age of the master", [((), itself.uptime)], unit="seconds")
    yield _counter("bkd_master_cpu_seconds", "CPU time of the master", [((), itself.cpu)], unit="seconds")
    yield _gauge("bkd_master_resident_bytes", "Memory of the master", [((), itself.resident)], unit="bytes")
    standstills = counts.get(("Overslept",), 0)
    yield _counter("bkd_master_standstills", "How often the master stood still, or the host", [((), standstills)])
    yield _counter("bkd_master_standstill_seconds", "… and how long", [((), itself.overslept)], unit="seconds")
    answers: list[Row] = [((str(code),), count) for code, count in sorted(picture.answers.items())]
    yield _counter("bkd_scrapes", "Answers to who scraped, by HTTP status; 0: gone before", answers, ("code",))
    yield _gauge("bkd_scrape_seconds", "How long the scrape before was made", [((), itself.took)], unit="seconds")


def _states(workers: Iterable[tuple[tuple[str, ...], dict[str, Any]]]) -> Metric:
    family = StateSetMetricFamily("bkd_worker_state", "The state of each slot", labels=SLOT)
    for names, worker in workers:
        family.add_metric(names, {state: worker["state"] == state for state in STATES})
    return family


def _read(
    reading: Reading, rows: Iterable[tuple[tuple[str, ...], dict[str, Any]]], labels: Sequence[str] = ()
) -> Metric:
    make = _counter if reading.counts else _gauge
    return make(
        reading.name, reading.help, [(names, row.get(reading.key)) for names, row in rows], labels, reading.unit
    )


def _gauge(name: str, help: str, rows: Iterable[Row], labels: Sequence[str] = (), unit: str = "") -> Metric:
    return _filled(GaugeMetricFamily(name, help, labels=labels, unit=unit), rows)


def _counter(name: str, help: str, rows: Iterable[Row], labels: Sequence[str] = (), unit: str = "") -> Metric:
    return _filled(CounterMetricFamily(name, help, labels=labels, unit=unit), rows)


def _filled(family: GaugeMetricFamily | CounterMetricFamily, rows: Iterable[Row]) -> Metric:
    """What is not known is left out."""
    for names, value in rows:
        if value is not None:
            family.add_metric(names, value)
    return family


def _label(text: str) -> str:
    return text.replace(" ", "_")
