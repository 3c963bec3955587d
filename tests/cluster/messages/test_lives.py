"""The life of messages, from outside: states, attempts, retries, stages, locks, errors, what is kept of them."""

import json
import subprocess
import sys
import time
from datetime import UTC, datetime

import pytest

from bkd.ipc.errors import BkdError

from ..cluster import until
from .project import JOBS, moment

LOGS = {"LOGURU_LEVEL": "TRACE"}
ROUNDED = 0.01  # seconds that stamps of two processes, in whole milliseconds, may be apart
LATE = 5.0  # seconds after its end that an outcome may come to the dispatcher, which counts delays from then on


@pytest.fixture(scope="module")
def cluster(shared_project):
    """Two executors; each test uses messages of its own."""
    return shared_project(jobs=JOBS | {"env": LOGS, "concurrency": 20}).start()


def test_a_message_is_queued_runs_and_succeeds_in_one_attempt(cluster):
    cluster.message("pause", "gate")
    (id,) = cluster.message("add", "gate", '{"gate": "plain"}')["ids"]
    assert cluster.show(id)["state"] == "queued"
    cluster.message("resume", "gate")
    running = cluster.stands(id, "running")
    assert (running["pid"], running["worker"].partition("@")[0]) == (
        cluster.started(id)[0]["pid"],
        "jobs.1",
    ) or running["worker"].startswith("jobs.2@")
    cluster.open("plain")

    told = cluster.end(id)

    assert (told["state"], told["attempts"], told["iteration"], told["result"]) == ("succeeded", 1, 1, "plain")


def test_a_finished_stage_is_not_run_again(cluster):
    (id,) = cluster.add("staged", {})

    told = cluster.end(id)

    assert [run["stage"] for run in cluster.runs(id)] == ["send", "apply", "apply"]
    assert (told["state"], told["outputs"]["send"], told["result"]) == ("succeeded", "sent", "sent, applied")


def test_there_are_as_many_attempts_as_there_may_be_and_one_notification(cluster):
    (id,) = cluster.add("thrice", {"text": "x"})

    told = cluster.end(id)

    assert (told["state"], told["reason"], told["attempts"]) == ("dead_letter", "exhausted", 3)
    assert len(told["history"]) == len(cluster.runs(id)) == 3
    assert len(told["notifications"]) == 1
    assert told["notifications"][0].startswith("ops@example.org: ")


def test_without_a_second_attempt_it_is_dead_at_once(cluster):
    ids = cluster.add("once", {}) + cluster.add("gate", {"nonsense": 1}, max_attempts=1)

    told = [cluster.end(id) for id in ids]

    assert [(one["state"], one["reason"]) for one in told] == [("dead_letter", "exhausted"), ("dead_letter", "invalid")]
    assert [len(one["history"]) for one in told] == [1, 1]


def test_a_calendar_of_two_seconds(cluster):
    (id,) = cluster.add("two-seconds", {})

    cluster.end(id)

    first, second = cluster.show(id)["history"]
    assert 2.0 <= moment(second["started"]) - moment(first["ended"]) <= 20.0


def test_a_calendar_of_a_month(cluster):
    (id,) = cluster.add("monthly", {})

    told = cluster.stands(id, "retry_scheduled")

    due, failed = (datetime.fromtimestamp(moment(text), UTC) for text in (told["due"], told["history"][0]["ended"]))
    assert (due.year * 12 + due.month) - (failed.year * 12 + failed.month) == 1
    assert due.day == failed.day or due.day >= 28


@pytest.mark.parametrize(("kind", "low", "high"), [("growing", 1.0, 3600.0), ("fixed", 60.0, 60.0)])
def test_delays_grow_or_stay_as_they_are(cluster, kind, low, high):
    (id,) = cluster.add(kind, {})
    delays = []
    for attempt in range(1, 9 if kind == "fixed" else 16):
        told = until(
            lambda n=attempt: (one := cluster.show(id))["state"] == "retry_scheduled" and one["attempts"] == n and one
        )
        delays.append(moment(told["due"]) - moment(told["history"][-1]["ended"]))
        cluster.asked("message:retry", selection={"ids": [str(id)]})

    assert all(low - ROUNDED <= delay <= high + LATE for delay in delays), delays
    assert delays[0] <= (2.4 if kind == "growing" else 60.0) + LATE
    assert kind == "fixed" or all(late > 1.2 * early for early, late in zip(delays, delays[2:10], strict=False)), delays


def test_a_handler_says_itself_when_it_is_run_again(cluster):
    (id,) = cluster.add("fixed", {"after": 0.7})

    assert cluster.end(id)["state"] == "succeeded"

    first, second = cluster.show(id)["history"]
    assert 0.69 <= moment(second["started"]) - moment(first["ended"]) <= 30.0  # else it would be a minute


