"""`bkd top` without a terminal: what keys mean, what is drawn, and that it fits."""

from dataclasses import replace

import pytest
from rich.cells import cell_len

from bkd.supervisor.top import figures, model
from bkd.supervisor.top.keyboard import HELP, Quit, Redraw, Tail, press
from bkd.supervisor.top.keys import Decoder
from bkd.supervisor.top.model import Order, State
from bkd.supervisor.top.screen import frame, picture

SIZES = [(60, 10), (80, 24), (200, 40)]
HISTORY = {"seconds": 2.0, "rss": [1 << 20, None, 9 << 20], "cpu": [0.1], "lag": [None, 0.0, 0.5], "in_flight": [0]}
CRASH = {"cause": "crash", "code": 3, "signal": None, "pid": 9, "release": 1, "uptime": 5.0, "age": 70.0}


def a_worker(name, **facts):
    worker = dict.fromkeys(("pid", "uptime", "ping_age", "verdict", "rss", "cpu", "in_flight", "lag", "next_try"))
    return worker | {"name": name, "state": "ready", "release": 1, "restarts": 0, "last_exit": None} | facts


def a_busy_worker(name, **facts):
    return a_worker(
        name,
        **{"pid": 4_194_303, "uptime": 98_765.4, "restarts": 123, "rss": 345 << 20, "cpu": 0.987, "in_flight": 999},
        **{"lag": 12.3, "verdict": "uninterruptible", "last_exit": CRASH | {"reason": "a\x1b[2Jb\nc"}},
        **({"pss": 1 << 30, "growth_per_request": 2048.5, "limit_in": 540.0, "late": 4, "history": HISTORY} | facts),
    )


def a_group(name="web", workers=(), **facts):
    group = {"name": name, "kind": "web", "count": len(workers), "ready": len(workers), "release": 1}
    rest = {"bind": [], "roll": None, "breaker": "closed", "helpers": [], "reason": None, "workers": list(workers)}
    return group | rest | facts


def a_document(*groups, **facts):
    known = {"app": "shop", "host": "h1", "state": "running", "uptime": 75.0, "keeper_pid": 11, "master_pid": 12}
    return known | {"bus": {"url": "local:", "connected": True}, "groups": list(groups)} | facts


def many(count, **facts):
    return [a_busy_worker(f"web.{number}", **facts) for number in range(1, count + 1)]


def shown(document, width=80, height=24, now=0.0):
    return model.resized(model.told(State(), document, now), width, height)


def drawn(state, now=0.0):
    return [line.plain for line in frame(state, now)]


def pressed(state, *keys):
    deed = None
    for key in keys:
        state, deed = press(state, key)
    return state, deed


def check_fits(state, now=0.0):
    lines = drawn(state, now)
    assert len(lines) <= state.height
    assert [line for line in lines if cell_len(line) > state.width] == []
    assert all(line.isprintable() for line in lines)
    return lines


