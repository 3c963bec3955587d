"""Releases: which code a worker runs, wherever it was deployed to, and the way back."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

import bkd

from .clients import (
    Load,
    command,
    deploy,
    finished,
    link,
    opened,
    outcome,
    reached,
    releases,
    served,
    stage,
    succeeded,
    write,
    zygotes,
)
from .cluster import alive, kill, until

WEB = {"app": "versioned:app", "min_ready": "300ms", "lame_duck": "2s", "term": "1s"}


def restarted(cluster, version, code=""):
    """Deploy and roll."""
    deploy(cluster, version, code)
    result = cluster.bkd("restart", "web")
    assert result.returncode == 0, result.stderr
    return cluster


# -- the way back


def test_back_and_forth(launch):
    """The previous release is kept in its zygote; rolling back serves it under load without a loss, though the new code
    is on the disk. The next restart takes the disk's code, under a number of its own."""
    cluster = restarted(launch(web=WEB), 2)
    kept = zygotes(cluster)
    assert (sorted(kept), all(map(alive, kept.values()))) == ([1, 2], True)
    with Load(cluster) as load:
        result = cluster.bkd("rollback", "--json", "web")
        load.goes_on()
    row = outcome(result)
    assert (result.returncode, row["state"], row["release"], row["from"]) == (0, "done", 1, 2)
    assert (dict(load.lost), releases(cluster), served(cluster)) == ({}, [1, 1], {"1"})
    assert (cluster.group("web")["release"], zygotes(cluster)[1]) == (1, kept[1])
    assert cluster.bkd("restart", "web").returncode == 0
    assert (releases(cluster), served(cluster)) == ([3, 3], {"2"})


def test_all_releases_are_shown(launch):
    """`keep_releases = 2` keeps two, each with the memory it takes; older ones are ended."""
    cluster = launch(web=WEB | {"keep_releases": 2, "count": 1})
    for version in (2, 3, 4):
        restarted(cluster, version)
    until(lambda: sorted(zygotes(cluster)) == [2, 3, 4])
    assert [row["rss"] > 1_000_000 for row in cluster.group("web")["helpers"]] == [True] * 3
    for number in (3, 2):
        assert cluster.bkd("rollback", "web").returncode == 0
        assert served(cluster) == {str(number)}
    assert cluster.bkd("rollback", "web").returncode == 1


def test_there_is_nothing_to_go_back_to(launch):
    """Without a previous release that is loaded the command fails with the reason and changes nothing."""
    nap = {"command": ["sleep", "600"], "ready": "after:100ms"}
    cluster = launch(web=WEB | {"keep_releases": 0}, nap=nap)
    before = cluster.pids("web"), cluster.pids("nap")
    for name in ("web", "nap"):
        result = cluster.bkd("rollback", name)
        assert (result.returncode, result.stdout, len(result.stderr.splitlines())) == (1, "", 1)
        assert name in result.stderr
    assert (cluster.pids("web"), cluster.pids("nap")) == before
    restarted(cluster, 2)
    until(lambda: sorted(zygotes(cluster)) == [2])
    assert cluster.bkd("rollback", "web").returncode == 1
    assert served(cluster) == {"2"}


def test_a_kept_release_that_dies_is_no_way_back(launch):
    """Once the kept zygote is killed there is nothing in memory to go back to, and the workers do not care."""
    cluster = restarted(launch(web=WEB), 2)
    before = cluster.pids("web")
    kill(zygotes(cluster)[1])
    until(lambda: sorted(zygotes(cluster)) == [2])
    result = cluster.bkd("rollback", "web")
    assert (result.returncode, cluster.pids("web"), served(cluster)) == (1, before, {"2"})


