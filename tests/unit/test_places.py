import os
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bkd.supervisor import places
from bkd.supervisor.config.faults import ConfigError
from bkd.supervisor.config.load import load
from bkd.supervisor.places import (
    NoConfig,
    NoRunDir,
    absolute,
    choose_run_dir,
    choose_run_dir_for_run,
    clean_name,
    find_config,
    run_dir_candidates,
    socket_candidates,
)

WEB = '[workers.web]\nkind = "web"\napp = "shop.web:app"\n'


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder to work in, with the places of the system moved below it."""
    monkeypatch.setattr(places, "SYSTEM_FILE", str(tmp_path / "etc" / "bkd.toml"))
    monkeypatch.setattr(places, "SYSTEM_RUN_DIR", str(tmp_path / "run"))
    monkeypatch.setattr(places, "TEMPORARY", str(tmp_path / "tmp"))
    home = tmp_path / "my shop"
    home.mkdir()
    monkeypatch.chdir(home)
    return home


def names(path, environ=None):
    """The name of the application that the candidates are made of, and whether there are several of them."""
    first, *others = run_dir_candidates(str(path), environ or {})
    return os.path.basename(first), bool(others)


def test_a_configuration_is_found_in_order(folder, tmp_path):
    with pytest.raises(NoConfig, match=r'no bkd.toml here and no .*/etc/bkd.toml: write one with "bkd init"'):
        find_config(None, {})
    system, local, named, given = (
        tmp_path / "etc/bkd.toml",
        folder / "bkd.toml",
        folder / "env.toml",
        folder / "a.toml",
    )
    system.parent.mkdir()
    system.touch()
    assert find_config(None, {}) == str(system)
    local.touch()
    assert find_config(None, {}) == str(local)
    named.touch()
    given.touch()
    environ = {"BKD_CONFIG": "env.toml"}
    assert find_config(None, environ) == str(named)
    assert find_config("a.toml", environ) == str(given)
    assert find_config(str(given), environ) == str(given)


def test_a_configuration_that_was_named_must_be_there(folder):
    with pytest.raises(NoConfig, match=r"^/.*/my shop/x.toml: no such file$"):
        find_config("x.toml", {})
    with pytest.raises(NoConfig, match=r"y.toml: no such file \(it is named by \$BKD_CONFIG\)"):
        find_config(None, {"BKD_CONFIG": "y.toml"})


def test_paths_keep_links_unless_they_go_up(tmp_path, monkeypatch):
    (tmp_path / "releases" / "1").mkdir(parents=True)
    (tmp_path / "current").symlink_to("releases/1")
    monkeypatch.chdir(tmp_path / "current")
    environ = {"PWD": f"{tmp_path}/current"}
    assert absolute("bkd.toml", environ) == f"{tmp_path}/current/bkd.toml"
    assert absolute("./a/bkd.toml", {"PWD": "/somewhere/else"}) == f"{tmp_path}/releases/1/a/bkd.toml"
    assert absolute("../bkd.toml", environ) == f"{tmp_path}/releases/bkd.toml"
    assert absolute("/a/./b", {}) == "/a/b"


def test_a_working_directory_that_is_gone_is_said(tmp_path):
    (tmp_path / "gone").mkdir()
    program = (
        "import os; from bkd.supervisor.places import find_config, NoConfig\n"
        "os.rmdir(os.getcwd())\n"
        "try: find_config(None, {})\n"
        "except NoConfig as error: print(error)"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path / "gone", capture_output=True, text=True, timeout=60
    )
    assert run.stdout == "the working directory is gone: cd to one that exists\n", run.stderr


def test_candidates_come_in_order(folder, tmp_path):
    config = folder / "bkd.toml"
    config.write_text(f'[app]\nname = "shop"\n{WEB}')
    run, beside = str(tmp_path / "run/shop"), str(folder / ".bkd")
    assert run_dir_candidates(str(config), {}) == [run, beside]
    assert run_dir_candidates("bkd.toml", {"XDG_RUNTIME_DIR": "/run/user/7"}) == [run, "/run/user/7/bkd/shop", beside]
    assert run_dir_candidates(str(config), {"XDG_RUNTIME_DIR": "relative"}) == [run, beside]
    assert socket_candidates(str(config), {}) == [f"{run}/control.sock", f"{beside}/control.sock"]


def test_a_given_run_dir_is_the_only_candidate(folder):
    config = folder / "bkd.toml"
    config.write_text(f'[app]\nrun_dir = "run"\n{WEB}')
    assert run_dir_candidates(str(config), {}) == [str(folder / "run")]
    config.write_text(f'[app]\nrun_dir = "/srv/run" # there\n{WEB}')
    assert socket_candidates(str(config), {}) == ["/srv/run/control.sock"]


@pytest.mark.parametrize(
    "text",
    [
        '[app]\nname = "a"',
        "[app] # it\n  name='a'# x\n\ntag = 1",
        'other = 1\n[ping]\nname = "x"\n[app]\nhost = "x"\nname = "a"\n[log]\nname = "y"',
    ],
)
def test_a_plain_file_needs_no_parser(folder, text):
    """These files are no valid configurations: only the scan can have read them."""
    (folder / "bkd.toml").write_text(text)
    assert names("bkd.toml") == ("a", True)


@pytest.mark.parametrize(
    "text",
    [
        f'app = {{ name = "a" }}\n{WEB}',
        f'app.name = "a"\n{WEB}',
        f'"app".name = "a"\n{WEB}',
        f'[ app ]\nname = "a"\n{WEB}',
        f'["app"]\nname = "a"\n{WEB}',
        f'[app]\n"name" = "a"\n{WEB}',
        f'[app]\nname = "\\u0061"\n{WEB}',
        f'[app]\nname = """a"""\n{WEB}',
        f'[app]\nname = "${{NAME}}"\n{WEB}',
        f'[app]\nname = "x"\n{WEB}[when.tag.t.app]\nname = "b"\n[when.host."{os.uname().nodename}".app]\nname = "a"',
        f'[app]\nname = "x"\nhost = "h1"\n{WEB}[when.host.h1.app]\nname = "a"',
        f'[app]\nname = "x"\nhost = "h1"\n{WEB}[when.host.h1]\napp.name = "a"',
        f'[app]\nname = "x"\nhost = "h1"\n{WEB}[when.host]\nh1.app.name = "a"',
        f'[app]\nname = "x"\nhost = "h1"\n{WEB}[when]\nhost.h1.app.name = "a"',
        f'when.host.h1.app.name = "a"\n[app]\nname = "x"\nhost = "h1"\n{WEB}',
        f'\ufeff[app]\nname = "a"\n{WEB}',
    ],
)
def test_anything_unusual_is_loaded(folder, text):
    (folder / "bkd.toml").write_text(text)
    assert names("bkd.toml", {"NAME": "a"}) == ("a", True)


def test_a_file_without_a_name_is_called_like_its_folder(folder):
    (folder / "bkd.toml").write_text(WEB)
    assert names("bkd.toml") == ("my-shop", True)
    (folder / "bkd.toml").write_text(f'[app]\nname = ""\n{WEB}')
    assert names("bkd.toml") == ("my-shop", True)


def test_a_name_that_is_none_is_a_fault(folder):
    (folder / "bkd.toml").write_text(f'[app]\nname = "../../etc"\n{WEB}')
    with pytest.raises(ConfigError, match=r"app\.name: expected a name"):
        run_dir_candidates("bkd.toml", {})
    with pytest.raises(ConfigError, match="expected a file that can be read"):
        run_dir_candidates("none.toml", {})


LINES = st.sampled_from(
    [
        "[app]",
        "[ app ]",
        "[ping]",
        "[when.host.h1]",
        "[when.host.h1.app]",
        "[when.tag.blue.app]",
        "[when.host.other.app]",
        'name = "a"',
        "name = 'b' # c",
        'run_dir = "r"',
        'run_dir = "${R:-s}"',
        'host = "h1"',
        'tag = "blue"',
        'app.name = "c"',
        'app = { name = "d" }',
        "# name = 'e'",
        'when.host.h1.app.run_dir = "f"',
        'name = """',
        '"""',
        "",
    ]
)


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(LINES, max_size=8))
def test_the_scan_agrees_with_the_parser(tmp_path, lines):
    path = tmp_path / "bkd.toml"
    path.write_text("\n".join([*lines, WEB]))
    try:
        app = load(str(path), {}, hostname=os.uname().nodename).app
    except ConfigError:
        return
    candidates = run_dir_candidates(str(path), {})
    assert candidates[0] == (str(tmp_path / app.run_dir) if app.run_dir else f"/run/bkd/{app.name}")


