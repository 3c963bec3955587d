"""`bkd upgrade`: another bkd takes over what runs, or nothing happens."""

import contextlib
import os
import re
import shutil
import signal
import sysconfig
import venv
from pathlib import Path

import pytest

import bkd
from bkd.supervisor.client import Client

from .cluster import Traffic, kill, until
from .test_succession import replace_master

PACKAGE = Path(bkd.__file__).parent
FAILS = """\
import sys
if "bkd.supervisor.master" in " ".join(sys.orig_argv):
    raise RuntimeError("it is not its day")
"""
HANGS = "def main():\n    import time\n    time.sleep(60)\n"


class Version:
    """Another bkd in a virtual environment of its own; `changes` are appended to its modules, `first` is run before
    any of them is imported."""

    def __init__(self, folder, number, **changes):
        self.folder = folder
        venv.create(folder / "venv", with_pip=False, symlinks=True)
        self.python = str(folder / "venv" / "bin" / "python")
        (packages,) = (folder / "venv" / "lib").glob("python*/site-packages")
        (packages / "next.pth").write_text(f"{folder}\n{sysconfig.get_path('purelib')}\n")
        self.install(number, **changes)

    def install(self, number, *, first="", **changes):
        """Replace its files, as pip does."""
        package = self.folder / "bkd"
        shutil.rmtree(package, ignore_errors=True)
        shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("*.pyc.*"))  # being written by others
        (package / "__init__.py").write_text(f'__version__ = "{number}"\n{first}')
        for name, text in changes.items():
            with (package / "supervisor" / f"{name}.py").open("a") as module:
                module.write(f"\n\n{text}")


@pytest.fixture(scope="module")
def version(tmp_path_factory):
    return lambda number, **changes: Version(tmp_path_factory.mktemp("v"), number, **changes)


@pytest.fixture(scope="module")
def cluster(share):
    return share(
        web={"app": "shop:app", "min_ready": "100ms"},
        nap={"command": ["sleep", "600"], "ready": "after:100ms", "restart": "always"},
    )


def processes(cluster):
    """Whatever an upgrade must leave as it is: keeper, workers, zygotes."""
    status = cluster.status()
    helpers = [helper["pid"] for group in status["groups"] for helper in group["helpers"]]
    workers = [worker["pid"] for group in status["groups"] for worker in group["workers"]]
    return status["keeper_pid"], helpers, workers


def upgraded(cluster, *arguments):
    """`bkd upgrade`; whatever becomes of it, everybody else stays."""
    before = processes(cluster)
    result = cluster.bkd("upgrade", *arguments)
    assert processes(cluster) == before
    return result


def test_the_next_version_takes_over(cluster, version):
    """Workers, programs, zygotes and a held slot stay as they are; what follows a crash is the new version, too."""
    assert cluster.bkd("hold", "nap.1").returncode == 0
    with Traffic(cluster) as traffic:
        result = upgraded(cluster, "--python", version("0.1.1").python)
    assert (result.returncode, traffic.failed) == (0, []), result.stderr
    line = r"bkd 0\.1\.0 -> 0\.1\.1 \(master (\d+), pid (\d+)\), 3 workers adopted, took [\d.]+ m?s\n"
    epoch, pid = map(int, re.fullmatch(line, result.stdout).groups())
    assert (epoch, pid) == (2, cluster.status()["master_pid"])
    assert (cluster.status()["version"], cluster.worker("nap.1")["state"]) == ("0.1.1", "held")
    assert replace_master(cluster)["version"] == "0.1.1"
    assert len(cluster.events("master-upgraded")) == 1
    assert "starting it again" not in cluster.said().partition("SIGKILL")[0]


def test_one_that_dies_at_once(cluster, version):
    """A new master that is killed the moment it is there has a successor, who tells how the upgrade went."""
    master = cluster.status()["master_pid"]
    client = cluster.popen("upgrade", "--python", version("0.1.3").python, stdout=-1, text=True)
    child = until(lambda: [pid for pid in masters(cluster) if pid != master])
    kill(child[0])
    assert client.wait(60) == 0
    assert re.match(r"bkd .* -> 0\.1\.3 \(master ", client.stdout.read())


def masters(cluster):
    """Pids of the keeper's children that are masters, or about to be."""
    keeper = cluster.process.pid
    children = Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split()
    return [int(pid) for pid in children if "master" in title(pid)]


