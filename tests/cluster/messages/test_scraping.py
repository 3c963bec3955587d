"""Messages in the metrics, as who scrapes gets them."""

import signal
import time

import pytest

from ..cluster import kill, until
from ..test_metrics import read, values
from .project import JOBS

LATER = 6.0  # seconds after which a scrape asks again


@pytest.fixture(scope="module")
def cluster(shared_project):
    return shared_project(jobs=JOBS).start()


@pytest.fixture
def scrape(cluster):
    return lambda: read(cluster.run_dir / "metrics.sock")


def test_messages_are_counted_by_kind_and_state(cluster, scrape):
    cluster.message("pause", "nap")
    waits = cluster.add("nap", {"seconds": 0}, count=3)
    (note,) = cluster.add("note")
    cluster.end(note)

    shown = until(lambda: (now := scrape()).get(("bkd_messages", "nap", "queued")) == len(waits) and now, 2 * LATER)

    assert shown["bkd_messages", "note", "succeeded"] == 1
    assert shown["bkd_messages", "nap", "running"] == 0
    assert shown["bkd_messages_oldest_age_seconds", "nap"] > 0
    assert shown["bkd_message_store_up",] == 1
    printed = values(cluster.bkd("status", "--openmetrics").stdout)
    assert printed["bkd_messages", "nap", "queued"] == len(waits)


def test_without_a_dispatcher_the_store_is_not_up_and_the_last_numbers_stay(cluster, scrape):
    before = cluster.dispatcher
    assert cluster.bkd("hold", "dispatcher").returncode == 0
    kill(before)

    shown = until(lambda: (now := scrape())["bkd_message_store_up",] == 0 and now, 2 * LATER)

    assert ("bkd_messages", "nap", "queued") in shown
    assert cluster.bkd("unhold", "dispatcher").returncode == 0
    until(lambda: scrape()["bkd_message_store_up",] == 1, 3 * LATER)


def test_a_dispatcher_that_stands_still_holds_nobody_up_for_long(cluster, scrape, watch):
    scrape()
    kill(cluster.dispatcher, signal.SIGSTOP)
    try:
        watch(LATER)
        begun = time.monotonic()
        shown = scrape()
        took = time.monotonic() - begun
    finally:
        kill(cluster.dispatcher, signal.SIGCONT)

    assert 0.9 < took < 2.0
    assert ("bkd_messages", "nap", "queued") in shown