def test_arguments_that_are_too_large_are_refused(cluster):
    before = cluster.tally("note")

    refused = cluster.bkd("message", "add", "note", json.dumps({"text": "x" * 70_000}))

    assert refused.returncode in (1, 2)
    assert "65" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert cluster.tally("note") == before


def test_arguments_that_do_not_fit_are_invalid_on_the_first_run(cluster):
    ids = cluster.add("entity", {}, {"document_id": "x"}, {"document_id": 404})

    told = [cluster.end(id) for id in ids]

    assert {(one["state"], one["reason"], one["attempts"]) for one in told} == {("dead_letter", "invalid", 1)}
    assert "document_id" in told[0]["error"]["text"]
    assert [len(cluster.runs(id)) for id in ids] == [0, 0, 1]


def test_what_was_deleted_between_two_runs_makes_a_message_invalid(cluster):
    document = cluster.folder / "document-7"
    document.write_text("busy")
    (id,) = cluster.add("entity", {"document_id": 7})
    cluster.started(id)
    document.unlink()

    told = cluster.end(id)

    assert (told["reason"], told["crashes"], told["error"]["text"]) == ("invalid", 0, "there is no document 7")


def test_a_lock_that_is_taken_is_waited_for_in_silence(cluster):
    (holder,) = cluster.add("locked", {"key": "silent", "gate": "lock"})
    cluster.started(holder)
    (waiter,) = cluster.add("locked", {"key": "silent"})

    told = until(lambda: (one := cluster.show(waiter))["locks"] and one["state"] == "retry_scheduled" and one)

    assert cluster.show(holder)["held_locks"] == ["silent"]
    assert (cluster.runs(waiter), told["attempts"]) == ([], 0)
    cluster.open("lock")
    assert cluster.end(waiter)["state"] == "succeeded"
    words = [line for line in logs(cluster) if f" {waiter} #" in line]
    assert any(" DEBUG " in line and "silent is taken" in line for line in words)
    assert not [line for line in words if " ERROR " in line or " WARNING " in line]


def test_an_error_frees_the_lock_at_once(cluster):
    (first,) = cluster.add("locked", {"key": "thrown", "gate": "thrown", "fail": True})
    cluster.started(first)
    cluster.open("thrown")
    assert cluster.stands(first, "retry_scheduled")["history"][0]["error"]["code"] == "OSError"
    (second,) = cluster.add("locked", {"key": "thrown"})

    assert cluster.end(second)["locks"] == 0


def test_a_lock_lets_one_run_at_a_time(cluster):
    ids = cluster.add("add", {}, count=20)

    results = sorted(cluster.end(id, 40.0)["result"] for id in ids)

    assert results == list(range(1, 21))
    assert (cluster.folder / "counter").read_text() == "20"


def test_loops_are_found_told_and_ended(cluster):
    ids = cluster.add("looping", {"document_id": 5000}, {"document_id": 6000})
    until(lambda: all(cluster.show(id)["iteration"] > 20 for id in ids))

    all_found = cluster.message("loops", "--kind", "looping", "--over", 5)["messages"]
    found = cluster.message("loops", "--kind", "looping", "--over", 5, "--where", "document_id=5000")["messages"]

    assert sorted(one["id"] for one in all_found) == sorted(ids)
    assert [(one["id"], one["args"]) for one in found] == [(ids[0], {"document_id": 5000})]
    assert found[0]["iteration"] > 5
    until(lambda: [event for event in cluster.events() if any(f"message {id} " in json.dumps(event) for id in ids)])
    cluster.message("cancel", "--kind", "looping", "--where", "document_id=5000", "--yes")
    (cluster.folder / "document-6000").touch()
    assert (cluster.end(ids[0])["state"], cluster.end(ids[1])["state"]) == ("cancelled", "succeeded")
    assert [deed["verb"] for deed in cluster.show(ids[0])["actions"]] == ["cancel"]


def test_every_record_of_a_run_names_handler_and_message(cluster):
    (good,) = cluster.add("note", {"text": "logged"})
    (bad,) = cluster.add("once", {})
    cluster.end(good)
    cluster.end(bad)

    begins, ended = until(lambda: len(found := said_of(cluster, f"note {good} #1")) == 2 and found)
    assert "begins" in begins
    assert '"logged"' in begins
    assert " ok after " in ended
    begins, failed = until(lambda: len(found := said_of(cluster, f"once {bad} #1")) == 2 and found)
    assert "begins" in begins
    assert " ERROR " in failed
    assert "it does not work" in failed
    until(lambda: "work.py" in (text := "\n".join(logs(cluster)))[text.index(failed) :][:2000])


def test_each_attempt_is_told_with_stage_worker_times_and_outcome(cluster):
    (id,) = cluster.add("staged", {"failures": 2})

    history = cluster.end(id)["history"]

    assert [one["stage"] for one in history] == ["apply"] * 3
    assert [one["outcome"] for one in history] == ["error", "error", "ok"]
    assert all(one["worker"].startswith("jobs.") and one["pid"] for one in history)
    assert all(moment(one["started"]) <= moment(one["ended"]) for one in history)
    assert history[0]["error"]["code"] == "OSError"
    assert "work.py" in history[0]["error"]["stack"]


