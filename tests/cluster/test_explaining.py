"""Why a worker ended: `bkd why` names each case for what it is, with the line of code where there is one."""

import json
import os
import pwd
import re
import signal
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from .cluster import PATIENCE, ended, free_port, kill, until
from .witness import (
    SECRET,
    Visitor,
    frames,
    is_place,
    is_whole,
    report,
    reports,
    silent_server,
    story,
    tells_place,
    visitors,
    why,
)

PING = {"interval": "500ms", "kill": "2s"}
WEB = {"app": "trouble:app", "count": 8, "min_ready": "100ms", "drain": "1s", "term": "300ms"}
EVIDENCE = 0.5
IN_TURN = 2.0  # one after the other it would be more than 3 s for the last of eight
CUT = 0.4  # what cannot be had within these seconds is left out; who does not answer in 100 ms has stacks without names
LATER = 0.01  # events of one turn of the master's loop have times that differ by less
HEAD = 6
ORDER = ("worker-late", "worker-hung", "evidence-taken", "worker-killed", "worker-exited")


class Case(NamedTuple):
    """What is asked of a worker; what the first lines must say, what the rest; where it happened."""

    path: str = ""
    head: tuple[str, ...] = ()
    more: tuple[str, ...] = ()
    place: str = ""
    verdicts: tuple[str, ...] = ("stuck", "starved")  # the second one where others take all of the CPU


class Told(NamedTuple):
    """What was told of an end: by `bkd why` as text and as document, and by the events."""

    slot: str
    pid: int
    text: str
    report: dict
    story: dict


HANGS = {
    "deadlock": Case("/deadlock", ("hung", "lock"), ("holder",), "deadlock"),
    "crossed": Case("/crossed", ("hung", "lock"), ("crossing",), "crossed"),
    "read": Case("/read?port={port}", ("hung",), (r"127\.0\.0\.1:{port}",), "read"),
    "fetch": Case("/fetch?port={port}", ("hung",), (r"127\.0\.0\.1:{port}", "GET /fetch"), "fetch"),
    "pipe": Case("/pipe", ("hung",), ("pipe",), "pipe"),
    "block": Case("/block?seconds=600", ("hung",), ("GET /block", "going to block"), "block"),
    "hold_gil": Case("/hold_gil?microseconds=600000000", ("hung", "interpreter lock"), (), "hold_gil"),
    "stopped": Case("", ("hung", "stopped", "SIGSTOP"), (), "", ("stopped",)),
}
BUSY = {
    "spin": Case("/spin", ("hung", "busy|starved"), (r"[Cc][Pp][Uu]",), "spin", ("busy", "starved")),
    "power": Case("/power?exponent=100000000", ("hung", "interpreter lock"), (), "power", ("busy", "starved")),
}
DEATHS = {
    "segv": Case("/segv", ("SIGSEGV",), (), "segv"),
    "recurse": Case("/recurse", ("SIGSEGV",), ("recursion",), "recurse"),
    "leave": Case("/leave?code=3", ("exit code 3|code 3 ",)),
    "kill": Case("", ("killed from outside", "SIGKILL"), ("bkd did not|another process",)),
    "term": Case("", ("SIGTERM",), ()),
    "operator": Case("", ("SIGKILL",), (r"bkd signal \S+ (SIG)?KILL", pwd.getpwuid(os.getuid()).pw_name)),
}


@pytest.fixture(scope="module")
def plain_port():
    return free_port()


@pytest.fixture(scope="module")
def cluster(share, plain_port):
    plain = {"app": "trouble:plain", "bind": [f"127.0.0.1:{plain_port}"], "count": 1, "request_timeout": "1s"}
    return share(web=WEB, plain=plain | {"term": "300ms"}, ping=PING)


def all_at_once(cluster, cases, others=None):
    """Every case in a worker of its own at the same moment, and what is told of it when they all have ended. A case
    without a path happens by one of `others`, which are called with the worker's slot and pid."""
    cluster.bkd("reset", "web")
    until(cluster.is_ready)
    with silent_server() as port, visitors(cluster) as found:
        chosen = dict(zip(cases, found.items(), strict=False))
        for name, (slot, visitor) in chosen.items():
            if cases[name].path:
                visitor.ask(cases[name].path.format(port=port))
            else:
                (others or {})[name](slot, visitor.pid)
        victims = {name: (slot, visitor.pid) for name, (slot, visitor) in chosen.items()}
        ends = until(lambda: ends_of(cluster, {pid for _, pid in victims.values()}))
    events = cluster.events()
    return port, {
        name: Told(slot, pid, why(cluster, slot), ends[pid], story(events, pid))
        for name, (slot, pid) in victims.items()
    }


def ends_of(cluster, pids):
    """The reports on the ends of these processes, None while one is not there."""
    ends = {one["pid"]: one for one in reports(cluster, "web") if is_whole(one)}
    return ends if pids <= set(ends) else None


