"""Memory that grows is given back by a fresh worker; a limit that a fresh worker would not keep is not applied."""

import re

import pytest

from .clients import Load
from .cluster import ended, until

WEB = {"app": "leaky:app", "count": 1, "max_memory": "60MB", "min_ready": "500ms"}
JOB = {"target": "functions:ticker", "max_memory": "1MB"}
PING = {"interval": "1s"}
GROWTH = re.compile(
    r"\d+ MB of memory \(max_memory = 60 MB\); it grew from [\d.]+ MB, [\d.]+ KB a request over [\d,]+ requests"
)


@pytest.fixture(scope="module")
def cluster(share):
    """Workers that leak, and one with a limit that no worker could keep."""
    return share(web=WEB, job=JOB, ping=PING)


def test_a_limit_below_the_size_of_a_fresh_worker_is_not_applied(cluster):
    (refused,) = until(lambda: cluster.events("limit-refused"))
    before = cluster.worker("job.1")
    assert (refused["group"], refused["limit"]) == ("job", 1 << 20)
    assert refused["why"].startswith("max_memory = 1 MB is not applied: a fresh worker of release 1 has ")
    assert cluster.group("job")["reason"] == refused["why"]
    assert before["pss"] > 1.2 * (1 << 20)
    assert (before["limit_in"], before["restarts"]) == (None, 0)
    assert f"! {refused['why']}" in cluster.bkd("status").stdout


@pytest.mark.parametrize("how", [[], ["--dry-run"]])
def test_a_reload_with_such_a_limit_changes_nothing(cluster, how):
    until(lambda: cluster.worker("web.1")["pss"])
    before = cluster.pids("web")
    cluster.configure(web=WEB | {"max_memory": "2MB", "count": 2}, job=JOB, ping=PING)
    try:
        result = cluster.bkd("reload", *how)
    finally:
        cluster.configure(web=WEB, job=JOB, ping=PING)
    fault, nothing = result.stderr.splitlines()
    assert (result.returncode, nothing) == (2, "bkd: nothing was changed")
    assert re.fullmatch(
        r'bkd.toml: workers.web.max_memory: expected at least [\d.]+MB, as a fresh worker has [\d.]+MB, found "2MB"',
        fault.removeprefix("bkd: "),
    )
    assert cluster.pids("web") == before


def test_a_refused_limit_that_stays_is_no_reason_to_refuse_a_reload(cluster):
    cluster.configure(web=WEB, job=JOB | {"term": "2s"}, ping=PING)
    assert cluster.bkd("reload").returncode == 0
    assert len(cluster.events("limit-refused")) == 1


@pytest.mark.slow
def test_a_worker_that_leaks_is_replaced_by_a_fresh_one_and_no_request_is_lost(cluster):
    (old,) = cluster.pids("web")
    with Load(cluster, kept=1, new=1, path="/pid") as load:
        until(lambda: cluster.events("worker-worn"), 40.0)
        until(lambda: cluster.group("web")["ready"] and cluster.pids("web") != [old])
        (new,) = cluster.pids("web")
        assert ended(old)
        load.goes_on()
    (worn,) = cluster.events("worker-worn")
    assert (worn["slot"], worn["pid"]) == ("web.1", old)
    assert GROWTH.fullmatch(worn["why"])
    assert not load.lost
    happened = [(event["fact"], event["pid"]) for event in cluster.events("worker-ready", "worker-retired")]
    assert happened.index(("worker-ready", new)) < happened.index(("worker-retired", old))
    assert cluster.worker("web.1")["restarts"] == 0
    assert "MEM" in cluster.bkd("status").stdout
