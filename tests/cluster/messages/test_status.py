"""What `bkd status` says of messages."""

import contextlib
import os
import signal

from ..cluster import kill, until
from .project import JOBS


def lines(cluster):
    """The part about messages."""
    text = cluster.bkd("status").stdout
    return text[text.index("\nmessages (") + 1 :].splitlines()


def test_the_store_and_its_dispatcher_have_lines_of_their_own(project):
    cluster = project(jobs=JOBS).start()
    ids = [*cluster.add("gate", {"gate": "never"}), *cluster.add("once", {}), *cluster.add("note", {}, delay=600)]
    cluster.started(ids[0])
    cluster.end(ids[1])
    wanted = "messages (sqlite)  1 waiting, 1 running, 1 dead letter"

    until(lambda: lines(cluster)[0] == wanted)
    cluster.message("pause", "note")

    head, paused, row = until(lambda: len(found := lines(cluster)) == 3 and found)
    assert (head, paused) == (wanted, "  ! paused: note; `bkd message resume KIND` goes on")
    assert row.split()[:3] == ["dispatcher.1", "ready", str(cluster.dispatcher)]
    assert cluster.status()["dispatcher"]["name"] == "dispatcher.1"


def test_a_dispatcher_that_hangs_holds_nobody_up(project):
    cluster = project(jobs=JOBS, ping={"kill": "0s"}).start()
    pid = cluster.dispatcher
    os.kill(pid, signal.SIGSTOP)
    try:
        until(lambda: "the dispatcher has not answered" in lines(cluster)[0])
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    kill(pid)
    until(lambda: lines(cluster)[0] == "messages (sqlite)  0 waiting, 0 running, 0 dead letters")


def test_without_messages_nothing_is_said(project):
    cluster = project(web={"app": "shop:app", "count": 1, "min_ready": "100ms"}).start()

    assert "messages" not in cluster.bkd("status").stdout
    assert cluster.status()["dispatcher"] is None
