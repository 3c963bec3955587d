"""What a live worker is doing: `bkd dump NAME`, and what bkd says of an event loop that is late."""

import contextlib
import json
import signal

import pytest

from .cluster import alive, free_port, kill, title, until
from .witness import (
    SECRET,
    Visitor,
    dump,
    evidence,
    frames,
    is_place,
    places,
    silent_server,
    tells_place,
)

PING = {"interval": "5s", "kill": "20s"}
PORTS = ("plain", "fast")


@pytest.fixture(scope="module")
def ports():
    return {name: free_port() for name in PORTS}


@pytest.fixture(scope="module")
def cluster(share, ports):
    web = {"count": 1, "min_ready": "100ms", "drain": "1s", "term": "300ms"}
    return share(
        web=web | {"app": "trouble:app"},
        plain=web | {"app": "trouble:plain", "bind": [f"127.0.0.1:{ports['plain']}"]},
        fast=web | {"app": "trouble_fastapi:app", "bind": [f"127.0.0.1:{ports['fast']}"]},
        idle={"target": "trouble:idles", "restart": "always"},
        gone={"target": "trouble:becomes_another", "restart": "always"},
        nap={"command": ["sleep", "600"], "ready": "after:100ms", "restart": "always"},
        ping=PING,
    )


@pytest.fixture
def visitor(cluster):
    visitor = Visitor(cluster.port)
    yield visitor
    visitor.close()


@pytest.fixture(autouse=True)
def same_processes(cluster):
    """No dump costs a process its life."""
    before = {name: cluster.pids(name) for name in ("web", "plain", "fast", "idle", "nap")}
    yield
    assert {name: cluster.pids(name) for name in before} == before


def has(cluster, name, marker):
    """What `bkd dump --json` says as soon as a frame of it is at this place."""

    def found():
        pid, seen = evidence(cluster, name)
        return any(is_place(frame, marker) for frame in frames(seen.get("stacks") or {})) and (pid, seen)

    return until(found)


def tells(cluster, name, *words, place=""):
    """What `bkd dump` prints as soon as it has these words, and this place. What a process, or the kernel, does not say
    within 400 ms is left out of it."""

    def told():
        text = dump(cluster, name)
        return all(word in text for word in words) and (not place or tells_place(text, place)) and text

    return until(told)


def test_a_worker_at_work(cluster, visitor):
    """Every thread, every task with what it waits for, every open request; the request is answered."""
    visitor.ask("/sleep?seconds=6")
    text = tells(cluster, "web.1", "GET /sleep", "in sleep", "main thread")
    assert str(visitor.pid) in text.splitlines()[0]
    assert visitor.answer() == str(visitor.pid)


def test_a_task_that_waits_for_ever(cluster):
    """The chain of awaits down to what is never set, beside a loop that turns."""
    with cluster.send("/chain"):
        _, seen = has(cluster, "web.1", "page")
        task = next(task for task in seen["stacks"]["tasks"] if task["name"] == "prices")
        text = tells(cluster, "web.1", "prices", place="page")
    ours = [frame for frame in task["frames"] if frame["file"].endswith("trouble.py")]
    assert [frame["function"] for frame in ours] == ["page", "collect"]
    assert [is_place(frame, frame["function"]) for frame in ours] == [True, True]
    assert "Event" in task["waits"]
    assert seen["source"] == "worker"
    assert tells_place(text, "collect")


def test_a_sleep_that_blocks_the_loop(cluster, visitor):
    """It sleeps on, and answers."""
    visitor.ask("/block?seconds=6")
    _, seen = has(cluster, "web.1", "block")
    assert is_place(seen["culprit"], "block")
    assert "GET /block" in [work["what"] for work in seen["stacks"]["work"]]
    tells(cluster, "web.1", place="block")
    assert visitor.answer() == str(visitor.pid)


def test_a_computation_in_c(cluster, visitor):
    """Faulthandler writes what the worker cannot say; the computation goes on."""
    visitor.ask("/power?exponent=5000000")
    _, seen = has(cluster, "web.1", "power")
    assert (seen["source"], "interpreter lock" in seen["silence"]) == ("signal", True)
    assert is_place(seen["culprit"], "power")
    assert visitor.answer() == str(visitor.pid)