@pytest.fixture(scope="module")
def hung(cluster):
    """Eight workers that hang at the same moment."""
    return all_at_once(cluster, HANGS, {"stopped": lambda _slot, pid: kill(pid, signal.SIGSTOP)})


@pytest.fixture(scope="module")
def busy(cluster):
    return all_at_once(cluster, BUSY)


@pytest.fixture(scope="module")
def dead(cluster):
    return all_at_once(
        cluster,
        DEATHS,
        {
            "kill": lambda _slot, pid: kill(pid),
            "term": lambda _slot, pid: kill(pid, signal.SIGTERM),
            "operator": lambda slot, _pid: cluster.bkd("signal", slot, "KILL"),
        },
    )


def explained(case, told, port=0):
    """The first lines name it, the place is told with its line of source, and the rest is there."""
    head = " ".join(told.text.splitlines()[:HEAD])
    assert [word for word in case.head if not re.search(word, head)] == [], told.text
    evidence = told.report.get("evidence")
    whole = evidence is None or (evidence.get("took", 0.0) < CUT and evidence.get("source") != "signal")
    more = [word.replace("{port}", str(port)) for word in case.more if whole]
    assert [word for word in more if not re.search(word, told.text)] == [], told.text
    assert str(told.pid) in told.text
    if case.place:
        assert tells_place(head, case.place), told.text


def test_a_slot_that_never_ended(cluster):
    """There is nothing to explain: one line says so; of a name that nobody has it is the caller's fault."""
    assert len(why(cluster, "web.1").splitlines()) == 1
    assert reports(cluster, "web.1") == []
    for name in ("web.99", "nobody.1", "nobody", "../../etc/passwd"):
        assert len(why(cluster, name, code=2).splitlines()) == 1, name


@pytest.mark.parametrize("name", HANGS)
def test_a_hang(hung, name):
    """Locks, reads, sleeps, C code that keeps the interpreter's lock, SIGSTOP."""
    port, told = hung
    explained(HANGS[name], told[name], port)
    one = told[name].report
    assert (one["cause"], one["verdict"] in HANGS[name].verdicts) == ("hung", True)
    assert one["slot"] == told[name].slot
    if HANGS[name].place:
        assert is_place(one["evidence"]["culprit"], HANGS[name].place)


@pytest.mark.parametrize("name", BUSY)
def test_a_busy_loop(busy, name):
    """A loop in Python is told from a computation in C."""
    port, told = busy
    explained(BUSY[name], told[name], port)
    one = told[name].report
    assert (one["cause"], one["verdict"] in BUSY[name].verdicts) == ("hung", True)
    assert one["evidence"]["source"] in (("worker", "signal") if name == "spin" else ("signal",))
    silent = bool(one["evidence"].get("silence"))
    assert ("interpreter lock" in told[name].text) == silent
    assert silent or name == "spin"  # that one answers, unless others take all of the CPU


@pytest.mark.parametrize("name", HANGS)
def test_evidence_comes_first(hung, name):
    """Of eight that hang at once each has its evidence before it is killed, and does not wait for that of others."""
    told = hung[1][name]
    seen = [told.story[fact] for fact in ORDER if fact in told.story]
    assert seen == sorted(seen)
    assert set(ORDER) - {"worker-late", "worker-killed"} <= set(told.story)
    assert delay(told) <= IN_TURN


def test_evidence_is_quick(hung):
    """500 ms from the verdict, though others hang at the same time; a busy machine delays it."""
    assert min(delay(told) for told in hung[1].values()) <= EVIDENCE


def delay(told):
    """Seconds from the verdict until the evidence was there."""
    return told.story["evidence-taken"] - told.story["worker-hung"]


def test_the_successor_does_not_wait_for_evidence(cluster, hung):
    """Before it is there a slot has another process, at least one of those whose evidence takes long."""
    starts = [(event["slot"], event["mono"]) for event in cluster.events("worker-started")]
    stories = {told.slot: told.story for told in hung[1].values()}
    early = [slot for slot, at in starts if is_between(at, stories.get(slot, {}))]
    assert early


def is_between(moment, story):
    """Whether something happened after the verdict and before the evidence was there."""
    return "worker-hung" in story and story["worker-hung"] - LATER <= moment < story["evidence-taken"]


def test_the_events_tell_the_story(cluster, hung):
    """`bkd events --since 1h` has a line for each step, in order, and names the place."""
    told = hung[1]["read"]
    lines = [line for line in cluster.bkd("events", "--since", "1h").stdout.splitlines() if f" {told.slot}" in line]
    text = "\n".join(lines)
    steps = ("started", "ready", "no progress", "hung (", "see `bkd why", "ended after a hang")
    found = [text.find(step) for step in steps]
    assert -1 not in found, text
    assert found == sorted(found), text
    assert tells_place(text, "read", shown=False)


@pytest.mark.parametrize("name", DEATHS)
def test_a_death(dead, name):
    """Crashes with the line where they happened, exit codes, and signals with who sent them."""
    port, told = dead
    explained(DEATHS[name], told[name], port)
    one = told[name].report
    assert one["uptime"] > 0
    assert one.get("decision")
    if DEATHS[name].place:
        assert is_place(one["culprit"], DEATHS[name].place)


