"""`bkd start`: it comes up, or it says in one line why not and leaves nothing behind."""

import json
import os
import signal
import socket
import sys

import pytest

from .cluster import PATIENCE, alive, kill, until


def test_in_the_background(prepare):
    """`start -d` returns 0 when everything is ready, and not before."""
    cluster = prepare(web={"app": "shop:app"}, job={"target": "functions:notifying", "ready": "notify"})
    command = cluster.popen("start", "-d")
    until(lambda: cluster.answered() and cluster.group("web")["ready"] == 2)
    assert command.poll() is None
    (cluster.folder / "open").touch()
    assert command.wait(PATIENCE) == 0
    assert cluster.is_ready()
    assert cluster.serves()
    assert cluster.stop().returncode == 0
    until(cluster.is_gone)


def test_in_the_background_it_keeps_no_descriptor(prepare):
    """A pipe behind `bkd start -d` ends with the command, and the cluster is no child of the shell's session."""
    cluster = prepare(web={"app": "shop:app"})
    result = cluster.bkd("start", "-d")
    assert (result.returncode, result.stdout) == (0, "")
    keeper = cluster.status()["keeper_pid"]
    assert os.getsid(keeper) == keeper
    cluster.stop()


def test_a_start_outlives_its_first_master(prepare):
    """A master that is killed before everything is ready does not make `bkd start -d` hang or lie."""
    cluster = prepare(job={"target": "functions:notifying", "ready": "notify"})
    command = cluster.popen("start", "-d")
    first = until(lambda: cluster.answered() and cluster.worker("job.1")["pid"] and cluster.status()["master_pid"])
    kill(first)
    until(lambda: (status := cluster.answered()) and status["master_pid"] != first)
    assert command.poll() is None
    (cluster.folder / "open").touch()
    assert command.wait(PATIENCE) == 0
    assert cluster.worker("job.1")["state"] == "ready"


def test_an_interrupted_start(prepare):
    """Ctrl-C while `bkd start -d` waits stops what it began: nothing is left running."""
    cluster = prepare(job={"target": "functions:notifying", "ready": "notify"})
    command = cluster.popen("start", "-d")
    until(lambda: cluster.answered() and cluster.worker("job.1")["pid"])
    kill(command.pid, signal.SIGINT)
    assert command.wait(PATIENCE) != 0
    until(cluster.is_gone)


@pytest.mark.parametrize("preload", ["auto", False])
def test_an_application_that_does_not_import(prepare, preload):
    """`start -d` exits 1 with the traceback, and nothing is left running."""
    cluster = prepare(web={"app": "broken:app", "preload": preload, "count": 1})
    result = cluster.bkd("start", "-d")
    assert result.returncode == 1
    assert "no_such_module_anywhere" in result.stderr
    if preload == "auto":
        assert "Traceback" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("bkd: web")
    until(cluster.is_gone)


def test_a_worker_that_cannot_start(prepare):
    """A lifespan that fails is a failed start as well."""
    cluster = prepare(web={"app": "fails:app", "count": 1})
    result = cluster.bkd("start", "-d")
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("bkd: web")
    until(cluster.is_gone)


def test_a_port_in_use(prepare):
    """Exit code 1 and one line that says where it cannot listen and who does."""
    cluster = prepare(web={"app": "shop:app"})
    with socket.create_server(("127.0.0.1", cluster.port)):
        result = cluster.bkd("start")
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert f"127.0.0.1:{cluster.port}" in result.stderr and f"pid {os.getpid()} " in result.stderr
    until(cluster.is_gone)


@pytest.mark.parametrize("background", [[], ["-d"]])
def test_a_second_start(launch, background):
    """Exit code 1 and one line that names the pid; the first one does not notice."""
    cluster = launch(web={"app": "shop:app"})
    before = cluster.pids("web")
    result = cluster.bkd("start", *background)
    assert (result.returncode, len(result.stderr.splitlines())) == (1, 1)
    assert f"already running (pid {cluster.process.pid})" in result.stderr
    assert (cluster.pids("web"), cluster.serves()) == (before, True)


def test_every_fault_of_the_configuration_at_once(prepare):
    """Exit code 2, each fault with its key, and a guess at what was meant; nothing is started."""
    cluster = prepare(web={"app": "shop:app", "cuont": 3, "drain": "soon"}, job={"kind": "python"}, ping={"kill": "1x"})
    for command in (["start"], ["start", "-d"], ["check"]):
        result = cluster.bkd(*command)
        assert result.returncode == 2, (command, result.stderr)
        for words in ("workers.web.cuont", "count", "workers.web.drain", "workers.job", "ping.kill"):
            assert words in result.stderr, (command, words)
        assert "Traceback" not in result.stderr
    until(cluster.is_gone)


def test_no_configuration(prepare):
    """Exit code 2 and one line that says where it was looked for."""
    cluster = prepare(web={"app": "shop:app"})
    for command in ("start", "status", "check"):
        result = cluster.bkd(command, "-c", "nowhere.toml")
        assert (result.returncode, len(result.stderr.splitlines())) == (2, 1), command
        assert "nowhere.toml" in result.stderr


