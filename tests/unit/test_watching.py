"""Watch mode: which groups a change concerns, what the disk tells, and code that is not what it was a moment ago."""

import os
import time
from pathlib import Path

import pytest

from bkd.supervisor import launch
from bkd.supervisor.cluster import Group, Loader, Origin, Outcome, Release, Roll, Stage, Wanted
from bkd.supervisor.config.schema import GroupSection
from bkd.supervisor.watching import (
    Code,
    Imports,
    concerned,
    is_sick,
    is_younger,
    program_files,
    stamp,
    survey,
    why,
)
from bkd.workers.afresh import RACE, Afresh

SECOND = 1_700_000_000
SETTINGS = GroupSection("web", "web", app="shop:app", cwd="/srv/shop")
WEB = Code("web", "/srv/shop", {"/srv/shop/app.py", "/srv/lib/money.py"})
API = Code("api", "/srv/api", {"/srv/api/app.py", "/srv/lib/money.py"})


def group(**changes):
    release = Release(1, SETTINGS, loader=changes.pop("loader", Loader.READY))
    return Group("web", SETTINGS, 1, releases={1: release}, slots={}, **{"current": 1, "proven": True} | changes)


def roll(**changes):
    return Roll(2, 1, Wanted("an edit", 1, Origin(SETTINGS)), 0.0, **changes)


# -- which groups a change concerns


@pytest.mark.parametrize(
    ("changed", "names"),
    [
        ({"/srv/shop/app.py"}, ["web"]),
        ({"/srv/lib/money.py"}, ["web", "api"]),
        ({"/srv/shop/app.py", "/srv/api/app.py"}, ["web", "api"]),
        ({"/srv/shop/nobodys.py", "/srv/shop/app.html"}, []),
        (set(), []),
    ],
)
def test_a_change_concerns_those_who_are_made_of_it(changed, names):
    assert list(concerned(changed, [WEB, API])) == names


@pytest.mark.parametrize(
    ("changed", "names"),
    [
        ("/srv/shop/missing.py", ["web"]),
        ("/srv/shop/deep/missing.py", ["web"]),
        ("/srv/shop/page.html", []),
        ("/srv/shopping/missing.py", []),
        ("/srv/lib/money.py", ["web"]),
    ],
)
def test_any_source_may_heal_a_sick_group(changed, names):
    sick = Code(WEB.name, WEB.cwd, WEB.files, sick=True)
    assert list(concerned({changed}, [sick])) == names


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (["/srv/shop/pages/home.py"], "pages/home.py changed"),
        (["/srv/lib/money.py"], "/srv/lib/money.py changed"),
        (["/srv/shop/app.py", "/srv/shop/base.py", "/srv/shop/cart.py"], "app.py and 2 more changed"),
    ],
)
def test_the_reason_of_a_roll(files, said):
    assert why(files, "/srv/shop") == said


@pytest.mark.parametrize(
    ("state", "sick"),
    [
        ({}, False),
        ({"loader": Loader.FAILED}, True),
        ({"loader": Loader.LOADING, "proven": False}, False),
        ({"proven": False}, True),
        ({"outcome": Outcome(False, 1, 2, 1, Stage.LOADING, 1.0)}, True),
        ({"outcome": Outcome(True, 1, 2, 1, Stage.SETTLING, 1.0)}, False),
        ({"outcome": Outcome(False, 1, 2, 1, Stage.LOADING, 1.0), "roll": roll()}, False),
        ({"roll": roll(stage=Stage.ABORTING, fault="SyntaxError")}, True),
    ],
)
def test_which_group_is_sick(state, sick):
    assert is_sick(group(**state), {"app.py"}) == sick


def test_a_group_of_which_nothing_is_known_is_sick():
    assert is_sick(group(), set())
    assert not is_sick(group(loader=Loader.LOADING), set())
    assert not is_sick(group(roll=roll()), set())


# -- what groups are made of


def test_imports_are_new_once():
    imports = Imports()
    assert imports.add("web", 1, ["a", "b"]) == {"a", "b"}
    assert imports.add("web", 2, ["b", "c"]) == {"c"}
    assert imports.add("api", 1, ["a"]) == {"a"}
    assert imports.of("web") == {"a", "b", "c"}


def test_what_a_release_no_longer_imports_is_forgotten_with_the_roll():
    imports = Imports()
    imports.add("web", 1, ["a", "b"])
    imports.add("web", 2, ["a"])
    imports.forget({"web": group(current=2, roll=roll())})
    assert imports.of("web") == {"a", "b"}
    imports.forget({"web": group(current=2)})
    assert imports.of("web") == {"a"}


