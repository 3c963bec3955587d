"""What is counted, what a scrape says of a status, and what of HTTP is understood."""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.parser import text_string_to_metric_families as parse_plain

from bkd.ipc.durable.model import State
from bkd.supervisor import facts
from bkd.supervisor.cluster import Cause, Stage, Verdict
from bkd.supervisor.metrics.asked import Asked, parse, takes_openmetrics
from bkd.supervisor.metrics.census import Tallies
from bkd.supervisor.metrics.counters import Counters
from bkd.supervisor.metrics.exposition import expose
from bkd.supervisor.metrics.families import MOST_KINDS
from bkd.supervisor.metrics.picture import Itself, Picture

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "metrics.md"
PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;q=0.4,text/plain;version=0.0.4;q=0.3,"
    "*/*;q=0.2"
)
EXIT = {"pid": 7, "release": 3, "code": None, "signal": 9, "uptime": 3.0}
WORKER = {
    "pid": 12,
    "state": "ready",
    "release": 3,
    "uptime": 11.2,
    "restarts": 2,
    "ping_age": 0.4,
    "verdict": "ok",
    "rss": 31457280,
    "pss": 9437184,
    "cpu": 0.3,
    "cpu_seconds": 4.5,
    "in_flight": 1,
    "served": 42,
    "lag": 0.001,
    "late": 5,
    "dropped": 0,
    "next_try": None,
    "last_exit": None,
}
IDLE = {**dict.fromkeys(WORKER), "state": "backoff", "release": 3, "restarts": 9, "dropped": 0, "next_try": 2.5}
MAIL = dict.fromkeys(State, 0) | {"kind": "mail", "queued": 3, "dead_letter": 1, "oldest_age": 1.5, "handled": True}
ROLL = {"release": 3, "from": 2, "stage": "canary", "moved": 0, "count": 2, "age": 1.0, "reason": None}


def group(name="web", *workers, **fields):
    rows = [{"name": f"{name}.{number}", **worker} for number, worker in enumerate(workers or (WORKER,), 1)]
    helper = {"role": "zygote", "release": 3, "pid": 11, "state": "ready", "rss": 1 << 20, "pss": None}
    given = {"kind": "web", "count": len(rows), "ready": len(rows), "release": 3, "roll": None, "breaker": "closed"}
    return {"name": name, **given, "bind": [], "helpers": [helper], "reason": None, "workers": rows} | fields


def status(*groups, **fields):
    bus = {"url": "redis://u:secret@h/0", "connected": True, "hosts": 2, "reconnects": 1, "refused": {"forged": 3}}
    return {
        "app": "shop",
        "tag": "blue",
        "host": "h1",
        "version": "0.1.0",
        "state": "running",
        "keeper_pid": 1,
        "master_pid": 2,
        "uptime": 12.5,
        "bus": bus | {"late": 0, "lost": 0, "error": None},
        "ipc": {"connections": 4, "pending": 0, "dropped": 6, "refused": 7},
        "groups": list(groups or (group(),)),
        **fields,
    }


def picture(document=None, counters=None, **fields):
    itself = Itself(epoch=2, uptime=8.0, cpu=1.25, resident=40 << 20, lost=1, overslept=3.5, took=None)
    counts = counters.counts if counters else {}
    return Picture(document or status(), counts, {"web": 512 << 20}, {200: 3}, itself)._replace(**fields)


def samples(*arguments, **fields):
    """What a scraper reads: values by name and labels as OpenMetrics writes them."""
    text = expose(picture(*arguments, **fields), True).decode()
    assert text.endswith("\n# EOF\n")
    found = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {f"{s.name}{{{','.join(f'{n}={v}' for n, v in sorted(s.labels.items()))}}}": s.value for s in found}


def counted(*told):
    counters = Counters()
    for fact in told:
        counters.told(fact)
    return counters


