"""Durable messages: enqueueing and draining, latency, many due at once, what is stuck, memory and start of an executor.

Every handler does nothing but write its record.
"""

import math
import time
from pathlib import Path

import proc
from case import Case, Figures
from figures import Rounds, table
from queue_peers import QUEUES, running
from queues import Queue, Record

WARM = 1_000_000  # numbers of messages that are not measured
PATIENCE = 30.0
BEGIN = 60.0
LOOK = 0.02
SETTLE = 2.0
SLEEPING = "230"  # clock_nanosleep


def measure(
    name: str,
    *,
    what: str = "throughput",
    messages: int = 20_000,
    workers: int = 2,
    concurrency: int = 0,
    piece: int = 500,
    deadline: float = 2.0,
    limit: float = 15.0,
) -> Figures:
    """`concurrency` 0: the peer's default; `piece`: messages in a call when they are enqueued in bulk; `limit`: how
    long after its deadline a stuck handler is waited for."""
    if what == "stuck":
        return stuck(name, deadline, limit)
    with running(name, concurrency=concurrency) as queue:
        match what:
            case "throughput":
                return throughput(queue, messages // queue.shrink, workers, piece)
            case "latency":
                return latency(queue, messages, workers)
            case "due":
                return due(queue, messages // queue.shrink, workers)
            case _:
                return idle(queue)


def throughput(queue: Queue, count: int, workers: int, piece: int) -> Figures:
    """A fifth is enqueued one by one, the rest in bulk where there is such a thing; then the workers start."""
    singles = count // 5
    figures = {"enqueued one by one, /s": [singles / queue.send(singles)]}
    if queue.bulk:
        seconds = queue.produce("bulk", singles, count - singles, piece)
        figures["enqueued in bulk, /s"] = [(count - singles) / seconds]
    else:
        queue.send(count - singles, first=singles)
    return figures | drained(queue, count, workers)


def drained(queue: Queue, count: int, workers: int) -> Figures:
    """Counted from when a tenth has begun, so that the start of the workers is left out."""
    queue.work(workers)
    begun_or_raise(queue, count // 10, BEGIN)
    first, before = queue.count(), usage(queue)
    begun_or_raise(queue, count, PATIENCE)
    after = usage(queue)
    done = count - first
    moments = sorted(record.moment for record in queue.records())[:count]
    tenth = count // 10
    figures = {"drained, /s": [(count - 1 - tenth) / (moments[-1] - moments[tenth])]}
    for part, pids in queue.parts().items():
        if pids and done > 0:
            used = sum(after.get(pid, 0.0) - before.get(pid, 0.0) for pid in pids)
            figures[f"CPU of {part}, µs/message"] = [1e6 * used / done]
    return figures


def usage(queue: Queue) -> dict[int, float]:
    """CPU seconds by process, with those of children that have ended."""
    pids = queue.processes() | queue.served()
    return {pid: proc.cpu_seconds([pid]) + proc.reaped_seconds([pid]) for pid in pids}


def begun_or_raise(queue: Queue, count: int, limit: float) -> None:
    if not queue.begun(count, limit):
        raise RuntimeError(f"{queue.count()} of {count} messages begun, and nothing more for {limit:g} s")


def ready(queue: Queue, workers: int, count: int) -> float:
    """Workers at work, and idle again; the seconds that enqueueing so many took."""
    queue.work(workers)
    time.sleep(SETTLE)
    took = queue.send(count, first=WARM)
    begun_or_raise(queue, count, BEGIN)
    time.sleep(SETTLE)
    queue.forget()
    return took


def latency(queue: Queue, count: int, workers: int) -> Figures:
    """From the call that enqueues to the first line of the handler, nothing else going on."""
    ready(queue, workers, 20)
    sent = queue.produce("trickle", count)
    begun = {record.number: record.moment for record in queue.records()}
    late = sorted(1000 * (begun.get(number, math.inf) - moment) for number, moment in enumerate(sent))
    return {"enqueued to begun, p50, ms": [late[len(late) // 2]], "p99, ms": [late[int(0.99 * (len(late) - 1))]]}


def due(queue: Queue, count: int, workers: int) -> Figures:
    """All at one moment, 3 s ahead, or later where enqueueing takes longer."""
    pace = ready(queue, workers, 50) / 50
    moment = time.monotonic() + max(3.0, 1.5 * pace * count + 1.5)
    queue.send(count, due=moment)
    if time.monotonic() > moment:
        raise RuntimeError("they were due before all were enqueued")
    begun_or_raise(queue, count, BEGIN)
    late = sorted(1000 * (record.moment - moment) for record in queue.records())
    places = {"first": 0, "p50": len(late) // 2, "p99": int(0.99 * (len(late) - 1))}
    return {f"late, {name}, ms": [late[place]] for name, place in places.items()}


def stuck(name: str, deadline: float, limit: float) -> Figures:
    """A handler that does not end, in the only place of the only process; no-ops wait behind it."""
    figures: Figures = {}
    for way in QUEUES[name].stuck:
        with running(name, deadline=deadline, concurrency=1, way=way) as queue:
            figures |= stuck_in(queue, way, deadline, limit)
    return figures


def stuck_in(queue: Queue, way: str, deadline: float, limit: float) -> Figures:
    queue.work(1)
    queue.send(queue.slots, what=way)
    begun_or_raise(queue, queue.slots, BEGIN)
    first = queue.records()[0]
    queue.send(5, first=WARM)
    after = proc.wait_for(lambda: [each for each in queue.records() if each.number >= WARM], deadline + limit, LOOK)
    metric = f"{way}: next one after the deadline, s"
    if not after:
        return {metric: [math.inf]}
    figures = {metric: [after[0].moment - first.moment - deadline]}
    return figures if way == "asleep" else figures | {f"{way}: goes on all the same, 0/1": [float(goes_on(first, way))]}


def goes_on(record: Record, way: str) -> bool:
    """Whether the thread still does what it was stuck in, 1 s later."""
    thread = Path(f"/proc/{record.pid}/task/{record.thread}")
    try:
        before = _nanoseconds(thread)
        time.sleep(1.0)
        if way == "spin":
            return _nanoseconds(thread) - before > 1e8
        return (thread / "syscall").read_text().split()[0] == SLEEPING
    except OSError:
        return False


def _nanoseconds(thread: Path) -> int:
    return int((thread / "schedstat").read_text().split()[0])


def idle(queue: Queue) -> Figures:
    """A message waits; from the command that starts a worker to the handler's first line. Then memory, idle."""
    queue.send(1)
    figures = {"worker started to first message, s": [first_message(queue)]}
    if queue.resident:
        queue.work(0)
        queue.send(1)
        figures["another worker started to first message, s"] = [first_message(queue)]
        queue.work(0)
        queue.send(1)
        queue.stop()
        figures["everything started to first message, s"] = [first_message(queue)]
    time.sleep(SETTLE)
    figures["everything with 1 worker, PSS MiB"] = [proc.pss(queue.processes())]
    queue.stop()
    queue.work(2)
    time.sleep(2 * SETTLE)
    figures["everything with 2 workers, PSS MiB"] = [proc.pss(queue.processes())]
    workers = queue.workers()
    figures["a worker process of 2, PSS MiB"] = [proc.pss(workers) / len(workers)]
    return figures


def first_message(queue: Queue) -> float:
    """Seconds from the start of a worker; the records begin anew."""
    queue.forget()
    since = time.monotonic()
    queue.work(1)
    begun_or_raise(queue, 1, BEGIN)
    return queue.records()[0].moment - since


def report(results: dict[str, Rounds]) -> str:
    return table(results, [name for name in results if name.startswith("bkd-")])


CASE = Case(
    title="durable messages, 2 executors, no-op handler",
    measure=measure,
    peers=(
        "celery",
        "dramatiq",
        "rq",
        "huey-redis",
        "huey-sqlite",
        "procrastinate",
        "pgqueuer",
        "raw-sqlite",
        "raw-postgres",
        "bkd-sqlite",
        "bkd-postgres",
    ),
    rounds=3,
    variants={
        "throughput": {"what": "throughput"},
        "latency": {"what": "latency", "messages": 200},
        "due": {"what": "due", "messages": 2000},
        "stuck": {"what": "stuck"},
        "idle": {"what": "idle"},
    },
    report=report,
)