def test_a_path_that_is_too_long_for_a_socket(prepare):
    """Exit code 2 and one line that says what to set."""
    cluster = prepare(app={"run_dir": "x" * 120}, web={"app": "shop:app"})
    for command in ("start", "status"):
        result = cluster.bkd(command)
        assert (result.returncode, len(result.stderr.splitlines())) == (2, 1), (command, result)
        assert "run_dir" in result.stderr


def test_no_cluster(prepare):
    """Commands that need a cluster exit 4 when none is running, in one line that says what to do."""
    cluster = prepare(web={"app": "shop:app"})
    for command in ("status", "status --json", "stop", "scale web=3", "hold web.1", "unhold web", "reset web"):
        result = cluster.bkd(*command.split())
        assert (result.returncode, len(result.stderr.splitlines()), result.stdout) == (4, 1, ""), (command, result)
        assert "bkd start" in result.stderr


def test_wrong_usage(launch):
    """Unknown commands, groups, slots, signals and numbers are exit code 2 in a line that says what there is."""
    cluster = launch(web={"app": "shop:app", "count": 1})
    for command in (
        ["frobnicate"],
        ["status", "--nonsense"],
        ["scale", "web"],
        ["scale", "nothing=2"],
        ["scale", "web=-5"],
        ["scale", "web=many"],
        ["hold", "web.9"],
        ["signal", "web.1", "LOUD"],
        ["events", "--since", "soon"],
    ):
        result = cluster.bkd(*command)
        assert result.returncode == 2, (command, result)
        assert result.stderr and "Traceback" not in result.stderr, command


def test_check(prepare):
    """`bkd check` imports every application, tells of each, and starts nothing."""
    cluster = prepare(
        good={"app": "shop:app"},
        bad={"app": "broken:app", "bind": ["127.0.0.1:0"]},
        threads={"app": "threaded:app", "bind": ["127.0.0.1:0"]},
        job={"target": "functions:no_such_function"},
        program={"command": ["no-such-program-anywhere"]},
    )
    result = cluster.bkd("check")
    assert result.returncode == 1
    assert "good: ok" in result.stdout and "watcher" in result.stdout
    for words in ("no_such_module_anywhere", "no_such_function", "no-such-program-anywhere"):
        assert words in result.stderr
    told = json.loads(cluster.bkd("check", "--json").stdout)
    assert {group["name"]: group["ok"] for group in told["groups"]} == {
        "good": True, "bad": False, "threads": True, "job": False, "program": False
    }  # fmt: skip
    assert cluster.is_gone()


def test_init_and_start(prepare):
    """What `bkd init` writes runs as it is."""
    cluster = prepare()
    folder = cluster.folder / "fresh"
    result = cluster.bkd("init", str(folder))
    assert (result.returncode, cluster.bkd("init", str(folder)).returncode) == (0, 1)
    cluster.file = folder / "bkd.toml"
    cluster.file.write_text(cluster.file.read_text().replace("127.0.0.1:8000", f"127.0.0.1:{cluster.port}"))
    assert cluster.bkd("check", "-c", str(cluster.file)).returncode == 0
    started = cluster.bkd("start", "-d", cwd=folder)
    assert started.returncode == 0, started.stderr
    assert "Hello from process" in cluster.get("/")
    assert cluster.bkd("stop", cwd=folder).returncode == 0
    until(lambda: not cluster.processes())


def test_run_without_a_file(prepare):
    """`bkd run APP -w N -b ADDR` serves with no file at all, and stops with SIGTERM."""
    cluster = prepare()
    process = cluster.popen("run", "shop:app", "-w", "2", "-b", f"127.0.0.1:{cluster.port}")
    until(cluster.serves)
    assert len(until(lambda: {cluster.get("/pid") for _ in range(20)})) <= 2
    process.terminate()
    assert process.wait(PATIENCE) == 0
    until(lambda: not cluster.processes())


def test_run_gives_up(prepare):
    """`bkd run` of an application that does not import exits 1 with the traceback."""
    cluster = prepare()
    result = cluster.bkd("run", "broken:app", "-b", f"127.0.0.1:{cluster.port}")
    assert (result.returncode, "no_such_module_anywhere" in result.stdout + result.stderr) == (1, True)
    until(lambda: not cluster.processes())


def test_the_interpreter_of_the_application(prepare):
    """`[app] python` names another interpreter, and one that is not there is said so."""
    cluster = prepare(app={"python": sys.executable}, web={"app": "shop:app", "count": 1}).start()
    assert alive(int(cluster.get("/pid")))
    other = prepare(app={"python": "/no/such/python"}, web={"app": "shop:app", "count": 1})
    result = other.bkd("start", "-d")
    assert (result.returncode, "/no/such/python" in result.stderr) == (1, True)
