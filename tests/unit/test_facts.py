"""What is said of facts, what of them goes to disk, and that no text has power over a terminal."""

import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bkd.supervisor import facts
from bkd.supervisor.fact import Fact, signal_name, span
from bkd.supervisor.facts import FACTS, WorkerExited, decode
from bkd.supervisor.fleet.facts import BusRefused
from bkd.supervisor.leftoverfacts import WorkersForgotten
from bkd.supervisor.logfiles import clean, show

EXIT = {"slot": "web.2", "pid": 7, "release": 3}


def exited(cause, *, code=None, signal=None, delay=None, reason="", uptime=3.2):
    return WorkerExited(**EXIT, cause=cause, code=code, signal=signal, uptime=uptime, delay=delay, reason=reason)


def sample(kind: type[Fact]) -> Fact:
    values = {int: 3, bool: True, float: 4.0, str: "x", list[str]: ["x"]}
    fields = msgspec.structs.fields(kind)
    return kind(**{field.name: values.get(field.type, {} if "dict" in str(field.type) else None) for field in fields})


@pytest.mark.parametrize("kind", FACTS, ids=lambda kind: kind.__name__)
def test_every_fact_is_one_line_and_survives_the_disk(kind):
    fact = sample(kind)
    assert decode(msgspec.json.encode(fact)) == fact
    text = fact.describe()
    assert text
    assert "\n" not in text
    assert "{" not in text
    assert fact.level() in ("info", "warning", "error")


def test_tags_are_kebab_case_and_differ():
    tags = [kind.__struct_config__.tag for kind in FACTS]
    assert len(set(tags)) == len(tags)
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", tag) for tag in tags)
    assert {"worker-exited", "command", "peer-refused", "slot-done"} <= set(tags)


@pytest.mark.parametrize(
    ("fact", "text", "level"),
    [
        (
            exited("killed from outside", signal=9, delay=0.0),
            "web.2 killed from outside (SIGKILL) after 3.2 s; started again at once",
            "warning",
        ),
        (exited("planned", code=0, delay=0.0), "web.2 ended as planned (exit code 0) after 3.2 s", "info"),
        (exited("crash", code=3, delay=4.5), "web.2 crashed (exit code 3) after 3.2 s; next try in 4.5 s", "error"),
        (exited("boot failure", reason="no app"), "web.2 failed to start after 3.2 s: no app", "error"),
        (exited("hung", signal=15, uptime=300), "web.2 ended after a hang (SIGTERM) after 5 min", "error"),
        (exited("finished", code=0), "web.2 finished (exit code 0) after 3.2 s", "info"),
        (facts.WorkerReady(slot="web.1", pid=5, seconds=0.25), "web.1 ready after 250 ms (pid 5)", "info"),
        (
            facts.RollStarted(group="web", release=2, old=1, why="bkd restart"),
            "web: rolling from release 1 to 2: bkd restart",
            "info",
        ),
        (
            facts.RollDone(group="web", release=2, old=1, workers=4, seconds=6.72, left=[]),
            "web: release 2 is live, 4 workers, took 6.7 s",
            "info",
        ),
        (
            facts.RollDone(group="web", release=2, old=1, workers=1, seconds=0.5, left=["web.2", "web.3"]),
            "web: release 2 is live, 1 worker, took 500 ms; held and not moved: web.2, web.3",
            "info",
        ),
        (
            facts.RollAborted(group="web", release=2, old=1, stage="loading", reason="SyntaxError: line 3", serving=2),
            "web: release 2 was aborted while loading: SyntaxError: line 3; release 1 goes on serving",
            "error",
        ),
        (facts.RolledBack(group="web", release=1), "web: release 1 serves alone again", "info"),
        (facts.ClusterStopped(code=3), "stopped with exit code 3", "error"),
        (facts.ClusterStopped(code=0), "stopped with exit code 0", "info"),
        (
            facts.ClusterStopped(code=3, why="had to be killed: web.1"),
            "stopped with exit code 3: had to be killed: web.1",
            "error",
        ),
    ],
)
def test_describe(fact, text, level):
    assert fact.describe() == text
    assert fact.level() == level


