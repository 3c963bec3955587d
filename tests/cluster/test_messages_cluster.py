"""Groups of kind messages and the dispatcher that comes with them, judged from outside: who runs what, how often."""

import json
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing

import pytest

from .cluster import alive, ended, kill, until
from .post import Post

JOBS = {"kind": "messages", "handlers": ["tasks"], "count": 2, "min_ready": "300ms", "term": "2s"}


@pytest.fixture(scope="module")
def cluster(share):
    """Two executors; every test leaves it with nothing to do and the gate shut."""
    return share(jobs=JOBS)


@pytest.fixture(autouse=True)
def shut(request):
    """No gate is open before a test that shares the cluster."""
    if "cluster" in request.fixturenames:
        gate = request.getfixturevalue("cluster").folder / "open"
        gate.unlink(missing_ok=True)


def dispatcher(cluster, group="jobs"):
    """Its row among the helpers of a group."""
    return next(row for row in cluster.group(group)["helpers"] if row["role"] == "dispatcher")


def runs(cluster):
    """Each run that has begun: kind, text, attempt and pid."""
    file = cluster.folder / "runs.txt"
    return [tuple(line.split()) for line in file.read_text().splitlines()] if file.exists() else []


def runs_of(cluster, text):
    return [(int(attempt), int(pid)) for _, about, attempt, pid in runs(cluster) if about == text]


def open_gate(cluster):
    (cluster.folder / "open").touch()


def attempts(cluster, receipt):
    """The runs of a message as they are kept."""
    with closing(sqlite3.connect(f"file:{cluster.run_dir}/bkd.db?mode=ro", uri=True)) as base:
        base.row_factory = sqlite3.Row
        rows = base.execute("SELECT * FROM attempt WHERE message_id = ? ORDER BY fence", (receipt.id,)).fetchall()
    return [{name: row[name] for name in row.keys() if not isinstance(row[name], bytes)} for row in rows]  # noqa: SIM118