@given(st.text())
def test_any_text_cleans_to_a_name(text):
    name = clean_name(text)
    assert clean_name(name) == name
    assert 0 < len(name.encode()) <= 64
    assert not set(name) & set("/: \n\0")


def test_the_server_takes_the_first_place_it_can_have(folder, tmp_path):
    (folder / "bkd.toml").write_text(f'[app]\nname = "shop"\n{WEB}')
    chosen = choose_run_dir("bkd.toml", {})
    assert chosen == str(tmp_path / "run" / "shop")
    assert os.stat(chosen).st_mode & 0o777 == 0o700
    assert choose_run_dir("bkd.toml", {}) == chosen
    (tmp_path / "run" / "shop").chmod(0o750)
    assert choose_run_dir("bkd.toml", {}) == chosen


def test_a_place_that_is_open_to_others_is_passed_over(folder, tmp_path):
    (folder / "bkd.toml").write_text(f'[app]\nname = "shop"\n{WEB}')
    (tmp_path / "run" / "shop").mkdir(parents=True)
    (tmp_path / "run" / "shop").chmod(0o777)
    assert choose_run_dir("bkd.toml", {}) == str(folder / ".bkd")


def test_a_place_that_cannot_be_made_is_passed_over(folder, tmp_path):
    (folder / "bkd.toml").write_text(f'[app]\nname = "shop"\n{WEB}')
    (tmp_path / "run").touch()
    (tmp_path / "xdg" / "bkd").mkdir(parents=True)
    (tmp_path / "xdg" / "bkd" / "shop").symlink_to("nowhere")
    assert choose_run_dir("bkd.toml", {"XDG_RUNTIME_DIR": str(tmp_path / "xdg")}) == str(folder / ".bkd")


