"""A dispatcher that does not do its work is replaced soon, since everybody waits for it."""

import signal
import time

from ..cluster import alive, ended, kill, until
from .project import JOBS

USUAL = 30.0  # [ping] kill


def test_a_dispatcher_that_is_stopped_holds_messages_up_for_some_seconds_only(project):
    """With the limits as they are; what runs meanwhile is not run twice."""
    cluster = project(jobs=JOBS).start()
    (id,) = cluster.add("gate", {"gate": "stopped"})
    cluster.started(id)
    old = cluster.dispatcher
    begun = time.monotonic()
    kill(old, signal.SIGSTOP)

    assert ended(old, USUAL)
    took = time.monotonic() - begun
    cluster.open("stopped")

    assert 4.0 < took < USUAL / 2, took
    told = cluster.end(id, 30.0)
    assert (told["state"], told["attempts"], len(cluster.runs(id))) == ("succeeded", 1, 1)
    assert [one["slot"] for one in cluster.events("worker-hung")] == ["dispatcher.1"]


def test_a_host_that_stands_still_ends_nobody(project, watch):
    """Master and dispatcher are stopped together, for longer than a dispatcher may be silent."""
    cluster = project(jobs=JOBS, ping={"interval": "500ms", "kill": "1s"}).start()
    dispatcher, master = cluster.dispatcher, cluster.master
    for pid in (master, dispatcher):
        kill(pid, signal.SIGSTOP)
    watch(3.0)
    for pid in (master, dispatcher):
        kill(pid, signal.SIGCONT)

    assert cluster.end(cluster.add("note")[0])["state"] == "succeeded"
    until(lambda: cluster.events("overslept"))
    watch(1.0)
    assert alive(dispatcher)
    assert cluster.dispatcher == dispatcher
    assert cluster.events("worker-hung") == []
