"""What the end of a cluster waits for, and what not."""

import contextlib
import json
import signal
import socket

from bkd.ipc.durable.wire import SOCKET, Greet, packed

from ..cluster import kill, until
from .project import JOBS


def ends_of(cluster, slot):
    """How it ended each time, the newest first, as `bkd why SLOT --json` tells."""
    told = cluster.bkd("why", slot, "-c", str(cluster.file), "--json")
    return json.loads(told.stdout)["reports"]


def test_a_producer_that_waits_for_nothing_is_not_waited_for(project):
    """The dispatcher ends as soon as it is asked, before it has to be told by a signal."""
    cluster = project(jobs=JOBS).start()
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as script:
        script.connect(str(cluster.run_dir / SOCKET))
        script.sendall(packed(Greet("producer")))
        (id,) = cluster.add("note")
        cluster.end(id)

        kill(cluster.process.pid, signal.SIGTERM)
        assert cluster.exit_code() == 0
        until(lambda: not cluster.processes())

    assert ends_of(cluster, "dispatcher.1")[0]["sender"] == "bkd: it was asked to drain"