def test_a_dead_letter_is_run_again_with_the_stages_it_has(cluster):
    (id,) = cluster.add("staged", {"failures": 2}, max_attempts=2)
    dead = cluster.end(id)
    assert (dead["state"], dead["reason"]) == ("dead_letter", "exhausted")
    cluster.message("retry", id)
    until(lambda: cluster.show(id)["iteration"] > dead["iteration"])

    told = until(lambda: (one := cluster.show(id))["state"] in ("succeeded", "dead_letter") and one)

    assert (told["guid"], told["attempts"]) == (dead["guid"], 2)
    assert [run["attempt"] for run in cluster.runs(id)] == [1, 1, 2, 1, 2]
    assert [run["stage"] for run in cluster.runs(id)].count("send") == 1
    assert [deed["verb"] for deed in told["actions"]] == ["retry"]


def test_a_clone_is_a_new_message(cluster):
    (id,) = cluster.add("note", {"text": "again"})
    first = cluster.end(id)

    (copy,) = cluster.message("clone", id)["created"]

    second = cluster.end(copy)
    assert (second["parent_id"], second["args"], second["result"]) == (id, first["args"], "again")
    assert second["guid"] != first["guid"]


def test_what_need_not_be_kept_is_not(cluster):
    good, bad = cluster.add("brief", {}, {"fail": True})
    cluster.started(good)

    until(lambda: not cluster.select(ids=[str(good)]), 40.0)

    assert cluster.end(bad)["state"] == "dead_letter"


def test_an_alert_changes_nothing(cluster):
    cluster.message("pause", "gate")
    (maker,) = cluster.add(
        "enqueue",
        {"kind": "gate", "options": {"deadline": "100ms", "on_deadline": "alert", "notify": "ops@example.org"}},
    )
    id = cluster.end(maker)["result"]

    told = until(lambda: (one := cluster.show(id))["notifications"] and one, 40.0)

    assert told["state"] == "queued"
    assert str(id) in told["notifications"][0]
    cluster.message("cancel", id)
    cluster.message("resume", "gate")


def test_priorities_and_order(cluster):
    cluster.message("pause", "note")
    cluster.message("limit", "note", 1)
    ids = [cluster.add("note", {"text": "o"}, priority=priority)[0] for priority in (50, 23, 50, 10)]
    cluster.message("resume", "note")
    [cluster.end(id) for id in ids]
    cluster.message("limit", "note", 0)

    order = [run["id"] for run in cluster.runs(*ids)]

    assert order == [ids[3], ids[1], ids[0], ids[2]]


def test_kinds_without_a_handler_wait_and_are_told(cluster):
    told = cluster.bkd("message", "add", "nobody", "{}", "--json")
    (id,) = json.loads(told.stdout)["ids"]

    assert cluster.tally("nobody")["handled"] is False
    assert (cluster.show(id)["state"], cluster.show(id)["attempts"]) == ("queued", 0)
    assert "handler" in " ".join(cluster.message("why", id)["why"])
    with pytest.raises(BkdError):
        cluster.asked("message:purge", selection={"ids": [str(id)]})


def test_thousands_that_wait_slow_nothing_down(cluster):
    def latency():
        begun = time.monotonic()
        ids = [cluster.add("note")[0] for _ in range(20)]
        cluster.end(ids[-1])
        return time.monotonic() - begun

    before = min(latency() for _ in range(3))
    cluster.message("pause", "noop")
    assert cluster.bkd("message", "add", "noop", "--count", "4000").returncode == 0
    after = min(latency() for _ in range(3))
    assert cluster.tally("noop")["queued"] >= 4_000

    begun = time.monotonic()
    cluster.message("resume", "noop")
    until(lambda: cluster.tally("noop")["queued"] <= 2_000, 60.0)
    first = time.monotonic() - begun
    cluster.ends("noop", limit=60.0)
    second = time.monotonic() - begun - first

    assert after < 3 * before + 1.0, (before, after)
    assert second < 3 * first + 2.0, (first, second)


def test_afterwards_the_store_is_as_it_should_be(cluster):
    assert cluster.faults() == []
    done = subprocess.run(
        [sys.executable, "-m", "bkd", "store", "check"], cwd=cluster.folder, capture_output=True, text=True, timeout=40
    )
    assert done.returncode == 0, done.stdout + done.stderr


def said_of(cluster, run):
    """Lines of the logs about one run."""
    return [line for line in logs(cluster) if f" {run} " in line]


def logs(cluster):
    """Lines of both executors."""
    return [line for slot in ("jobs.1", "jobs.2") for line in cluster.log(slot).splitlines()]
