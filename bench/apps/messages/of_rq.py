"""RQ: results are not kept."""

from collections.abc import Iterable
from datetime import timedelta
from time import monotonic

from record import handle
from redis import Redis
from rq import Queue
from settings import DEADLINE, URL

queue = Queue("default", connection=Redis.from_url(URL))
LIMITS = {"timeout": int(DEADLINE)} if DEADLINE else {}


def send(what: str, number: int, due: float) -> None:
    if due:
        queue.enqueue_in(timedelta(seconds=due - monotonic()), handle, what, number, result_ttl=0)
    else:
        queue.enqueue_call(handle, (what, number), result_ttl=0, **LIMITS)


def bulk(numbers: Iterable[int]) -> None:
    queue.enqueue_many([Queue.prepare_data(handle, ("noop", number), result_ttl=0) for number in numbers])
