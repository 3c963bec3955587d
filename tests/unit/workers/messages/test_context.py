"""What a handler may know of its message."""

from datetime import UTC, datetime

import pytest

from bkd.ipc.durable.model import Counters, Task
from bkd.workers.messages.context import MOST_PROGRESS, Context
from bkd.workers.messages.declaration import Declaration, Terms
from bkd.workers.messages.run import Run


class Post:
    def __init__(self):
        self.told = []

    def progress(self, run, body):
        self.told.append(body)


def context(**rest):
    task = Task(7, 2, "kind", b"{}", Counters(runs=5, attempts=2), "guid", **rest)
    run = Run(task, Declaration("kind", lambda: None, Terms(stages=("a", "b"), timeout="30s")))
    return Context(run, Post())


def test_what_it_is():
    found = context(stage=1, outputs=[b'{"x":1}'], key="k", tracking_id="t", parent_id=3, sender="s", priority=10)

    assert (found.id, found.guid, found.kind, found.attempt, found.iteration) == (7, "guid", "kind", 2, 4)
    assert (found.stage, found.outputs) == ("b", {"a": {"x": 1}})
    assert (found.key, found.tracking, found.parent, found.sender, found.priority) == ("k", "t", 3, "s", 10)
    assert (found.lock, found.cancelled) == ("", False)


def test_moments_have_a_time_zone():
    found = context(created=1000, due=2000, deadline=3000)

    assert (found.created, found.due) == (datetime.fromtimestamp(1, UTC), datetime.fromtimestamp(2, UTC))
    assert found.expires == datetime.fromtimestamp(3, UTC)
    assert context().expires is None


def test_a_run_has_a_deadline_from_its_start():
    found = context()
    found._run.start()

    assert (found.deadline - datetime.fromtimestamp(found._run.started / 1000, UTC)).total_seconds() == 30


def test_it_says_when_it_is_to_end():
    found = context()
    found._run.cancel("timeout")

    assert found.cancelled


def test_progress_is_a_word():
    found = context()
    found.progress({"done": 3})
    with pytest.raises(ValueError, match="progress is told in a word"):
        found.progress("x" * MOST_PROGRESS)
    with pytest.raises(TypeError):
        found.progress(object())

    assert found._post.told == [b'{"done":3}']


def test_every_record_says_which_run_it_is():
    from loguru import logger

    records = []
    number = logger.add(lambda record: records.append(record.record["extra"]))
    try:
        context().log.info("here")
    finally:
        logger.remove(number)

    assert records == [{"handler": "kind", "message": 7, "attempt": 2}]


def test_without_a_payload_nothing_is_asked():
    assert context().sync_payload() == b""