@pytest.mark.parametrize(
    ("of", "one", "two"),
    [
        (
            lambda count: facts.MasterStarted(epoch=2, pid=9, adopted=count),
            "master 2 (pid 9) took over 1 worker",
            "master 2 (pid 9) took over 2 workers",
        ),
        (lambda count: facts.GroupAdded(group="web", count=count), "web is new: 1 worker", "web is new: 2 workers"),
        (
            lambda count: facts.ConfigReloaded(changes=count),
            "configuration reloaded: 1 change",
            "configuration reloaded: 2 changes",
        ),
        (
            lambda count: facts.PeerRefused(uid=7, pid=9, why="no role", count=count),
            "connection of uid 7 (pid 9) refused: no role (1 time)",
            "connection of uid 7 (pid 9) refused: no role (2 times)",
        ),
        (
            lambda count: facts.FrameRejected(uid=7, pid=9, why="no frame", count=count),
            "connection of uid 7 (pid 9) closed: no frame (1 time)",
            "connection of uid 7 (pid 9) closed: no frame (2 times)",
        ),
        (
            lambda count: facts.Dropped(count=count),
            "1 event is missing here: it could not be written",
            "2 events are missing here: they could not be written",
        ),
        (
            lambda count: facts.MasterUpgraded(old="1", new="2", epoch=3, pid=9, adopted=count, seconds=0.25),
            "bkd 1 -> 2 (master 3, pid 9), 1 worker adopted, took 250 ms",
            "bkd 1 -> 2 (master 3, pid 9), 2 workers adopted, took 250 ms",
        ),
        (
            lambda count: WorkersForgotten(processes=count),
            "what the last master knew is lost: 1 serves until it is replaced, everything is begun anew",
            "what the last master knew is lost: 2 serve until they are replaced, everything is begun anew",
        ),
        (
            lambda count: facts.RollMoved(
                group="web", release=2, stage="settling", moved=count, count=count, watched=3.0
            ),
            "web: release 2 settling: its one worker has moved and is watched for 3.0 s",
            "web: release 2 settling: all 2 have moved and are watched for 3.0 s",
        ),
        (
            lambda count: BusRefused(reason="forged", channel="shop:hosts", count=count),
            "bus: 1 message refused as forged, the last on shop:hosts",
            "bus: 2 messages refused as forged, the last on shop:hosts",
        ),
    ],
)
def test_one_is_not_several(of, one, two):
    assert (of(1).describe(), of(2).describe()) == (one, two)


def test_describe_gives_a_stranger_no_power_over_the_terminal():
    fact = facts.CommandGiven("hold", {"name": "a\x1b]0;x\x07\nb"}, 1, 2, "eve", "refused")
    assert fact.describe() == r"eve (pid 2): hold name=a\x1b]0;x\x07\nb: refused"


def test_a_field_with_braces_is_shown_as_it_is():
    assert (
        facts.SlotFailed(slot="web.1", why="{slot!r} {0}")
        .describe()
        .startswith("web.1 failed and stays down: {slot!r}")
    )


def test_about():
    assert facts.SlotDone(slot="web.2").about("web")
    assert facts.SlotDone(slot="web.2").about("web.2")
    assert not facts.SlotDone(slot="web.22").about("web.2")
    assert not facts.SlotDone(slot="website.1").about("web")
    assert facts.Scaled(group="web", old=1, new=2).about("web")
    assert facts.SlotReset(name="web").about("web")
    canary = facts.RollMoved(group="web", release=2, stage="canary", moved=0, count=4, slot="web.1")
    assert canary.about("web")
    assert not canary.about("web.1")
    aborted = facts.RollAborted(group="web", release=2, old=1, stage="canary", reason="x", slot="web.1")
    assert aborted.about("web")
    assert aborted.about("web.1")
    assert not aborted.about("web.2")
    assert not facts.ClusterStopped(code=0).about("web")


def test_span_and_signals():
    assert [span(seconds) for seconds in (0, 0.014, 9.94, 45, 600, 20_000)] == [
        "0 ms",
        "14 ms",
        "9.9 s",
        "45 s",
        "10 min",
        "5.6 h",
    ]
    assert signal_name(9) == "SIGKILL"
    assert signal_name(42) == "signal 42"


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (b"tab\tstays\r", "tab\tstays"),
        ("grüße 日本 🎉".encode(), "grüße 日本 🎉"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"\x1b[31mred\x1b[0m", "\x1b[31mred\x1b[0m\x1b[0m"),
        (b"\x1b[1;38:5:9mbold", "\x1b[1;38:5:9mbold\x1b[0m"),
        (b"\x1b[2Jgone", r"\x1b[2Jgone"),
        (b"\x1b]0;title\x07", r"\x1b]0;title\x07"),
        (b"\x1b[31", r"\x1b[31"),
        (b"over\rwrite\x08\x00\x7f", r"over\rwrite\x08\x00\x7f"),
        ("\x9b31m\u202ebidi".encode(), r"\x9b31m\u202ebidi"),
    ],
)
def test_show(line, shown):
    assert show(line) == shown


@given(st.text())
def test_clean_text_has_no_power(text):
    rest = clean(text).replace("\x1b[", "")
    assert not any((ord(letter) < 32 and letter != "\t") or 127 <= ord(letter) < 160 for letter in rest)
    clean(text).encode()