def title(pid):
    """What `ps` shows, "" when it is gone."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/cmdline").read_text()
    return ""


def test_one_that_cannot_be_imported(cluster, version):
    """What fails in the rehearsal changes nothing, not even the master; the traceback stands below the reason."""
    master = cluster.status()["master_pid"]
    result = upgraded(cluster, "--python", version("0.1.4", reconcile="import no_such_module\n").python)
    assert (result.returncode, cluster.status()["master_pid"]) == (1, master)
    first, *trace = result.stderr.splitlines()
    assert "No module named 'no_such_module'" in first
    assert any("Traceback" in line for line in trace)


def test_one_that_hangs(cluster, version):
    """It is killed when its time is over, and the old version is started again."""
    before = cluster.status()["version"]
    result = upgraded(cluster, "--python", version("0.1.6", master=HANGS).python, "--timeout", "8s")
    assert (result.returncode, cluster.status()["version"]) == (1, before)
    assert "the new master was not up within 8 s" in result.stderr


def refusal(cluster, **arguments):
    """Why an upgrade is refused, asked without an interpreter that would have to start first."""
    client, said = Client(str(cluster.run_dir / "control.sock")), []
    with contextlib.closing(client.sock):
        code, _, why = client.run("upgrade", arguments, render="text", progress=lambda _, words: said.append(words))
    assert code == 1
    return "".join([*said, why])


def test_two_at_once(cluster, version):
    """The second is refused, and one that never says whether it can take over changes nothing."""
    python = version("0.1.7", rehearsal=HANGS).python
    first = cluster.popen("upgrade", "--python", python, "--timeout", "4s", stderr=-1, text=True)
    until(lambda: (cluster.run_dir / "upgrade" / "rehearsal").exists())
    assert "another upgrade is under way" in refusal(cluster, python=python)
    assert first.wait(60) == 1
    assert "did not say within 4 s" in first.stderr.read()


def test_not_in_the_middle_of_a_roll(cluster):
    """It says what to wait for."""
    cluster.asked("restart", names=["web"], no_wait=True)
    assert "web: a roll is under way" in refusal(cluster)
    until(lambda: cluster.group("web")["roll"] is None and cluster.is_ready())


def test_an_installation_in_place_is_taken_back(cluster, version):
    """Files replaced below a running bkd by some that die at every start: the old ones come back from the copy that it
    has of itself, and the client hears why, in the words of the new ones."""
    installed = version("0.2.0")
    assert upgraded(cluster, "--python", installed.python).returncode == 0
    until(lambda: [copy for copy in (cluster.run_dir / "code").glob("0.2.0-*") if copy.suffix != ".new"])
    installed.install("0.2.1", first=FAILS)
    with Traffic(cluster) as traffic:
        result = upgraded(cluster)
    assert (result.returncode, cluster.status()["version"], traffic.failed) == (1, "0.2.0", [])
    assert "the upgrade of bkd 0.2.0 to 0.2.1 failed: it ended 3 times in a row: exit code 1" in result.stderr
    assert result.stderr.count("RuntimeError: it is not its day") == 3
    assert cluster.events("upgrade-failed")


def test_a_keeper_that_cannot_be_replaced(cluster, version):
    """The new master is there, the keeper is the old one, and that is exit code 3."""
    result = upgraded(cluster, "--keeper", "--python", version("0.2.2", keeperstate="SCHEMA = 99\n").python)
    assert (result.returncode, cluster.status()["version"]) == (3, "0.2.2")
    assert "the keeper is the old one: the new one cannot take its place" in result.stderr


def test_the_keeper_is_replaced_in_place(cluster, version):
    """The same pid with the same children: it reaps them, holds the lock, and hears signals."""
    with Traffic(cluster) as traffic:
        result = upgraded(cluster, "--keeper", "--python", version("0.2.3").python)
    assert (result.returncode, traffic.failed) == (0, []), result.stderr
    assert result.stdout.endswith(", keeper replaced\n")
    keeper, worker = cluster.process.pid, cluster.worker("web.1")["pid"]
    assert b"keeperstate" in Path(f"/proc/{keeper}/cmdline").read_bytes()
    assert f"\nPPid:\t{keeper}\n" in Path(f"/proc/{worker}/status").read_text()
    kill(worker)
    end = until(lambda: (end := cluster.worker("web.1")["last_exit"]) and end["pid"] == worker and end)
    assert (end["signal"], end["cause"]) == (9, "killed from outside")
    assert "already running" in cluster.bkd("start", "-d").stderr
    assert replace_master(cluster)["version"] == "0.2.3"
    os.kill(keeper, signal.SIGTERM)
    assert cluster.exit_code() == 0
    until(cluster.is_gone)
