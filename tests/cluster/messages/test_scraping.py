"""Messages in the metrics, as who scrapes gets them."""

import signal
import time

import pytest

from ..cluster import kill, until
from ..test_metrics import read, values
from .project import JOBS

LATER = 6.0  # seconds after which a scrape asks again
PATIENCE = 90.0  # after an answer that took long it asks much later
COUNTING = 10.0  # seconds that the master itself would wait


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

    shown = until(lambda: (now := scrape()).get(("bkd_messages", "nap", "queued")) == len(waits) and now, PATIENCE)

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

    shown = until(lambda: (now := scrape())["bkd_message_store_up",] == 0 and now, PATIENCE)

    assert ("bkd_messages", "nap", "queued") in shown
    assert cluster.bkd("unhold", "dispatcher").returncode == 0
    until(lambda: scrape()["bkd_message_store_up",] == 1, PATIENCE)


def test_a_dispatcher_that_stands_still_holds_nobody_up_for_long(cluster, scrape, watch):
    until(lambda: scrape()["bkd_message_store_up",] == 1, PATIENCE)
    dispatcher = cluster.dispatcher

    def scraped():
        """How long it took that may have asked a dispatcher which stands still, no longer than is left unpunished."""
        watch(LATER)
        kill(dispatcher, signal.SIGSTOP)
        try:
            begun = time.monotonic()
            shown = scrape()
            return time.monotonic() - begun, shown
        finally:
            kill(dispatcher, signal.SIGCONT)

    took, shown = until(lambda: (found := scraped())[0] > 0.9 and found, PATIENCE)

    assert took < COUNTING / 2
    assert ("bkd_messages", "nap", "queued") in shown
    assert cluster.dispatcher == dispatcher