def test_what_a_failed_release_came_to_stays_known():
    imports = Imports()
    imports.add("web", 1, ["a"])
    imports.add("web", 2, ["a", "broken"])
    imports.forget({"web": group()})
    assert imports.of("web") == {"a", "broken"}


def test_a_release_that_has_told_nothing_leaves_the_last_that_did():
    imports = Imports()
    imports.add("web", 1, ["a"])
    imports.forget({"web": group(current=2)})
    assert imports.of("web") == {"a"}


def test_a_group_that_is_gone_is_forgotten():
    imports = Imports()
    imports.add("web", 1, ["a"])
    imports.forget({})
    assert imports.of("web") == set()


def test_the_files_of_a_program(tmp_path):
    for name in ("worker.py", "books.sqlite3"):
        (tmp_path / name).touch()
    command = ["python", "worker.py", "-x", "late/missing.py", "books.sqlite3", ".", "/dev/null", ""]
    expected = {str(tmp_path / name) for name in ("python", "worker.py", "-x")}
    assert program_files(command, str(tmp_path)) == expected


# -- what is on the disk


def test_a_survey_leaves_out_what_is_hidden_installed_or_ours(tmp_path):
    wanted = ["app.py", "pages/home.py"]
    others = [".git/hook.py", "env/x.py", "node_modules/x.py", "lib/site-packages/x.py", "run/x.py", "pages/a.html"]
    for name in (*wanted, *others, "env/pyvenv.cfg", "pages/__pycache__/home.pyc"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = survey(frozenset({str(tmp_path)}), str(tmp_path / "run"))
    assert found.folders == {str(tmp_path), str(tmp_path / "pages"), str(tmp_path / "lib")}
    assert found.sources == {str(tmp_path / name) for name in wanted}


def test_a_folder_that_is_not_there_is_not_watched(tmp_path):
    assert survey(frozenset({str(tmp_path / "gone")}), "").folders == set()


def test_a_stamp_tells_files_apart(tmp_path):
    file, draft = tmp_path / "app.py", tmp_path / "app.py.new"
    assert stamp(str(file)) is None
    file.write_text("a = 1\n")
    draft.write_text("a = 2\n")
    os.utime(draft, ns=(0, file.stat().st_mtime_ns))
    before = stamp(str(file))
    assert stamp(str(file)) == before
    draft.replace(file)
    assert stamp(str(file)) not in (before, None)


def test_a_time_that_was_set_makes_no_file_older(tmp_path):
    file, before = tmp_path / "app.py", time.monotonic()
    assert not is_younger(str(file), before)
    file.touch()
    os.utime(file, (0, 0))
    assert is_younger(str(file), before)
    assert not is_younger(str(file), before + 60.0)


# -- code of the same size and second


@pytest.fixture(autouse=True)
def _cached(monkeypatch):
    """Compiled code is kept, whatever these tests were started with."""
    monkeypatch.setattr("sys.dont_write_bytecode", False)


def edited(folder, value):
    """Where the value of the module stands now; every edit is of the same second."""
    file = folder / "version.py"
    file.write_text(f"VALUE = {value}\n")
    os.utime(file, (SECOND, SECOND))
    return str(file)


def value(loader):
    names = {}
    exec(loader.get_code("version"), names)
    return names["VALUE"]


def compiled(folder):
    return next(Path(folder, "__pycache__").glob("version.*.pyc"))


def test_two_edits_of_one_size_and_second_are_two(tmp_path):
    for number in range(5):
        assert value(Afresh("version", edited(tmp_path, number))) == number


def test_without_it_the_second_is_not_seen(tmp_path):
    loader = Afresh.__base__
    assert [value(loader("version", edited(tmp_path, number))) for number in range(2)] == [0, 0]


def test_what_is_left_alone_comes_out_of_the_cache(tmp_path):
    loader = Afresh("version", edited(tmp_path, 1))
    assert value(loader) == 1
    now = os.stat(loader.path).st_ctime
    os.utime(compiled(tmp_path), (now, now + 2 * RACE))
    assert loader.get_data(str(compiled(tmp_path))) == compiled(tmp_path).read_bytes()
    os.utime(compiled(tmp_path), (now, now + RACE / 2))
    with pytest.raises(OSError, match="may be older"):
        loader.get_data(str(compiled(tmp_path)))


# -- the command line


@pytest.mark.parametrize("arguments", [{"daemon": True}, {}])
def test_what_watch_mode_cannot_do_without(monkeypatch, capsys, arguments):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert launch.start_from_file({"watch": True, **arguments}) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert ("leave -d out" if arguments else "pip install 'bkd[watch]'") in said
