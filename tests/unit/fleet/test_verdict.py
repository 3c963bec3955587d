"""What whoever gave a command to the fleet is shown."""

import json

import pytest

from bkd.ipc.message import Command
from bkd.supervisor.bus.orders import Ack, GroupRow, HostRow
from bkd.supervisor.desk import Issuer, Request
from bkd.supervisor.fleet import table, verdict
from bkd.supervisor.fleet.progress import FleetProgress
from bkd.supervisor.fleet.selection import Seen

from .world import Terminal

NOW = 1000.0
EVENT = {"time": "2026-05-01T10:00:00.000000+00:00", "fact": "stop-asked", "text": "stop asked for"}


def a_request(verb="fleet", render="text"):
    return Request(Terminal(), 1, Command(verb, {}, render), Issuer(0, 1, "ann"))


def progress_of(verb, **acks):
    progress = FleetProgress.of("id", verb, acks)
    for host, ack in acks.items():
        if ack is not None:
            progress.hosts[host].take(Ack(host, 1, **ack))
    return progress


def seen(host, ago=2.0, tag="eu"):
    return Seen(HostRow(host, tag, "0.1", groups=(GroupRow("web", "web", 4, 3, 7),)), NOW - ago)


KNOWN = {"h1": seen("h1"), "h2": seen("h2", 60)}


def final(progress, render="text"):
    return verdict.final(a_request(render=render), progress, KNOWN, NOW)


def test_a_success_says_what_the_hosts_said():
    progress = progress_of("scale", h1={"state": "done", "out": "web: 2 -> 3\n"}, h2={"state": "done", "out": "a\nb"})
    end = final(progress)
    assert (end.code, end.err) == (0, "")
    assert end.out == "h1: web: 2 -> 3\nh2: a\nh2: b\nscale: 2 of 2 hosts done\n"


def test_that_a_restart_is_done_says_it_all():
    assert final(progress_of("restart", h1={"state": "done", "out": "web: …\n"})).out == "restart: 1 of 1 host done\n"


def test_a_failure_ends_with_the_verdict_on_stderr():
    progress = progress_of(
        "restart",
        h1={"state": "failed", "reason": "no module", "err": "Traceback\nno module\nbkd: no module\n"},
        h2={"state": "skipped"},
    )
    end = final(progress)
    assert (end.code, end.out) == (1, "")
    assert end.err == "h1: Traceback\nbkd: restart: 0 of 2 hosts done, 1 failed, 1 skipped\n"


def test_only_the_end_of_long_words_is_shown_and_none_has_power_over_a_terminal():
    end = final(progress_of("restart", h1={"state": "failed", "err": "x" * 9000 + "\x1b]0;t\x07\nend"}))
    assert len(end.err) < 2200
    assert "\x1b" not in end.err and end.err.splitlines()[-2] == "h1: end"


def test_json_is_the_document():
    end = final(progress_of("restart", h1={"state": "failed", "reason": "no"}), "json")
    assert (end.code, end.err) == (1, "")
    assert json.loads(end.out)["hosts"] == [{"host": "h1", "state": "failed", "reason": "no", "took": 0.0}]


def test_last_words():
    assert verdict.last_seen(None, NOW) == "the bus has not heard of it in the last day"
    assert verdict.last_seen(seen("h1", 60), NOW) == "last seen 1m ago"
    assert verdict.last_seen(seen("h1", -3), NOW).startswith("last seen 0")


def test_a_plan():
    rows = list(KNOWN.values())
    text = verdict.plan(a_request(), "restart", rows, 2, NOW).out
    assert text.splitlines()[0] == "restart on 2 hosts, 2 at a time, in this order:"
    assert "all at once" in verdict.plan(a_request(), "scale", rows, 1, NOW).out
    assert verdict.plan(a_request(), "scale", rows[:1], 1, NOW).out.startswith("scale on 1 host, all at once:\n")
    document = json.loads(verdict.plan(a_request(render="json"), "scale", rows, 1, NOW).out)
    assert (document["batch"], [row["host"] for row in document["hosts"]]) == (2, ["h1", "h2"])


def test_nobody_waits_for_one_host():
    assert (
        verdict.started(a_request(), progress_of("scale", h1=None)).out
        == "scale asked of 1 host; see bkd fleet show id\n"
    )


