"""What another bkd makes of the live state before it takes over, and what the running one makes of that."""

import json

import msgspec
import pytest

from bkd.supervisor import memory, rehearsal, upgrade
from bkd.supervisor.config.load import for_run
from bkd.supervisor.config.schema import GroupSection
from bkd.supervisor.founding import founded
from bkd.supervisor.keepsake import Keepsake, fingerprint
from bkd.supervisor.rehearsal import Misfit


@pytest.fixture
def state():
    """Of a cluster in which nothing has been started yet."""
    config = for_run("shop:app", 2, ["127.0.0.1:8000"], {}, hostname="h1")
    nap = {"nap": GroupSection("nap", "command", command=["sleep", "600"])}
    cluster = founded(config.workers | nap, config.ping)
    return memory.State(memory.SCHEMA, "boot", 1, 2, 1, 0.0, 0.0, True, config, cluster, [], [])


def test_the_first_turn_is_counted(state):
    """The policy gives what a new master would do at once, and nobody does it."""
    cluster = rehearsal.read(msgspec.msgpack.encode(state))
    assert cluster == state.cluster
    assert rehearsal.planned(cluster, 100.0) == {"LoadRelease": 1, "Spawn": 1}
    assert cluster == state.cluster


@pytest.mark.parametrize(
    ("change", "why"), [({"schema": 99}, "the state has schema 99"), ({"cluster": 3}, "cannot read the state")]
)
def test_a_state_that_cannot_be_read_needs_a_restart(state, change, why):
    """Whatever is wrong with it is one line that says what to do."""
    data = msgspec.msgpack.encode(msgspec.to_builtins(state, builtin_types=(bytes,)) | change)
    with pytest.raises(Misfit, match=f"{why}.*needs a restart"):
        rehearsal.read(data)


@pytest.mark.parametrize(("protocol", "link"), [(99, 1), (1, 99)])
def test_another_protocol_needs_a_restart(protocol, link):
    """Workers and the keeper stay, so both must be understood."""
    rehearsal.check_versions({"protocol": 1, "link": 1})
    with pytest.raises(Misfit, match=r"speak version 99 of the protocol.*needs a restart"):
        rehearsal.check_versions({"protocol": protocol, "link": link})


@pytest.mark.parametrize(
    ("said", "killed", "expected"),
    [
        ('{"version": "1.1", "ok": true}', None, ("1.1", "", "")),
        ('a\nb\n{"version": "1.1", "ok": false, "reason": "no"}', None, ("1.1", "no", "a\nb\n")),
        ("No module named 'bkd'", None, ("?", "/p has no bkd that can take over", "No module named 'bkd'\n")),
        ("", None, ("?", "/p has no bkd that can take over", "")),
        ("[1]", None, ("?", "/p has no bkd that can take over", "[1]\n")),
        ("hm", 10.0, ("?", "/p did not say within 10 s whether it can take over", "hm\n")),
    ],
)
def test_the_report_is_the_last_line(tmp_path, said, killed, expected):
    """What is printed before it is shown below the reason; what is no report is no way to go on."""
    (tmp_path / "said").write_text(said)
    assert upgrade.report(tmp_path / "said", "/p", killed) == expected


def test_the_report_as_a_process_gives_it(state, tmp_path, capsys, monkeypatch):
    """Version, interpreter, and what would be done; anything else is exit code 1 and a reason."""
    codes = []
    monkeypatch.setattr(rehearsal.os, "_exit", codes.append)
    (tmp_path / "state").write_bytes(msgspec.msgpack.encode(state))
    for asked in ({"state": str(tmp_path / "state"), "protocol": 1, "link": 1}, {"state": "/none"}):
        monkeypatch.setattr(rehearsal.sys, "argv", ["-c", json.dumps(asked)])
        rehearsal.main()
    good, bad = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert good["ok"], good
    assert (good["actions"], codes) == ({"LoadRelease": 1, "Spawn": 1}, [0, 1])
    assert (bad["ok"], bad["reason"]) == (False, "KeyError: 'protocol'")


# -- the copy of what runs


@pytest.fixture
def package(tmp_path):
    """Something that could be installed."""
    folder = tmp_path / "lib" / "bkd"
    (folder / "__pycache__").mkdir(parents=True)
    (folder / "one.py").write_text("1")
    (folder / "__pycache__" / "one.pyc").write_text("compiled")
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "two.py").write_text("2")
    (folder / "linked").symlink_to(tmp_path / "real")
    return folder


def test_there_is_a_way_back_from_other_files(package, tmp_path):
    """None is needed as long as the files are those that run; then it is the copy, with what links led to."""
    kept = Keepsake(str(tmp_path), package)
    assert kept.way_back() == ""
    (tmp_path / "real" / "two.py").write_text("3")
    copy = tmp_path / "code" / kept.way_back().rpartition("/")[2]
    assert sorted(str(path.relative_to(copy)) for path in copy.rglob("*.py")) == ["bkd/linked/two.py", "bkd/one.py"]
    assert (copy / "bkd" / "linked" / "two.py").read_text() == "2"
    assert not list(copy.rglob("__pycache__"))


def test_copies_of_other_versions_go(package, tmp_path):
    """One is enough, and what an earlier attempt has left is none."""
    for name in ("0.0.1-abc", "0.0.2-def.new"):
        (tmp_path / "code" / name).mkdir(parents=True)
    Keepsake(str(tmp_path), package).keep()
    (copy,) = (tmp_path / "code").iterdir()
    assert copy.name.endswith(fingerprint(package))


def test_no_room_is_no_way_back(package, tmp_path):
    """It is said, and nothing else comes of it."""
    (tmp_path / "code").write_text("in the way")
    kept = Keepsake(str(tmp_path), package)
    assert (kept.way_back(), bool(kept.fault)) == ("", True)