@pytest.mark.parametrize("where", ["loading", "canary", "rolling"])
def test_in_the_middle_of_a_roll(launch, where):
    """A rollback while something rolls ends that: the old release serves alone again, with nothing lost. Whoever asked
    for the roll gets exit 1."""
    cluster = launch(web=WEB)
    waits = {"loading": "import starts\nstarts.hold()", "canary": "from starts import waits as start"}
    deploy(cluster, 2, waits.get(where, "from starts import waits_behind_the_first as start"))
    with Load(cluster) as load:
        restart = command(cluster, "restart", "--json", "web")
        reached(cluster, where)
        back = cluster.bkd("rollback", "web")
        load.goes_on()
    assert back.returncode == 0, back.stderr
    assert (releases(cluster), cluster.group("web")["release"], stage(cluster)) == ([1, 1], 1, None)
    result = finished(restart)
    assert (result.returncode, outcome(result)["state"]) == (1, "aborted")
    assert "rollback" in outcome(result)["reason"]
    assert (dict(load.lost), served(cluster)) == ({}, {"1"})


def test_the_old_code_comes_back_after_a_crash(launch):
    """After a rollback a worker that dies is replaced by one of the release that is current then."""
    cluster = restarted(launch(web=WEB), 2)
    assert cluster.bkd("rollback", "web").returncode == 0
    old = cluster.pids("web")
    for pid in old:
        kill(pid)
    until(lambda: cluster.is_renewed(*old))
    assert (releases(cluster), served(cluster)) == ([1, 1], {"1"})


def test_a_new_master_can_go_back(launch):
    """Which releases there are outlives the master."""
    cluster = restarted(launch(web=WEB), 2)
    master = cluster.status()["master_pid"]
    kill(master)
    succeeded(cluster, master)
    until(lambda: cluster.is_ready() and sorted(zygotes(cluster)) == [1, 2])
    assert cluster.bkd("rollback", "web").returncode == 0
    assert (releases(cluster), served(cluster)) == ([1, 1], {"1"})


# -- folders


def laid_out(cluster, *versions):
    """A folder for each version, as deploy tools make them; `current` points to the first."""
    for version in versions:
        folder = cluster.folder / "releases" / version
        folder.mkdir(parents=True)
        for name in ("versioned.py", "starts.py"):
            shutil.copy(cluster.folder / name, folder)
        for name in ("version.py", "late.py"):
            write(folder / name, f'VERSION = VALUE = "{version}"\n')
    for name in ("versioned.py", "version.py", "late.py"):
        (cluster.folder / name).unlink()
    link(cluster.folder / "current", Path("releases", versions[0]))
    return cluster


@pytest.mark.parametrize("preload", ["auto", False])
def test_a_link_that_is_switched(prepare, preload):
    """With `cwd` a symbolic link, a restart serves the folder that it points to then. Until that the workers, their
    successors, and what they import late, stay with the folder they began with."""
    cluster = laid_out(prepare(web=WEB | {"cwd": "current", "preload": preload}), "1", "2").start()
    link(cluster.folder / "current", Path("releases", "2"))
    assert (served(cluster), served(cluster, "/module?late")) == ({"1"}, {"1"})
    old = cluster.pids("web")
    for pid in old:
        kill(pid)
    until(lambda: cluster.is_renewed(*old))
    assert (served(cluster), served(cluster, "/module?late")) == ({"1"}, {"1"})
    with Load(cluster) as load:
        assert cluster.bkd("restart", "web").returncode == 0
        load.goes_on()
    assert (served(cluster), served(cluster, "/module?late"), dict(load.lost)) == ({"2"}, {"2"}, {})
    folders = {os.readlink(f"/proc/{pid}/cwd") for pid in cluster.pids("web")}
    assert folders == {str((cluster.folder / "releases" / "2").resolve())}


def test_back_to_a_folder(prepare):
    """A rollback goes back to the folder of that release, for what is imported late too."""
    cluster = laid_out(prepare(web=WEB | {"cwd": "current"}), "1", "2").start()
    link(cluster.folder / "current", Path("releases", "2"))
    assert cluster.bkd("restart", "web").returncode == 0
    assert cluster.bkd("rollback", "web").returncode == 0
    assert (served(cluster), served(cluster, "/module?late")) == ({"1"}, {"1"})