def test_how_the_deaths_are_classed(dead):
    """Code, signal and class as a program reads them."""
    ends = {name: (told.report.get("code"), told.report.get("signal")) for name, told in dead[1].items()}
    assert ends["leave"] == (3, None)
    assert [ends[name][1] for name in ("segv", "recurse", "kill", "operator")] == [11, 11, 9, 9]
    causes = {name: told.report["cause"] for name, told in dead[1].items()}
    assert causes["segv"] == causes["recurse"] == causes["leave"] == "crash"
    assert causes["kill"] == "killed from outside"
    assert causes["operator"] == "planned"


def test_a_request_in_a_thread(cluster, plain_port):
    """A WSGI request that waits for ever beside a healthy loop: the thread, the line, what it reads from."""
    pid = cluster.worker("plain.1")["pid"]
    with silent_server() as port:
        visitor = Visitor(plain_port)
        visitor.ask(f"/fetch?port={port}")
        one = report(cluster, "plain.1", pid)
        visitor.close()
    text = why(cluster, "plain.1")
    assert (one["cause"], one["verdict"]) == ("hung", "overdue")
    assert tells_place(text, "fetch"), text
    assert "GET /fetch" in text
    assert f"127.0.0.1:{port}" in text


def test_at_most_ten(cluster):
    """The last ten ends of a slot, the newest first."""
    cluster.bkd("reset", "web")
    until(cluster.is_ready)
    killed = []
    for _ in range(11):
        killed.append(cluster.worker("web.8")["pid"])
        kill(killed[-1])
        until(lambda: (row := cluster.worker("web.8"))["state"] == "ready" and row["pid"] not in killed)
    until(lambda: [one["pid"] for one in reports(cluster, "web.8")] == killed[:0:-1])
    assert len(why(cluster, "web.8", "--all").splitlines()) > 10


def test_a_master_that_does_not_answer(cluster, hung):
    """Who asks is told all the same, from the files."""
    told, master = hung[1]["deadlock"], cluster.status()["master_pid"]
    kill(master, signal.SIGSTOP)
    try:
        began = time.monotonic()
        text = why(cluster, told.slot)
        assert time.monotonic() - began < PATIENCE
        assert str(told.pid) in text
    finally:
        kill(master, signal.SIGCONT)


def test_a_master_that_is_gone(cluster, hung, busy, dead):
    """After `bkd stop` everything is told that was told before. Last of the tests with this cluster."""
    before = {one["pid"] for one in reports(cluster, "web") if one["slot"] != "web.8"}
    events = cluster.bkd("events", "--json").stdout + cluster.bkd("events").stdout
    assert cluster.stop().returncode in (0, 3)
    assert {told.pid for told in (hung[1] | busy[1]).values() if told.slot != "web.8"} <= before
    assert before <= {one["pid"] for one in reports(cluster, "web")}
    assert str(hung[1]["deadlock"].pid) in why(cluster, hung[1]["deadlock"].slot, "--all")
    everything = [events, *(told.text + json.dumps(told.report) for told in (hung[1] | busy[1] | dead[1]).values())]
    everything += [path.read_text(errors="replace") for path in cluster.run_dir.rglob("*") if path.is_file()]
    assert [text for text in everything if SECRET in text] == []


def test_a_master_that_dies_between_evidence_and_end(launch):
    """The next master completes the report that the first one has begun."""
    cluster = launch(web=WEB | {"count": 1, "term": "2s"}, ping=PING)
    pid = cluster.worker("web.1")["pid"]
    with cluster.send("/block?seconds=600"):
        master, noted = cluster.status()["master_pid"], cluster.run_dir / "why" / "web.1.jsonl"
        until(lambda: noted.exists() and all(word in noted.read_text() for word in ('"evidence"', "# block")))
        kill(master)
        assert ended(pid)
        one = report(cluster, "web.1", pid)
    assert (one["cause"], one["signal"]) == ("hung", 9)
    assert is_place(one["evidence"]["culprit"], "block")
    assert "GET /block" in why(cluster, "web.1")
    assert len([other for other in reports(cluster, "web.1") if other["pid"] == pid]) == 1


def test_without_log_files(launch):
    """With `[log] mode = "inherit"` nobody has the lines; the stacks are there."""
    cluster = launch(web=WEB | {"count": 1}, ping=PING, log={"mode": "inherit"})
    pid = cluster.worker("web.1")["pid"]
    with cluster.send("/block?seconds=600"):
        one = report(cluster, "web.1", pid)
    assert one.get("lines", []) == one["evidence"].get("lines", []) == []
    assert any(is_place(frame, "block") for frame in frames(one["evidence"]["stacks"]))
    assert tells_place(why(cluster, "web.1"), "block")
    assert Path(cluster.console).read_text().count("going to block") == 1