def test_a_scrape_says_what_the_status_says():
    read = samples(status(group("web", WORKER, IDLE, count=3, ready=1, roll=ROLL, breaker="open")))

    expected = {
        "bkd_build_info{version=0.1.0}": 1,
        "bkd_cluster_info{app=shop,host=h1,tag=blue}": 1,
        "bkd_up{}": 1,
        "bkd_uptime_seconds{}": 12.5,
        "bkd_group_kind{group=web,kind=web}": 1,
        "bkd_group_workers{group=web,state=ready}": 1,
        "bkd_group_workers{group=web,state=backoff}": 1,
        "bkd_group_workers{group=web,state=failed}": 0,
        "bkd_group_workers_wanted{group=web}": 3,
        "bkd_group_workers_ready{group=web}": 1,
        "bkd_group_memory_limit_bytes{group=web}": 512 << 20,
        "bkd_zygote_resident_bytes{group=web,release=3}": 1 << 20,
        "bkd_breaker_open{group=web}": 1,
        "bkd_roll_in_progress{group=web,stage=canary}": 1,
        "bkd_roll_in_progress{group=web,stage=rolling}": 0,
        "bkd_release{group=web}": 3,
        "bkd_worker_state{bkd_worker_state=ready,group=web,slot=web.1}": 1,
        "bkd_worker_state{bkd_worker_state=ready,group=web,slot=web.2}": 0,
        "bkd_worker_restarts_total{group=web,slot=web.2}": 9,
        "bkd_worker_lag_seconds{group=web,slot=web.1}": 0.001,
        "bkd_worker_late_total{group=web,slot=web.1}": 5,
        "bkd_worker_in_flight{group=web,slot=web.1}": 1,
        "bkd_worker_requests_total{group=web,slot=web.1}": 42,
        "bkd_worker_resident_bytes{group=web,slot=web.1}": 31457280,
        "bkd_worker_proportional_bytes{group=web,slot=web.1}": 9437184,
        "bkd_worker_cpu_ratio{group=web,slot=web.1}": 0.3,
        "bkd_worker_cpu_seconds_total{group=web,slot=web.1}": 4.5,
        "bkd_slot_backoff_seconds{group=web,slot=web.1}": 0,
        "bkd_slot_backoff_seconds{group=web,slot=web.2}": 2.5,
        "bkd_bus_connected{}": 1,
        "bkd_bus_reconnects_total{}": 1,
        "bkd_bus_refused_total{reason=forged}": 3,
        "bkd_bus_refused_total{reason=clock}": 0,
        "bkd_ipc_dropped_total{}": 6,
        "bkd_events_lost_total{}": 1,
        "bkd_master_epoch{}": 2,
        "bkd_master_cpu_seconds_total{}": 1.25,
        "bkd_master_resident_bytes{}": 40 << 20,
        "bkd_master_standstill_seconds_total{}": 3.5,
        "bkd_scrapes_total{code=200}": 3,
    }
    assert {name: read.get(name) for name in expected} == expected


def test_what_is_not_known_is_left_out():
    read = samples(status(group("web", IDLE)))

    of_the_slot = {name.partition("{")[0] for name in read if "slot=web.1" in name}
    told = {"bkd_worker_state", "bkd_worker_restarts_total", "bkd_worker_release", "bkd_worker_events_dropped_total"}
    assert of_the_slot == told | {"bkd_slot_backoff_seconds"}
    assert "bkd_scrape_seconds{}" not in read


def test_a_status_without_the_newest_keys_can_be_scraped():
    old = {name: value for name, value in WORKER.items() if name not in ("pss", "late", "served", "cpu_seconds")}

    assert samples(status(group("web", old)))["bkd_worker_resident_bytes{group=web,slot=web.1}"] == 31457280


def test_both_formats_say_the_same():
    shown = picture(status(group("web", WORKER, IDLE), group("jobs")))
    plain = [sample for family in parse_plain(expose(shown, False).decode()) for sample in family.samples]

    open_metrics = text_string_to_metric_families(expose(shown, True).decode())
    assert {(s.name, *sorted(s.labels.items()), s.value) for s in plain} == {
        (s.name, *sorted(s.labels.items()), s.value) for family in open_metrics for s in family.samples
    }