def test_a_link_to_nowhere(prepare):
    """A folder that is not there is a reason to abort, and nothing is lost."""
    cluster = laid_out(prepare(web=WEB | {"cwd": "current"}), "1").start()
    link(cluster.folder / "current", Path("releases", "2"))
    result = cluster.bkd("restart", "web")
    assert (result.returncode, served(cluster), releases(cluster)) == (1, {"1"}, [1, 1])
    assert "releases/2" in result.stderr


# -- interpreters


def interpreter(cluster, name, *, has_bkd=True):
    """A virtual environment with a module `marker` that says its name, and another to import late."""
    folder = cluster.folder / name
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    packages = next(folder.glob("lib/python3*/site-packages"))
    for module in ("marker", "late_marker"):
        (packages / f"{module}.py").write_text(f'VALUE = "{name}"\n')
    if has_bkd:
        homes = [Path(bkd.__file__).parents[1], Path(msgspec.__file__).parents[1]]
        (packages / "bkd.pth").write_text("".join(f"{home}\n" for home in homes))


def environments(cluster, *names):
    """Those, and `env`, which points to the first."""
    for name in names:
        interpreter(cluster, name)
    link(cluster.folder / "env", Path(names[0]))
    write(cluster.folder / "version.py", "from marker import VALUE as VERSION\n")


def test_another_interpreter(prepare):
    """`app.python` is where the application's packages are; a restart takes the interpreter that is there then. Old
    workers, and what takes the place of dead ones until then, stay with theirs."""
    cluster = prepare(web=WEB)
    environments(cluster, "blue", "green")
    cluster.configure(app={"python": str(cluster.folder / "env" / "bin" / "python")}, web=WEB)
    cluster.start()
    assert served(cluster) == {"blue"}
    link(cluster.folder / "env", Path("green"))
    assert served(cluster, "/module?late_marker") == {"blue"}
    old = cluster.pids("web")
    for pid in (zygotes(cluster)[1], *old):
        kill(pid)
    until(lambda: cluster.is_renewed(*old))
    assert (served(cluster), served(cluster, "/module?late_marker")) == ({"blue"}, {"blue"})
    with Load(cluster) as load:
        result = cluster.bkd("restart", "web")
        load.goes_on()
    assert result.returncode == 0, result.stderr
    assert (served(cluster), served(cluster, "/module?late_marker"), dict(load.lost)) == ({"green"}, {"green"}, {})


def test_an_interpreter_without_bkd(prepare):
    """One that has no bkd is told with the command that puts it there, at the start and in a roll."""
    cluster = prepare(web=WEB)
    environments(cluster, "blue")
    interpreter(cluster, "bare", has_bkd=False)
    python = cluster.folder / "env" / "bin" / "python"
    cluster.configure(app={"python": str(python)}, web=WEB)
    link(cluster.folder / "env", Path("bare"))
    result = cluster.bkd("start", "-d")
    assert (result.returncode, "bare/bin/python -m pip install bkd" in result.stderr) == (1, True), result.stderr
    until(cluster.is_gone)
    link(cluster.folder / "env", Path("blue"))
    cluster.start()
    link(cluster.folder / "env", Path("bare"))
    result = cluster.bkd("restart", "web")
    assert (result.returncode, served(cluster), releases(cluster)) == (1, {"blue"}, [1, 1])
    assert "-m pip install bkd" in result.stderr.splitlines()[-1]


def test_a_roll_that_waits_is_no_release(launch):
    """While the next release loads, the group's release is the one that serves."""
    cluster = launch(web=WEB)
    deploy(cluster, 2, "from starts import waits as start")
    restart = command(cluster, "restart", "web")
    reached(cluster, "canary")
    assert (cluster.group("web")["release"], releases(cluster)) == (1, [1, 1])
    assert sorted(zygotes(cluster)) == [1, 2]
    opened(cluster)
    assert finished(restart).returncode == 0
    assert cluster.group("web")["release"] == 2
