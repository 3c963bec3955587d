"""What probes are told: which states of the groups are healthy, which are ready, and the line that says why."""

import json
from typing import Any

import pytest

from bkd.cli import _probe_options
from bkd.supervisor.desk import UsageError
from bkd.supervisor.healthy import answer, judge


def slot(name: str, state: str = "ready", uptime: float | None = 10.0, why: str = "") -> dict[str, Any]:
    end = {"cause": "crash", "reason": why or None} if why else None
    return {"name": name, "state": state, "uptime": uptime, "last_exit": end}


def group(*slots: dict[str, Any], name: str = "web", reason: str | None = None) -> dict[str, Any]:
    ready = sum(1 for row in slots if row["state"] == "ready")
    return {"name": name, "ready": ready, "reason": reason, "workers": list(slots)}


def cluster(*groups: dict[str, Any], state: str = "running") -> dict[str, Any]:
    return {"state": state, "groups": list(groups)}


WELL = cluster(group(slot("web.1"), slot("web.2")))
FAILED = group(slot("job.1", "failed", None, "exit\ncode 78"), name="job")


@pytest.mark.parametrize(
    "rows",
    [
        [slot("web.1"), slot("web.2")],
        [slot("web.1"), slot("web.2", "failed", None)],
        [slot("web.1"), slot("web.2", "backoff", None)],
        [slot("web.1"), slot("web.2", "held")],
        [slot("web.1", uptime=9.0), slot("web.2", "starting", 2.0)],  # the successor of one that died
        [slot("web.1"), slot("web.2", "starting", None)],
        [slot("web.1", "done", None), slot("web.2", "done", None)],
        [],
    ],
)
def test_a_group_that_serves_is_healthy_and_ready(rows: list[dict[str, Any]]) -> None:
    assert judge(cluster(group(*rows))).document() == {"healthy": True, "ready": True, "reasons": []}


@pytest.mark.parametrize(
    ("status", "why"),
    [
        (cluster(group(slot("web.1", "starting", 1.0))), "web has no ready worker (web.1 starting)"),
        (
            cluster(group(slot("web.1", "backoff", None), reason="release 1 does not load: no\nmodule")),
            "web has no ready worker (web.1 backoff): release 1 does not load: no module",
        ),
        (
            cluster(group(slot("web.1", uptime=1.0), slot("web.2", "starting", 1.5))),
            "web is still starting (web.2 start",
        ),
        (cluster(group(*(slot(f"web.{n}", "draining") for n in range(1, 6)))), "web.3 draining, 2 more)"),
        (cluster(group(slot("web.1")), state="stopping"), "it is stopping"),
    ],
)
def test_what_is_on_its_way_is_healthy_and_not_ready(status: dict[str, Any], why: str) -> None:
    document = judge(status).document()

    assert (document["healthy"], document["ready"], len(document["reasons"])) == (True, False, 1)
    assert why in document["reasons"][0]


def test_a_group_that_has_failed_for_good_is_not_healthy() -> None:
    said = "job has failed: exit code 78; bkd reset job tries it again"

    assert judge(cluster(*WELL["groups"], FAILED)).document() == {"healthy": False, "ready": False, "reasons": [said]}


def test_a_master_without_its_keeper_is_not_healthy() -> None:
    assert judge(WELL, orphaned=True).ailing == ("the keeper is gone",)


def test_only_the_named_groups_count() -> None:
    status = cluster(*WELL["groups"], FAILED)

    assert judge(status, ["web"]).document()["healthy"]
    assert not judge(status, ["web", "job"]).document()["healthy"]
    with pytest.raises(UsageError, match="no group nobody; there are web, job"):
        judge(status, ["nobody"])


def test_the_answer_is_an_exit_code_and_a_line() -> None:
    starting = cluster(group(slot("web.1", "starting", 1.0)))

    well, live, unready = (
        answer(status, arguments, "text", orphaned=False)
        for status, arguments in ((WELL, {"ready": True}), (starting, {}), (starting, {"ready": True}))
    )

    assert (well.code, well.out, well.err) == (0, "ready\n", "")
    assert (live.code, live.out, live.err) == (0, "healthy\n", "")
    assert (unready.code, unready.out) == (1, "")
    assert unready.err == "bkd: not ready: web has no ready worker (web.1 starting)\n"
    assert json.loads(answer(starting, {}, "json", orphaned=False).out)["ready"] is False


def test_the_command_line_is_understood_without_click() -> None:
    asked = {"healthy": True, "ready": True, "names": ["web"]}

    assert _probe_options(["--healthy", "--ready", "web", "-c", "x", "--json"]) == {
        "asked": asked,
        "config": "x",
        "sock": None,
        "render": "json",
    }
    for others in (["--ready"], ["--healthy", "--watch"], ["--healthy", "-c"], ["web"]):
        assert _probe_options(others) is None