def test_nothing_secret_and_no_pid_is_shown():
    text = expose(picture(), True).decode()

    assert "secret" not in text
    assert not re.search(r"\bpid=", text)
    assert "_created" not in text


def test_every_group_has_every_counter_from_the_beginning():
    read = samples(status(group("web"), group("jobs")))

    causes = {str(cause).replace(" ", "_") for cause in Cause}
    verdicts = {str(verdict).replace(" ", "_") for verdict in Verdict} - {"ok"}
    for name in ("web", "jobs"):
        assert {read[f"bkd_worker_exits_total{{cause={cause},group={name}}}"] for cause in causes} == {0}
        for end in ("reported", "replaced"):
            keys = [f"bkd_worker_verdicts_total{{consequence={end},group={name},verdict={v}}}" for v in verdicts]
            assert {read[key] for key in keys} == {0}
        assert {read[f"bkd_roll_in_progress{{group={name},stage={stage}}}"] for stage in Stage} == {0}
        assert read[f"bkd_rolls_total{{group={name},outcome=aborted}}"] == 0


def test_what_happens_is_counted():
    exited = [facts.WorkerExited(slot="web.1", cause=str(Cause.OUTSIDE), **EXIT) for _ in range(2)]
    hung = facts.WorkerHung(slot="web.2", pid=8, verdict="slow boot", age=30.0)
    counters = counted(
        *exited,
        facts.WorkerLate(slot="web.2", pid=8, verdict="busy", age=10.0),
        hung,
        facts.RollDone(group="web", release=3, old=2, workers=2, seconds=4.0, left=[]),
        facts.RollAborted(group="web", release=4, old=3, stage="canary", reason="it crashed"),
        facts.WorkerWorn(slot="web.1", pid=9, why="1000 requests served"),
        facts.BreakerOpened(group="web", why="3 deaths"),
        facts.CrashLoop(slot="web.1", deaths=5, seconds=9.0),
        facts.Overslept(seconds=2.0),
        facts.BusLost(url="redis://h", why="refused"),
        facts.SlotDone(slot="web.1"),
    )

    read = samples(status(group("web", WORKER, WORKER)), counters)

    assert {name: value for name, value in read.items() if value and "_total" in name and "slot=" not in name} == {
        "bkd_worker_exits_total{cause=killed_from_outside,group=web}": 2,
        "bkd_worker_verdicts_total{consequence=reported,group=web,verdict=busy}": 1,
        "bkd_worker_verdicts_total{consequence=replaced,group=web,verdict=slow_boot}": 1,
        "bkd_rolls_total{group=web,outcome=done}": 1,
        "bkd_rolls_total{group=web,outcome=aborted}": 1,
        "bkd_recycled_total{group=web}": 1,
        "bkd_breaker_opened_total{group=web}": 1,
        "bkd_crash_loops_total{group=web}": 1,
        "bkd_master_standstills_total{}": 1,
        "bkd_bus_losses_total{}": 1,
        "bkd_bus_reconnects_total{}": 1,
        "bkd_bus_refused_total{reason=forged}": 3,
        "bkd_ipc_dropped_total{}": 6,
        "bkd_ipc_refused_total{}": 7,
        "bkd_events_lost_total{}": 1,
        "bkd_master_cpu_seconds_total{}": 1.25,
        "bkd_master_standstill_seconds_total{}": 3.5,
        "bkd_scrapes_total{code=200}": 3,
    }


def test_messages_are_counted_by_kind_and_state():
    read = samples(messages=Tallies([MAIL, {"kind": 'odd "one"', "queued": 1}], True))

    of_messages = {name: value for name, value in read.items() if name.startswith("bkd_message") and value}
    assert of_messages == {
        "bkd_messages{kind=mail,state=queued}": 3,
        "bkd_messages{kind=mail,state=dead_letter}": 1,
        'bkd_messages{kind=odd "one",state=queued}': 1,
        "bkd_messages_oldest_age_seconds{kind=mail}": 1.5,
        "bkd_message_store_up{}": 1,
    }
    assert read["bkd_messages{kind=mail,state=running}"] == 0