ROLLING = {"release": 2, "from": 1, "stage": "rolling", "moved": 3, "count": 8, "age": 1.0, "reason": "x" * 300}
DOCUMENTS = {
    "nothing": a_document(),
    "no workers": a_document(a_group(), a_group("jobs")),
    "one": a_document(a_group(workers=[a_worker("web.1")])),
    "many": a_document(a_group(workers=many(200)), a_group("jobs", [a_worker("jobs.1", state="failed")])),
    "long names": a_document(
        a_group("x" * 90, [a_busy_worker(f"{'x' * 90}.12")], bind=["127.0.0.1:80"] * 9, reason="y\x1b[31m\n日本" * 90),
        app="a" * 99,
        host="\x07h\x9b",
    ),
    "rolling": a_document(a_group(workers=many(8), roll=ROLLING, breaker="open", reason="r" * 200)),
    "cut off": a_document(bus={"url": "redis://nowhere:6379", "connected": False}),
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("document", DOCUMENTS.values(), ids=DOCUMENTS)
def test_every_picture_fits(document, size):
    state = shown(document, *size)
    assert len(check_fits(state)) == state.height
    for keys in (["end"], ["end", "pgup"], ["R"], ["/", "w", "e"], ["?"], ["w"], ["l"], ["/", "z", "enter"]):
        check_fits(pressed(state, *keys)[0])


def test_the_picture_of_80_by_24():
    lines = check_fits(
        shown(a_document(a_group(workers=[a_worker("web.1", pid=77, history=HISTORY)], bind=["[::]:80"])))
    )
    assert lines[0] == "shop running for 1m15s on h1  keeper 11  master 12  bus local:"
    assert lines[1].split() == ["SLOT", "STATE", "PID", "REL", "UP", "RST", "MEM", "CPU", "FLY", "LAG", "LAST", "EXIT"]
    assert lines[2] == "web (web)  1/1 ready  release 1  [::]:80"
    assert lines[3].split()[:3] == [">web.1", "ready", "77"]
    assert "▁ █" in lines[3] and " ▁█" in lines[3]
    assert lines[-1].startswith("r/R restart d dump") and lines[-1].endswith("? help q quit")


def test_all_columns_and_both_lines_have_room_in_80():
    workers = [
        a_worker("ticker.1", pid=1_234_567, state="draining", rss=345 << 20, cpu=0.98, lag=0.012, history=HISTORY)
    ]
    titles, row = drawn(shown(a_document(a_group("ticker", workers))))[1:4:2]
    assert titles.split()[3:6] == ["REL", "UP", "RST"]
    assert [row.count(bar) for bar in "▁█"] == [2, 2]


def test_wide_terminals_have_longer_lines():
    document = a_document(a_group(workers=[a_worker("web.1", history=HISTORY | {"lag": [0.1] * 30, "rss": [1] * 30})]))
    lengths = [sum(map(drawn(shown(document, width, 24))[3].count, figures.BARS)) for width in (80, 100, 200)]
    assert lengths == sorted(set(lengths)) and lengths[-1] == 60


def test_no_line_without_a_history():
    row = drawn(shown(a_document(a_group(workers=[a_worker("web.1", rss=1 << 20)]))))[3]
    assert not set(row) & set(figures.BARS)


def test_what_has_no_column():
    state = shown(a_document(a_group(workers=[a_busy_worker("web.1", beside=[{"pid": 5, "state": "starting"}])])), 200)
    detail = drawn(state)[-3]
    assert detail == (
        "web.1: rss 345M, pss 1.0G, +2.0K a request, limit in 9m, 4 times late, beside it 5 starting, "
        r"last exit crash (exit 3) 1m ago: a\x1b[2Jb\nc"
    )


def test_late_once():
    assert "1 time late," in drawn(shown(a_document(a_group(workers=[a_busy_worker("web.1", late=1)])), 200))[-3]


def test_a_roll_and_its_reason():
    roll = ROLLING | {"reason": None}
    lines = drawn(
        shown(a_document(a_group(workers=many(8), ready=7, roll=roll, breaker="open", reason="it\tlooks bad")))
    )
    assert lines[2] == "web (web)  7/8 ready  release 1  -> 2 rolling ███░░░░░ 3/8  breaker open"
    assert lines[3].split() == ["!", "it", "looks", "bad"]


def test_a_terminal_that_is_too_small():
    for width, height in ((59, 24), (80, 9), (20, 1), (1, 1)):
        (line,) = check_fits(shown(DOCUMENTS["many"], width, height))
        assert line == figures.cut(f"bkd top needs 60x10, this is {width}x{height}", width)


@pytest.mark.parametrize("size", SIZES)
def test_the_selection_is_always_in_sight_below_its_group(size):
    slots = size[1] // 2 + 2
    groups = [a_group(f"g{n}", [a_worker(f"g{n}.{m}") for m in range(1, slots)], reason="why") for n in range(3)]
    state = shown(a_document(*groups), *size)
    for key in ["pgdn"] * 4 + ["pgup"] * 4 + ["down"] * 3 * slots + ["up"] * 2 * slots + ["end", "home"]:
        state, _ = press(state, key)
        lines = drawn(state)
        (row,) = (line for line in lines if line.startswith(">"))
        assert row.split()[0] == f">{state.selected}"
        above = [line for line in lines[: lines.index(row)] if " ready  release" in line]
        assert above[-1].startswith(state.selected.partition(".")[0])
    assert (state.selected, state.top) == ("g0.1", 0)


def test_the_selection_is_a_name():
    state = pressed(shown(a_document(a_group(workers=many(9)))), "j", "j")[0]
    assert state.selected == "web.3"
    more = model.told(state, a_document(a_group("a", [a_worker("a.1")]), a_group(workers=many(9))), 1.0)
    assert (more.selected, more.at) == ("web.3", 3)
    fewer = model.told(more, a_document(a_group(workers=many(2))), 2.0)
    assert fewer.selected == "web.2"
    assert model.told(fewer, a_document(), 3.0).selected == ""


def test_keys_without_slots_do_nothing():
    state = shown(a_document())
    for key in "rRhxdwl":
        assert pressed(state, key) == (state, None)
    assert "there are no slots" in "".join(drawn(state))


def test_restarts_are_asked_for_first():
    state = pressed(shown(a_document(a_group(workers=many(3)))), "j")[0]
    for key, name in (("r", "web.2"), ("R", "web")):
        asked, deed = pressed(state, key)
        assert deed is None and f"restart {name}? y/n" in drawn(asked)
        for no in ("n", "esc", "q"):
            assert pressed(asked, no)[0].question is None and pressed(asked, no)[1] is None
        assert pressed(asked, "j") == (asked, None)
        after, deed = pressed(asked, "y")
        assert isinstance(deed, Order) and (deed.verb, deed.arguments) == ("restart", {"names": [name]})
        assert after.question is None


def test_what_other_keys_order():
    held = shown(a_document(a_group(workers=[a_worker("web.1", state="held")])))
    state = shown(a_document(a_group(workers=[a_worker("web.1")])))
    for begin, key, verb in ((state, "h", "hold"), (held, "h", "unhold"), (state, "x", "reset")):
        after, deed = pressed(begin, key)
        assert (deed.verb, deed.arguments, after.pane) == (verb, {"name": "web.1"}, None)
    for key, verb in (("d", "dump"), ("w", "why")):
        after, deed = pressed(state, key)
        assert (deed.verb, deed.arguments, deed.source) == (verb, {"name": "web.1"}, after.pane.source)
    after, deed = pressed(state, "l")
    assert deed == Tail(after.pane.source, "web.1") and after.pane.follows
    after, deed = pressed(state, "e")
    assert deed == Tail(after.pane.source)
    assert pressed(state, "^L")[1] == Redraw()
    assert pressed(state, "z") == (state, None)


def test_back_and_out():
    state = shown(a_document(a_group(workers=many(3))))
    filtered, _ = pressed(state, "/", "3", "enter")
    for key in ("q", "esc"):
        pane, deed = pressed(filtered, "?", key)
        assert (pane.pane, pane.sought, deed) == (None, "3", None)
        all_again, deed = pressed(pane, key)
        assert (all_again.sought, deed) == ("", None)
        assert pressed(all_again, key)[1] == Quit()


def test_filter():
    state = shown(a_document(a_group(workers=many(12)), a_group("jobs", [a_worker("jobs.1")])))
    seeking, _ = pressed(state, "/", "j", "q", "backspace")
    assert seeking.sought == "j" and seeking.selected == "jobs.1"
    assert not any("web." in line for line in drawn(seeking))
    assert model.names(pressed(seeking, "backspace", *"b.1")[0]) == ["web.1", "web.10", "web.11", "web.12"]
    assert "no slot of that name" in "".join(drawn(pressed(seeking, "z")[0]))
    assert pressed(seeking, "esc")[0].sought == ""


def test_a_pane_scrolls():
    state = shown(a_document(a_group(workers=many(1))))
    state, order = pressed(state, "w")
    state = model.answered(state, order, 0, [f"line {number}" for number in range(100)])
    assert "line 0" in drawn(state) and state.pane.title == "why web.1"
    assert drawn(pressed(state, "down")[0])[2] == "line 1"
    assert "line 99" in drawn(pressed(state, "end")[0])
    assert drawn(pressed(state, "end", "pgup", "home")[0])[2] == "line 0"
    state, order = pressed(state, "q", "w")
    wide = model.answered(state, order, 0, ["日本" * 100, "x" * 200, ""])
    assert sum(line.count("日") for line in check_fits(wide)) == 100


def test_a_pane_that_grows_follows_until_one_scrolls_up():
    state, tail = pressed(shown(a_document(a_group(workers=many(1)))), "l")
    for number in range(0, 5000, 50):
        state = model.added(state, tail.source, [f"line {n}" for n in range(number, number + 50)])
    assert "line 4999" in check_fits(state) and len(state.pane.lines) == model.MOST_LINES
    stays = model.added(pressed(state, "up")[0], tail.source, [])
    before = drawn(stays)
    assert "line 4999" not in before
    assert "line 4999" in drawn(pressed(stays, "down")[0])
    more = model.added(pressed(stays, "end")[0], tail.source, ["news"])
    assert "news" in drawn(more)
    assert model.added(more, tail.source + 1, ["of another source"]) == more


def test_answers_without_a_pane():
    state, order = pressed(shown(a_document(a_group(workers=many(1)))), "R", "y")
    going = model.progressed(state, "web: loading release 2")
    assert "web: loading release 2" in drawn(going)
    done = model.answered(going, order, 0, ["…", "web: release 2 is live"])
    assert "web: release 2 is live" in drawn(done) and done.pane is None
    failed = model.answered(going, order, 1, ["Traceback", "ImportError", "bkd: web: taken back"])
    assert drawn(failed)[1:5] == ["restart web: exit code 1", "Traceback", "ImportError", "bkd: web: taken back"]
    elsewhere = model.answered(pressed(going, "?")[0], order, 1, ["Traceback", "bkd: web: taken back"])
    assert elsewhere.pane.title == "keys"
    assert "restart web: exit code 1; a shows the answer" in drawn(elsewhere)
    assert "Traceback" in drawn(pressed(elsewhere, "q", "a")[0])
    assert pressed(state, "a")[0].news == "there is no answer yet"


def test_a_refused_command_says_why():
    state, order = pressed(shown(a_document(a_group(workers=many(1)))), "h")
    refused = model.answered(state, order, 1, ["bkd: hold is for the role operator, yours is viewer"])
    assert drawn(refused)[1:3] == ["hold web.1: exit code 1", "bkd: hold is for the role operator, yours is viewer"]


def test_the_master_is_silent():
    state = shown(a_document(a_group(workers=many(1))), now=100.0)
    assert model.silence(state, 102.9) == ""
    assert model.silence(state, 104.5) == "the master does not answer for 4 s; it is stopped, or very busy"
    broken = replace(state, broken=True)
    assert "the master does not answer for 3 s; it is being restarted" in check_fits(broken, 103.5)
    assert model.silence(model.told(broken, state.document, 104.0), 104.1) == ""


def test_the_picture_at_once():
    lines = picture(DOCUMENTS["many"], 80)
    assert len(lines) == 205
    assert all(line.cell_len <= 80 and not line.plain.startswith(">") for line in lines)


def test_help_names_every_key_and_fits():
    assert all(cell_len(line) <= 80 for line in HELP)
    assert len(HELP) <= 24


# -- figures


def test_sparklines():
    assert figures.sparkline([0, 1, 2, 3, 4, 5, 6, 7, 8], 9) == "▁▂▃▄▅▆▇██"
    assert figures.sparkline([1, None, 2], 5) == "  ▅ █"
    assert figures.sparkline([5.0, 5.0], 2, from_zero=False) == "▁▁"
    assert figures.sparkline([], 3) == "   "
    assert figures.sparkline([1, 2], 0) == ""
    assert figures.lag_line({"lag": [0.001, 0.002]}, 2) == "▁▁"
    assert figures.memory_line({"rss": [100 << 20, 101 << 20, 120 << 20]}, 3) == "▁▁█"


@pytest.mark.parametrize(
    ("number", "size", "age", "lag", "percent"),
    [
        (None, "-", "-", "-", "-"),
        (0, "0B", "0s", "0ms", "0.0%"),
        (0.0121, "0B", "0s", "12ms", "1.2%"),
        (1.5, "2B", "1s", "1.5s", "150%"),
        (31.4 * (1 << 20), "31.4M", "381d", "32925286s", "3292528640%"),
        (7200, "7.0K", "2h", "7200s", "720000%"),
    ],
)
def test_figures_are_short(number, size, age, lag, percent):
    assert (figures.size(number), figures.age(number), figures.lag(number)) == (size, age, lag)
    assert figures.percent(number) == percent


def test_names_that_are_cut_keep_their_numbers():
    assert figures.cut_name("very-long-name.12", 10) == "very-l….12"
    assert figures.cut_name("very-long-name", 10) == "very-long…"
    assert figures.cut_name("web.1", 5) == "web.1"
    assert figures.cut("日本日本", 5) == "日本…"


def test_texts_have_no_power_over_the_terminal():
    assert figures.plain("a\x1b[31mred\x1b[0m\x1b]0;t\x07\r\n\tb") == r"ared\x1b]0;t\x07\r\n    b"
    assert figures.plain("ok") == "ok"


# -- keys


def test_keys_are_decoded():
    decoder = Decoder()
    assert decoder.feed(b"jR\x1b[A\x1bOB\x1b[5~\x1b[6~\x1b[H\x1b[4~\r\x7f\x0c") == [
        *("j", "R", "up", "down", "pgup", "pgdn", "home", "end", "enter", "backspace", "^L")
    ]
    assert decoder.feed("é".encode()[:1]) == [] and decoder.feed("é".encode()[1:]) == ["é"]
    assert decoder.feed(b"\x1b[1;5A\x1b[200~\x01\x00") == ["up"]
    assert not decoder.is_waiting


def test_an_escape_alone_and_one_in_pieces():
    decoder = Decoder()
    assert decoder.feed(b"\x1b") == [] and decoder.is_waiting
    assert decoder.nothing_came() == ["esc"] and not decoder.is_waiting
    assert decoder.feed(b"\x1b") + decoder.feed(b"[") + decoder.feed(b"B") == ["down"]
    assert decoder.feed(b"\x1bq") == ["esc", "q"]
    assert decoder.feed(b"\x1b[5") == [] and decoder.nothing_came() == []
    assert decoder.feed(b"\x1b\x1b[A") == ["esc", "up"]
