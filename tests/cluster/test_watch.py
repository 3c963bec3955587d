"""`bkd start --watch`: code goes live as it is saved."""

import os
import subprocess
import time

import pytest

from .clients import Load, deploy, releases, served, stage, succeeded, write
from .cluster import kill, until

pytest.importorskip("watchfiles", reason="comes with bkd[watch]")

WEB = {"app": "versioned:app", "min_ready": "200ms", "lame_duck": "2s", "term": "1s"}
API = WEB | {"app": "shop:app", "bind": ["127.0.0.1:0"], "count": 1}


@pytest.fixture
def cluster(prepare):
    """Two groups whose applications have no file in common, watched."""
    cluster = begin(prepare(web=WEB, api=API))
    until(cluster.is_ready, 40.0)
    return cluster


def begin(cluster):
    """Start it in watch mode; nobody waits until it is ready."""
    with cluster.console.open("ab") as console:
        options = {"stdout": console, "stderr": subprocess.STDOUT, "start_new_session": True}
        cluster.process = cluster.popen("start", "--watch", "-c", str(cluster.file), **options)
    return cluster


def rolled(cluster):
    """The groups that have rolled, one by one."""
    return [event["group"] for event in cluster.events("roll-started")]


def live(cluster, version):
    """Wait until a version serves alone and nothing rolls any more."""
    until(lambda: served(cluster, times=4) == {str(version)} and stage(cluster) is None)


def test_an_edit_goes_live(cluster):
    """Under load without a loss, and only where the file was loaded. A file that nobody has loaded starts nothing."""
    before = cluster.pids("api")
    with Load(cluster) as load:
        write(cluster.folder / "nobodys.py", "VALUE = 1\n")
        deploy(cluster, 2)
        live(cluster, 2)
    assert dict(load.lost) == {}
    assert (rolled(cluster), cluster.pids("api")) == (["web"], before)
    assert cluster.stop().returncode == 0
    assert cluster.exit_code() == 0
    until(cluster.is_gone)


def test_a_broken_edit(cluster):
    """Its traceback is on the console, the last good code serves on without a loss, and the repaired one goes live."""
    before = cluster.pids("web")
    with Load(cluster) as load:
        deploy(cluster, 2, "def broken(:")
        until(lambda: "SyntaxError" in cluster.said() and cluster.events("roll-aborted"))
        assert "def broken(:" in cluster.said()
        until(lambda: stage(cluster) is None)
        assert (cluster.pids("web"), load.versions) == (before, {"1"})
        deploy(cluster, 3)
        live(cluster, 3)
    assert dict(load.lost) == {}
    assert set(rolled(cluster)) == {"web"}


def test_edits_one_after_the_other(cluster):
    """However fast they come, the last one is served in the end."""
    for version in range(2, 12):
        deploy(cluster, version)
    live(cluster, 11)
    assert len(set(releases(cluster))) == 1


def test_a_module_that_is_imported_late(cluster):
    """What a worker imports while it serves is watched from then on."""
    assert served(cluster, "/module?late", times=20) == {"1"}
    imported = time.monotonic()
    until(lambda: heard_since(cluster, imported))
    with Load(cluster) as load:
        deploy(cluster, 2, name="late.py")
        until(lambda: served(cluster, "/module?late") == {"2"} and stage(cluster) is None)
    assert (dict(load.lost), rolled(cluster)) == ({}, ["web"])


def test_edits_of_one_size_and_second(cluster):
    """Compiled code that only looks as if it were of the new source is not served."""
    for version in range(2, 5):
        file = cluster.folder / "version.py"
        file.write_text(f'VERSION = VALUE = "{version}"\n')
        os.utime(file, (1_700_000_000 + version / 10, 1_700_000_000 + version / 10))
        live(cluster, version)


def test_a_package_that_was_missing(cluster):
    """While the code is not good, whatever is added below the folder of the group is tried."""
    deploy(cluster, 2, "import pages.home")
    until(lambda: "No module named 'pages'" in cluster.said() and stage(cluster) is None)
    (cluster.folder / "pages").mkdir()
    write(cluster.folder / "pages" / "home.py", "VALUE = 1\n")
    live(cluster, 2)
    write(cluster.folder / "pages" / "home.py", "VALUE = 2\n")
    until(lambda: any("pages/home.py changed" in event["why"] for event in cluster.events("roll-started")[2:]))


def test_an_application_that_never_came_up(prepare):
    cluster = prepare(web=WEB)
    deploy(cluster, 1, "def broken(:")
    begin(cluster)
    until(lambda: "SyntaxError" in cluster.said())
    deploy(cluster, 2)
    until(cluster.is_ready)
    live(cluster, 2)


@pytest.mark.parametrize("preload", [True, False])
def test_a_new_master_goes_on_watching(prepare, preload):
    """What is imported is told to it again; where nobody does, any source may be the one that matters."""
    cluster = begin(prepare(web=WEB | {"preload": preload}))
    until(cluster.is_ready, 40.0)
    master, pids = cluster.status()["master_pid"], cluster.pids("web")
    kill(master)
    succeeded(cluster, master)
    until(cluster.is_ready)
    assert cluster.pids("web") == pids
    deploy(cluster, 2)
    live(cluster, 2)
    assert set(rolled(cluster)) == {"web"}


def test_a_program_and_the_configuration(prepare):
    """A program is started again when a file of its command line changes; a changed `bkd.toml` is in force at once,
    one that is wrong changes nothing."""
    ticker = {"command": ["sh", "tick.sh"], "ready": "after:0s", "term": "1s"}
    cluster = prepare(ticker=ticker)
    write(cluster.folder / "tick.sh", "echo first; exec sleep 600\n")
    until(begin(cluster).is_ready, 40.0)
    write(cluster.folder / "tick.sh", "echo second; exec sleep 600\n")
    until(lambda: "second" in cluster.log("ticker.1") and stage(cluster, "ticker") is None)
    cluster.configure(ticker=ticker | {"count": 2})
    until(lambda: cluster.group("ticker")["count"] == 2 and cluster.is_ready())
    cluster.configure(ticker=ticker | {"count": "many"})
    until(lambda: "nothing was changed" in cluster.said())
    assert rolled(cluster) == ["ticker"]


def test_not_in_the_background(prepare):
    result = prepare(web=WEB).bkd("start", "-d", "--watch")
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)


def heard_since(cluster, moment):
    """Whether every worker has sent a heartbeat since then; what it has imported comes with it."""
    age = time.monotonic() - moment
    return all(worker["ping_age"] < age for worker in cluster.group("web")["workers"])