def test_a_store_that_is_away_is_not_up_and_one_that_is_not_there_is_not_shown():
    assert samples(messages=Tallies((), False))["bkd_message_store_up{}"] == 0
    assert not any(name.startswith("bkd_message") for name in samples())


def test_kinds_that_somebody_invents_have_an_end():
    read = samples(messages=Tallies([MAIL | {"kind": f"k{number}"} for number in range(MOST_KINDS + 100)], True))
    assert sum(name.startswith("bkd_messages_oldest") for name in read) == MOST_KINDS


def test_seconds_of_standstill_add_up():
    assert counted(facts.Overslept(seconds=2.0), facts.Overslept(seconds=0.5)).overslept == 2.5


def test_the_documentation_names_what_there_is():
    said = set(re.findall(r"\bbkd_[a-z_]+", DOCUMENTATION.read_text()))
    whole = group("web", {**WORKER, "limit_in": 60.0})
    itself = picture().itself._replace(took=0.01)

    shown = {name.partition("{")[0] for name in samples(status(whole), itself=itself, messages=Tallies([MAIL], True))}

    assert said == shown


def test_a_cluster_that_stops_is_not_up():
    assert samples(status(state="stopping"))["bkd_up{}"] == 0


@settings(max_examples=30)
@given(st.text(max_size=40), st.text(max_size=40))
def test_no_name_can_break_the_text(tag, host):
    assert any(name.startswith("bkd_up") for name in samples(status(tag=tag, host=host)))


@pytest.mark.parametrize(
    ("head", "asked"),
    [
        (b"GET /metrics HTTP/1.1\r\nHost: h\r\nAccept: a/b\r\n\r\n", Asked("GET", "/metrics", "a/b")),
        (b"HEAD /metrics?x=1 HTTP/1.0\r\n\r\n", Asked("HEAD", "/metrics", "")),
        (b"GET / HTTP/1.1\r\naccept:a\r\nACCEPT: \t b\r\nX:\r\n\r\n", Asked("GET", "/", "a,b")),
        (b"POST /metrics HTTP/1.1\r\nX: \xff\r\n\r\n", Asked("POST", "/metrics", "")),
    ],
)
def test_a_request_is_understood(head, asked):
    assert parse(head) == asked


@pytest.mark.parametrize(
    "head",
    [
        b"\r\n\r\n",
        b"GET /metrics\r\n\r\n",
        b"GET /metrics HTTP/2.0\r\n\r\n",
        b"GET metrics HTTP/1.1\r\n\r\n",
        b"GET  /metrics HTTP/1.1\r\n\r\n",
        b"get /metrics HTTP/1.1\r\n\r\n",
        b"GET /met\x00rics HTTP/1.1\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nno header\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\n folded: x\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\nA: b\nC: d\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n",
    ],
)
def test_what_is_no_request_is_refused(head):
    with pytest.raises(ValueError, match=r"request|header"):
        parse(head)


@given(st.binary(max_size=200))
def test_no_bytes_do_more_than_be_refused(head):
    try:
        assert parse(head + b"\r\n\r\n").path.startswith("/")
    except ValueError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("accept", "takes"),
    [
        (PROMETHEUS, True),
        ("application/openmetrics-text", True),
        ('Application/OpenMetrics-Text; version="1.0.0"; charset=utf-8', True),
        ("application/openmetrics-text; version=0.0.1", False),
        ("application/openmetrics-text; version=1.0.0; q=0", False),
        ("text/plain;version=0.0.4", False),
        ("*/*", False),
        ("", False),
    ],
)
def test_openmetrics_is_for_those_who_take_it(accept, takes):
    assert takes_openmetrics(accept) is takes
