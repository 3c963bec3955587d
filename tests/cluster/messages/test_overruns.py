"""A message that does not end, and one that uses up its process: what is told of it, and what becomes of others."""

import json

import pytest

from ..cluster import until
from .project import JOBS

LIVES = JOBS | {"handlers": ["work", "lives"], "count": 1}


def reports(cluster, slot="jobs.1"):
    """What `bkd why` has, the newest first."""
    return json.loads(cluster.bkd("why", slot, "--json").stdout)["reports"]


@pytest.mark.parametrize(
    ("kind", "where"),
    [("overrun", "lives.py:{} in overrun"), ("overrun-thread", "lives.py:{} in overrun_thread")],
)
def test_why_names_the_message_that_did_not_end_and_no_older_one(project, kind, where):
    cluster = project(jobs=LIVES).start()
    (older,) = cluster.add("gate", {"gate": "on"})
    cluster.started(older)
    (id,) = cluster.add(kind)
    cluster.started(id)

    assert cluster.end(id)["state"] == "dead_letter"
    (pid,) = {run["pid"] for run in cluster.runs(id)}
    report = until(lambda: next((one for one in reports(cluster) if one["pid"] == pid and one["ended"]), None))
    cluster.open("on")

    said = report["headline"]
    assert f"message {id} ({kind}) did not end within its timeout of 0.5 s" in said
    assert where.format(line_of(cluster, kind)) in said
    assert "request" not in said
    assert f"jobs.1 is overdue: message {id} ({kind})" in cluster.said()
    assert cluster.end(older)["crashes"] == 0


def line_of(cluster, kind):
    """Where the handler of this kind sleeps."""
    lines = (cluster.folder / "lives.py").read_text().splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith(f'@handler("{kind}"'))
    return next(number for number in range(first, len(lines)) if "time.sleep" in lines[number]) + 1


def test_an_executor_without_descriptors_is_replaced_before_messages_fail(project):
    """Each message leaves two open; hundreds are run, and none of them finds that there are no more."""
    cluster = project(jobs=LIVES | {"concurrency": 2, "env": {"LIVES_DESCRIPTORS": "256"}}).start()
    (first,) = cluster.pids("jobs")
    ids = cluster.add("leak", {"size": 2}, count=400)

    cluster.ends("leak")
    until(lambda: cluster.is_renewed(first))

    tally = cluster.tally("leak")
    assert (tally["succeeded"], tally["dead_letter"]) == (len(ids), 0)
    worn = cluster.events("worker-worn")
    assert "descriptors left: its handlers open more than they close" in worn[0]["why"]
    assert len(worn) < 20
    assert cluster.query("SELECT result, count(*) AS n FROM attempt WHERE result <> 'ok' GROUP BY 1") == []
    exits = [one for one in cluster.events("worker-exited") if one["pid"] == first]
    assert [(one["cause"], one["code"]) for one in exits] == [("planned", 0)]
