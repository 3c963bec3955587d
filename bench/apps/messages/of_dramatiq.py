"""Dramatiq over Redis. With a deadline its timer looks every 100 ms instead of every second."""

from time import monotonic

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.middleware import TimeLimit
from record import handle
from settings import DEADLINE, URL

broker = RedisBroker(url=URL)
for middleware in broker.middleware:
    if isinstance(middleware, TimeLimit) and DEADLINE:
        middleware.interval = 100
dramatiq.set_broker(broker)
LIMITS = {"time_limit": DEADLINE * 1000, "max_retries": 0} if DEADLINE else {}


@dramatiq.actor(**LIMITS)
def work(what: str, number: int) -> None:
    handle(what, number)


def send(what: str, number: int, due: float) -> None:
    if due:
        work.send_with_options(args=(what, number), delay=int((due - monotonic()) * 1000))
    else:
        work.send(what, number)