def ask(cluster, verb, **arguments):
    """What a verb is answered with, errors included."""
    code = "import sys, json\nfrom bkd.supervisor.asking import ask\n"
    code += "sys.exit(ask(sys.argv[1], json.loads(sys.argv[2]), sock=sys.argv[3]))"
    words = [sys.executable, "-c", code, verb, json.dumps(arguments), str(cluster.run_dir / "control.sock")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
    return done.stdout + done.stderr


# -- what is there


def test_the_dispatcher_is_no_group_but_a_helper_of_those_it_serves(cluster):
    status = cluster.status()

    assert [group["name"] for group in status["groups"]] == ["jobs"]
    row = until(lambda: (row := dispatcher(cluster))["state"] == "ready" and row)
    assert (row["release"], alive(row["pid"])) == (1, True)
    assert oct((cluster.run_dir / "messages.sock").stat().st_mode & 0o777) == "0o600"
    assert "dispatcher" not in cluster.said().partition("logs in")[0]


def test_what_is_enqueued_is_run_once_and_its_result_is_told(cluster):
    with Post(cluster) as post:
        receipts = post.put("note", "once-a", "once-b")
        ends = [post.end(receipt) for receipt in receipts]

    assert [(end.state, end.result) for end in ends] == [("succeeded", b'"once-a"'), ("succeeded", b'"once-b"')]
    assert [len(runs_of(cluster, text)) for text in ("once-a", "once-b")] == [1, 1]


def test_there_is_one_dispatcher_and_it_is_not_scaled(cluster):
    refused = cluster.bkd("scale", "dispatcher=2")

    assert (refused.returncode, refused.stderr) == (
        2,
        "bkd: there is one dispatcher for all messages; scale the groups that run them\n",
    )


def test_verbs_about_messages_are_answered_by_the_dispatcher_and_audited_without_arguments(cluster):
    added = ask(cluster, "message:add", kind="note", options={}, items=[{"text": "classified"}], count=1)
    listed = ask(cluster, "message:list", selection={"kinds": ["note"]}, most=1000, after=0)

    until(lambda: runs_of(cluster, "classified"))
    assert "note" in listed, added
    [told] = until(lambda: [event for event in cluster.events("command") if event["verb"] == "message:add"])
    assert told["arguments"] == {"kind": "note"} and told["outcome"].startswith("stored "), told
    assert not [event for event in cluster.events("command") if event["verb"] == "message:list"]


# -- deaths


def test_a_killed_dispatcher_costs_no_run(cluster):
    with Post(cluster) as post:
        (receipt,) = post.put("gate", "over-a-dispatcher")
        until(lambda: runs_of(cluster, "over-a-dispatcher"))
        before, executors = dispatcher(cluster)["pid"], cluster.pids("jobs")
        kill(before)
        ended(before)
        open_gate(cluster)

        assert post.end(receipt).state == "succeeded"

    assert runs_of(cluster, "over-a-dispatcher") == [(1, runs_of(cluster, "over-a-dispatcher")[0][1])]
    assert cluster.pids("jobs") == executors
    assert dispatcher(cluster)["pid"] != before


def test_a_killed_master_costs_no_run(cluster):
    with Post(cluster) as post:
        (receipt,) = post.put("gate", "over-a-master")
        until(lambda: runs_of(cluster, "over-a-master"))
        before = cluster.status()["master_pid"], dispatcher(cluster)["pid"]
        kill(before[0])
        (after,) = post.put("note", "no-master")
        assert post.end(after).state == "succeeded"
        open_gate(cluster)
        assert post.end(receipt).state == "succeeded"

    until(cluster.is_ready)
    assert cluster.status()["master_pid"] != before[0]
    until(lambda: dispatcher(cluster)["state"] == "ready")
    assert dispatcher(cluster)["pid"] == before[1]
    assert len(runs_of(cluster, "over-a-master")) == 1


def test_what_a_killed_executor_was_running_is_run_again_soon(cluster):
    with Post(cluster) as post:
        (receipt,) = post.put("gate", "over-an-executor")
        ((_, pid),) = until(lambda: runs_of(cluster, "over-an-executor"))
        kill(pid)
        again = until(lambda: runs_of(cluster, "over-an-executor")[1:])
        open_gate(cluster)
        assert post.end(receipt).state == "succeeded"

    assert len(again) == 1
    assert again[0][1] != pid
    assert len(runs_of(cluster, "over-an-executor")) == 2


def test_the_master_tells_how_an_executor_died(cluster):
    with Post(cluster) as post:
        (receipt,) = post.put("gate", "told")
        ((_, pid),) = until(lambda: runs_of(cluster, "told"))
        kill(pid, 11)
        until(lambda: runs_of(cluster, "told")[1:])
        open_gate(cluster)
        post.end(receipt)

    told = attempts(cluster, receipt)
    assert [row["result"] for row in told] == ["lost", "ok"]
    assert "SIGSEGV" in json.dumps(told[0])


# -- changes


def test_a_roll_loses_nothing_and_runs_nothing_twice(cluster):
    with Post(cluster) as post:
        rolling, receipts = cluster.popen("restart", "jobs"), []
        while rolling.poll() is None:
            receipts += post.put("note", f"roll-{len(receipts)}")
            post.end(receipts[-1])
        receipts += post.put("note", f"roll-{len(receipts)}")
        assert {post.end(receipt).state for receipt in receipts} == {"succeeded"}

    assert rolling.returncode == 0
    run = Counter(about for _, about, _, _ in runs(cluster) if about.startswith("roll-"))
    assert run == Counter(f"roll-{number}" for number in range(len(receipts)))
    assert len({pid for _, about, _, pid in runs(cluster) if about.startswith("roll-")}) >= 2


def test_a_restart_without_names_leaves_the_dispatcher_alone_and_one_by_name_does_not(cluster):
    before = dispatcher(cluster)["pid"]
    assert cluster.bkd("restart").returncode == 0
    assert dispatcher(cluster)["pid"] == before

    with Post(cluster) as post:
        (receipt,) = post.put("gate", "over-a-restart")
        until(lambda: runs_of(cluster, "over-a-restart"))
        assert cluster.bkd("restart", "dispatcher").returncode == 0
        open_gate(cluster)
        assert post.end(receipt).state == "succeeded"

    assert len(runs_of(cluster, "over-a-restart")) == 1
    assert dispatcher(cluster)["pid"] != before


def test_a_socket_that_was_removed_is_made_again(cluster):
    path = cluster.run_dir / "messages.sock"
    path.unlink()

    until(path.exists)

    with Post(cluster) as post:
        (receipt,) = post.put("note", "found-again")
        assert post.end(receipt).state == "succeeded"


# -- clusters of their own


def test_a_stuck_handler_is_ended_with_evidence_and_its_message_tried_again(launch):
    cluster = launch(jobs=JOBS | {"mode": "exclusive", "count": 1})
    with Post(cluster) as post:
        (receipt,) = post.put("stuck", "never")
        end = post.end(receipt, 60.0)

    assert (end.state, len(runs_of(cluster, "never"))) == ("dead_letter", 2)
    hung = cluster.events("worker-hung")
    assert [fact["verdict"] for fact in hung] == ["overdue", "overdue"]
    assert len(cluster.events("evidence-taken")) == 2
    until(lambda: len(cluster.events("worker-exited")) == 2)
    assert cluster.worker("jobs.1")["last_exit"]["cause"] == "hung"
    assert "time.sleep" in cluster.bkd("why", "jobs.1").stdout
    assert [row["result"] for row in attempts(cluster, receipt)] == ["timeout", "timeout"]


def test_the_dispatcher_comes_and_goes_with_the_groups_that_need_it(launch):
    web = {"app": "shop:app", "count": 1, "min_ready": "300ms"}
    cluster = launch(web=web)
    path = cluster.run_dir / "messages.sock"
    assert not path.exists()
    nothing = ask(cluster, "message:list")
    assert 'has kind = "messages"' in nothing

    cluster.configure(web=web, jobs=JOBS, store={"url": "sqlite:run/other.db"})
    reload = cluster.bkd("reload")
    assert (reload.returncode, "dispatcher" in reload.stdout) == (0, False), reload.stdout + reload.stderr
    with Post(cluster) as post:
        (receipt,) = post.put("note", "came")
        assert post.end(receipt).state == "succeeded"
    assert (cluster.run_dir / "other.db").exists()
    pid = dispatcher(cluster)["pid"]

    cluster.configure(web=web, store={"url": "sqlite:run/other.db"})
    assert cluster.bkd("reload").returncode == 0
    assert ended(pid)
    until(lambda: not path.exists())


def test_a_start_in_the_background_tells_why_the_store_cannot_be_used(prepare):
    cluster = prepare(jobs=JOBS)
    cluster.run_dir.mkdir(mode=0o700)
    (cluster.run_dir / "bkd.db").write_text("this is no database " * 100)

    result = cluster.bkd("start", "-d")

    assert result.returncode == 1
    assert "bkd.db" in result.stderr.strip().splitlines()[-1]


def test_check_imports_the_handlers(prepare):
    cluster = prepare(jobs=JOBS | {"handlers": ["tasks", "no_such_module"]})

    result = cluster.bkd("check")

    assert result.returncode == 1
    assert "no_such_module" in result.stderr