def test_steps_are_drawn_but_not_of_who_only_looks():
    request = a_request()
    verdict.show(request, progress_of("restart", h1={"state": "running", "step": "web 1/4"}))
    assert request.audience.err == "h1: running web 1/4\n"
    assert "web 1/4" in request.audience.screen
    quiet = a_request()
    verdict.show(quiet, progress_of("status", h1={"state": "running"}))
    assert quiet.audience.err == quiet.audience.screen == ""


def test_columns_are_as_wide_as_they_have_to_be():
    assert table.columns(("A", "B", ""), [("xx", "y", ""), ("z", "ww", "end")]) == "A   B\nxx  y\nz   ww  end\n"
    assert table.columns(("A",), []) == "A\n"


def test_the_inventory_as_a_table():
    lines = table.hosts(KNOWN.values(), NOW).splitlines()
    assert lines[0].split() == ["HOST", "TAG", "STATE", "VERSION", "GROUPS"]
    assert lines[1].split() == ["h1", "eu", "up", "0.1", "web", "3/4", "r7"]
    assert "silent for 1m" in lines[2]


def test_how_it_goes_as_a_table():
    progress = progress_of("restart", h1={"state": "done", "took": 1.5}, h2=None)
    progress.hosts["h1"].take(Ack("h1", 2, "done"))
    lines = table.live(progress).splitlines()
    assert lines[1].split() == ["✓", "h1", "done", "1.5", "s"]
    assert lines[2].split() == ["…", "h2", "asked"]


# -- looking at all hosts


def a_status(ready=2, restarts=3):
    group = {"name": "web", "ready": ready, "count": 2, "release": 1, "roll": None, "reason": None}
    return {"state": "running", "uptime": 5.0, "groups": [group | {"workers": [{"restarts": restarts}]}]}


def test_one_restart_is_singular():
    progress = progress_of("status", h1={"state": "done", "out": json.dumps(a_status(restarts=1))})
    assert final(progress).out.splitlines()[1].endswith("release 1, 1 restart")


def test_the_status_of_all():
    progress = progress_of("status", h1={"state": "done", "out": json.dumps(a_status())}, h2=None)
    progress.hosts["h2"].end("unreachable", "last seen 1m ago")
    end = final(progress)
    assert (end.code, end.err) == (3, "bkd: h2: unreachable: last seen 1m ago\n")
    lines = end.out.splitlines()
    assert lines[1].split() == ["h1", "eu", "running", "5s", "web", "2/2", "release", "1,", "3", "restarts"]
    assert "no answer" in lines[2] and "last seen 1m ago" in lines[2]
    rows = json.loads(final(progress, "json").out)["hosts"]
    assert [(row["host"], row["answered"], row["seen"]) for row in rows] == [("h1", True, 2.0), ("h2", False, 60.0)]
    assert (rows[0]["status"], rows[1]["status"]) == (a_status(), None)


@pytest.mark.parametrize(
    "out", ["", "{", "[1]", "7", '{"a": 1}\nno', "[" * 100_000, '{"time": "x", "text": "y"}', '{"time": 1}']
)
@pytest.mark.parametrize("verb", ["status", "events"])
@pytest.mark.parametrize("render", ["text", "json"])
def test_a_host_that_answers_nonsense_hides_no_other(verb, render, out):
    good = json.dumps(a_status() if verb == "status" else EVENT)
    progress = progress_of(verb, h1={"state": "done", "out": good}, h2={"state": "done", "out": out})
    end = final(progress, render)
    assert "h1" in end.out
    if out or verb == "status":
        assert (end.code, end.err) == (1, "bkd: h2: failed in 0 ms: its answer cannot be read\n")


def test_the_events_of_all_in_the_order_of_their_clocks():
    later = EVENT | {"time": "2026-05-01T10:00:01.000000+00:00", "text": "later\x1b]0;x\x07", "host": "h9"}
    progress = progress_of(
        "events",
        h1={"state": "done", "out": json.dumps(later) + "\n"},
        h2={"state": "done", "out": json.dumps(EVENT) + "\n"},
    )
    end = final(progress)
    assert [line.split()[2] for line in end.out.splitlines()] == ["h2", "h1"]
    assert "\x1b" not in end.out
    rows = [json.loads(line) for line in final(progress, "json").out.splitlines()]
    assert [row["host"] for row in rows] == ["h2", "h1"]


def test_no_events_are_no_lines():
    assert final(progress_of("events", h1={"state": "done"})).out == ""