def test_no_place_at_all_says_why_for_each(folder):
    (folder / "bkd.toml").write_text(f'[app]\nrun_dir = "run"\n{WEB}')
    (folder / "run").mkdir()
    (folder / "run").chmod(0o755)
    with pytest.raises(NoRunDir, match=r"my shop/run: open to others: chmod 700 .*; name one with run_dir in \[app\]"):
        choose_run_dir("bkd.toml", {})
    (folder / "run").chmod(0o700)
    assert choose_run_dir("bkd.toml", {}) == str(folder / "run")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_place_of_somebody_else_is_refused(folder):
    (folder / "bkd.toml").write_text(f'[app]\nrun_dir = "run"\n{WEB}')
    (folder / "run").mkdir(mode=0o700)
    os.chown(folder / "run", 12345, 12345)
    with pytest.raises(NoRunDir, match="belongs to user 12345, not to 0"):
        choose_run_dir("bkd.toml", {})


def test_a_path_too_long_for_a_socket_says_what_to_do(folder):
    (folder / "bkd.toml").write_text(f'[app]\nrun_dir = "/{"x" * 100}"\n{WEB}')
    for ask in (run_dir_candidates, socket_candidates, choose_run_dir):
        with pytest.raises(NoRunDir, match=r"longer than the 107 bytes .*: set run_dir in \[app\] to a shorter path"):
            ask("bkd.toml", {})
    (folder / "bkd.toml").write_text(f'[app]\nrun_dir = "/{"x" * 93}"\n{WEB}')
    assert len(socket_candidates("bkd.toml", {})[0]) == 107


def test_default_places_that_are_too_long_are_left_out(folder, tmp_path):
    deep = folder / ("d" * 100)
    deep.mkdir()
    (deep / "bkd.toml").write_text(f'[app]\nname = "shop"\n{WEB}')
    assert socket_candidates(str(deep / "bkd.toml"), {}) == [str(tmp_path / "run/shop/control.sock")]
    assert choose_run_dir(str(deep / "bkd.toml"), {}) == str(tmp_path / "run/shop")


def test_run_has_a_place_of_its_own(folder, tmp_path):
    chosen = tmp_path / "tmp" / f"bkd-{os.geteuid()}" / "shop"
    assert choose_run_dir_for_run("shop") == str(chosen)
    assert [path.stat().st_mode & 0o777 for path in (chosen, chosen.parent)] == [0o700, 0o700]
    assert choose_run_dir_for_run("shop") == str(chosen)


def test_run_follows_no_links(folder, tmp_path):
    parent = tmp_path / "tmp" / f"bkd-{os.geteuid()}"
    parent.mkdir(parents=True, mode=0o700)
    (parent / "shop").symlink_to(folder)
    with pytest.raises(NoRunDir, match="shop: not a directory"):
        choose_run_dir_for_run("shop")
    parent.rename(tmp_path / "elsewhere")
    parent.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(NoRunDir, match=f"bkd-{os.geteuid()}: not a directory"):
        choose_run_dir_for_run("blog")


def test_importing_and_asking_costs_nothing(folder):
    (folder / "bkd.toml").write_text(f'[app]\nname = "shop"\n{WEB}')
    program = (
        "import sys; before = set(sys.modules)\n"
        "from bkd.supervisor.places import find_config, socket_candidates\n"
        "socket_candidates(find_config(None, {}), {})\n"
        "heavy = {'pathlib', 'json', 'tomllib', 'msgspec', 'asyncio', 'click', 'bkd.supervisor.config.load'}\n"
        "print(sorted(heavy & (set(sys.modules) - before)))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert run.stdout == "[]\n", run.stderr
