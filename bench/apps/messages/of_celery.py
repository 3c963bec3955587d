"""Celery: acknowledged when done, results ignored; the rest as it comes."""

from datetime import UTC, datetime, timedelta
from time import monotonic

from celery import Celery
from record import handle
from settings import DEADLINE, URL

app = Celery("bench", broker=URL)
app.conf.update(task_acks_late=True, task_reject_on_worker_lost=True, task_ignore_result=True)
app.conf.update(broker_connection_retry_on_startup=True, worker_send_task_events=False)


@app.task(name="work", **({"time_limit": DEADLINE} if DEADLINE else {}))
def work(what: str, number: int) -> None:
    handle(what, number)


def open() -> None:
    app.connection_for_write().ensure_connection(max_retries=3)


def send(what: str, number: int, due: float) -> None:
    if due:
        work.apply_async((what, number), eta=datetime.now(UTC) + timedelta(seconds=due - monotonic()))
    else:
        work.delay(what, number)