@pytest.mark.parametrize("name", PORTS)
def test_a_request_in_a_thread(cluster, ports, name):
    """WSGI and plain functions of FastAPI: the thread, its line, and from whom it reads."""
    with silent_server() as port, contextlib.closing(Visitor(ports[name])) as visitor:
        visitor.ask(f"/fetch?port={port}")
        _, seen = has(cluster, f"{name}.1", "fetch")
        tells(cluster, f"{name}.1", f"127.0.0.1:{port}", "GET /fetch", place="fetch")
    assert is_place(seen["culprit"], "fetch")


def test_a_stopped_worker(cluster):
    """It can say nothing, /proc can."""
    pid = cluster.worker("web.1")["pid"]
    kill(pid, signal.SIGSTOP)
    try:
        tells(cluster, "web.1", "stopped")
        number, seen = until(lambda: (told := evidence(cluster, "web.1"))[1].get("kernel") and told)
    finally:
        kill(pid, signal.SIGCONT)
    assert (number, seen["state"], seen.get("source", ""), seen.get("stacks")) == (pid, "T", "", None)
    assert seen["kernel"][0]["tid"] == pid
    until(cluster.serves)


def test_a_program(cluster):
    """Of what is no worker of bkd's /proc tells: its state and what it waits for."""
    pid, seen = evidence(cluster, "nap.1")
    assert (pid, seen["state"]) == (cluster.worker("nap.1")["pid"], "S")
    tells(cluster, "nap.1", "nanosleep")
    assert alive(pid)


def test_a_function(cluster):
    """A group of kind `python` has stacks and tasks like any other."""

    def functions():
        _, seen = evidence(cluster, "idle.1")
        return [frame["function"] for frame in frames(seen.get("stacks") or {})]

    until(lambda: "idles" in functions())


def test_a_name_that_nobody_has(cluster):
    """The caller's fault: one line that says so."""
    for name in ("web.99", "nobody", "nobody.1"):
        assert len(dump(cluster, name, code=2).splitlines()) == 1, name


def test_a_slot_without_a_process(prepare):
    """There is nobody to ask: exit 1 and a line."""
    cluster = prepare(over={"target": "trouble:returns", "restart": "failure"}).start(ready=False)
    until(lambda: cluster.answered() and cluster.worker("over.1")["state"] == "done")
    assert len(dump(cluster, "over.1", code=1).splitlines()) == 1


def test_a_group(cluster):
    """A group's name stands for all of its workers."""
    document = json.loads(dump(cluster, "web", "--json"))
    assert [(one["name"], one["pid"]) for one in document["workers"]] == [("web.1", cluster.pids("web")[0])]
    assert dump(cluster, "web").startswith("web.1 ")


def test_an_event_loop_that_is_late(cluster, visitor):
    """The line that held it up is told once, and counted each time."""
    before = cluster.worker("web.1").get("late", 0)
    for _ in range(2):
        visitor.ask("/block?seconds=1.5")
        assert visitor.answer() == str(visitor.pid)
    until(lambda: cluster.worker("web.1").get("late", 0) >= before + 2)
    line = f"trouble.py:{next(iter(places('block')))}"
    told = until(lambda: [event for event in cluster.events("loop-late") if line in event["where"]])
    assert len(told) == 1
    assert any(
        "late" in line and "trouble.py" in line for line in cluster.bkd("events", "--since", "1h").stdout.splitlines()
    )


def test_no_secret_is_told(cluster, visitor):
    """Neither query strings nor headers of a request are in what is told of it."""
    visitor.ask("/sleep?seconds=1")
    said = [dump(cluster, "web.1"), dump(cluster, "web.1", "--json"), json.dumps(cluster.events()), cluster.said()]
    assert [text for text in said if SECRET in text] == []
    assert visitor.answer() == str(visitor.pid)


def test_asked_by_a_pipe(cluster):
    """No colours."""
    for options in ((), ("--json",)):
        assert "\x1b" not in dump(cluster, "web.1", *options)


def test_a_program_that_a_worker_has_become(cluster):
    """It has no handler for the signal at which stacks are written, and is not sent it."""
    old = cluster.worker("gone.1")["pid"]
    cluster.bkd("restart", "gone.1", "--hard")  # a fresh one is far from `ping.kill`
    pid = until(
        lambda: (pid := cluster.worker("gone.1")["pid"]) not in (old, None) and "sleep 600" in title(pid) and pid
    )
    tells(cluster, "gone.1", "no handler")
    assert alive(pid)
