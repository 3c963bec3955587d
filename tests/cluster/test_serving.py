"""Whatever an application is made with, bkd serves it, and knows when it is ready."""

import contextlib
import http.client
import os
import socket
import sys

import pytest
from websockets.sync.client import connect as websocket

from .cluster import alive, ended, free_port, kill, until

SERVER = [sys.executable, "-S", "-m", "http.server", "--bind", "127.0.0.1"]


@pytest.mark.parametrize("app", ["django_app:application", "flask_app:app", "fastapi_app:app", "shop:app"])
def test_every_framework_is_served(launch, app):
    """WSGI or ASGI, found out by looking: every worker answers, and all of them end in peace."""
    cluster = launch(web={"app": app})
    seen = until(lambda: {int(cluster.get("/pid")) for _ in range(10)})
    assert seen <= set(cluster.pids("web"))
    assert cluster.stop().returncode == 0
    assert cluster.exit_code() == 0
    until(cluster.is_gone)


def test_lifespan_runs_in_every_worker(launch):
    """What an ASGI application opens at startup in a worker it closes there when that worker is drained."""
    cluster = launch(web={"app": "fastapi_app:app"})
    assert int(cluster.get("/pid")) in cluster.pids("web")
    cluster.stop()
    assert [cluster.log(f"web.{number}").split() for number in (1, 2)] == [["opened", "closed"]] * 2


def test_websockets_are_served(launch):
    """A connection that became a websocket stays with its worker and is told of the end when the cluster stops."""
    cluster = launch(web={"app": "echo:app", "count": 1, "drain": "1s"})
    with websocket(f"ws://127.0.0.1:{cluster.port}/") as client:
        client.send("hello")
        assert client.recv(10) == "hello"
        cluster.stop()
    until(cluster.is_gone)


@pytest.mark.parametrize("form", ["tcp", "http", "log", "after"])
def test_a_program_is_ready_when_its_group_says_so(prepare, form):
    """`ready` of a program: its port is open, its page answers, it printed a line, or it lived for a while."""
    cluster = prepare()
    port = cluster.port
    forms = {
        "tcp": f"tcp:127.0.0.1:{port}",
        "http": f"http://127.0.0.1:{port}/bkd.toml",
        "log": "log:Serving HTTP on .* port [0-9]+",
        "after": "after:700ms",
    }
    cluster.configure(files={"command": [*SERVER, str(port)], "ready": forms[form], "env": {"PYTHONUNBUFFERED": "1"}})
    cluster.start()
    if form != "after":
        assert "[workers.files]" in cluster.get("/bkd.toml")
    pid = cluster.worker("files.1")["pid"]
    assert cluster.stop().returncode == 0
    assert not alive(pid)


def test_a_program_that_speaks_sd_notify_is_ready_when_it_says_so(prepare):
    """Until READY=1 came the slot is `starting`."""
    cluster = prepare(job={"command": [sys.executable, "notifier.py"], "ready": "notify"}).start(ready=False)
    until(lambda: cluster.answered() and cluster.worker("job.1")["pid"])
    assert cluster.worker("job.1")["state"] == "starting"
    (cluster.folder / "open").touch()
    until(lambda: cluster.worker("job.1")["state"] == "ready")


def test_functions_are_kept_running(launch):
    """An async function is cancelled at the stop, a plain one asked; both are ready when called."""
    cluster = launch(ticker={"target": "functions:ticker"}, plain={"target": "functions:plain"})
    until(lambda: "ticking" in cluster.log("ticker.1") and "working" in cluster.log("plain.1"))
    assert cluster.stop().returncode == 0
    assert "finished" in cluster.log("plain.1")


def test_a_function_may_say_itself_when_it_is_ready(prepare):
    """With `ready = "notify"` a function is `starting` until it calls `ipc.ready()`."""
    cluster = prepare(job={"target": "functions:notifying", "ready": "notify"}).start(ready=False)
    until(lambda: cluster.answered() and cluster.worker("job.1")["pid"])
    assert cluster.worker("job.1")["state"] == "starting"
    (cluster.folder / "open").touch()
    until(lambda: cluster.worker("job.1")["state"] == "ready")
    assert cluster.stop().returncode == 0


def test_a_unix_socket_is_served(launch):
    """`unix:PATH` is a listener like any other, and its file is gone after the stop."""
    cluster = launch(web={"app": "shop:app", "bind": ["unix:web.sock"], "count": 1})
    path = cluster.folder / "web.sock"
    connection = http.client.HTTPConnection("localhost")
    with contextlib.closing(connection), socket.socket(socket.AF_UNIX) as connection.sock:
        connection.sock.connect(str(path))
        connection.request("GET", "/pid")
        assert int(connection.getresponse().read()) == cluster.worker("web.1")["pid"]
    cluster.stop()
    assert not path.exists()


def test_ipv6_is_served(launch):
    """An address in brackets is IPv6, beside IPv4 in the same group."""
    try:
        port = free_port("::1")
    except OSError:
        pytest.skip("this host has no IPv6")
    cluster = launch(web={"app": "shop:app", "bind": [f"[::1]:{port}", f"127.0.0.1:{port}"], "count": 1})
    pid = str(cluster.worker("web.1")["pid"])
    assert (cluster.get("/pid", host="::1", port=port), cluster.get("/pid", port=port)) == (pid, pid)


def test_several_groups_live_side_by_side(launch):
    """Web, function and program in one file; the death of one does not touch the others."""
    cluster = launch(
        web={"app": "shop:app"},
        api={"app": "flask_app:app", "bind": ["127.0.0.1:0"], "count": 1},
        ticker={"target": "functions:ticker", "restart": "always"},
        nap={"command": ["sleep", "600"], "ready": "after:100ms"},
    )
    before = {name: cluster.pids(name) for name in ("web", "api", "nap")}
    kill(cluster.worker("ticker.1")["pid"])
    until(lambda: cluster.worker("ticker.1")["restarts"] == 1 and cluster.worker("ticker.1")["state"] == "ready")
    assert {name: cluster.pids(name) for name in before} == before


def test_an_application_with_a_thread_is_not_forked(launch):
    """`preload = "auto"` finds the thread, starts the workers one by one, and status says why."""
    cluster = launch(web={"app": "threaded:app"})
    group = cluster.group("web")
    assert "preload is off" in group["reason"] and "watcher" in group["reason"]
    assert int(cluster.get("/pid")) in cluster.pids("web")
    assert [event["group"] for event in cluster.events("preload-off")] == ["web"]
    until(lambda: not [helper for helper in cluster.group("web")["helpers"] if alive(helper["pid"])])


def test_workers_may_import_the_application_themselves(launch):
    """With `preload = false` nothing is forked, and a dead worker comes back all the same."""
    cluster = launch(web={"app": "shop:app", "preload": False})
    assert cluster.group("web")["helpers"] == []
    old = cluster.worker("web.1")["pid"]
    kill(old)
    until(lambda: cluster.worker("web.1")["state"] == "ready" and cluster.worker("web.1")["pid"] not in (old, None))


def test_a_preload_that_is_impossible_is_an_error(prepare):
    """`preload = true` with a thread at import: the start fails and names the thread."""
    cluster = prepare(web={"app": "threaded:app", "preload": True})
    result = cluster.bkd("start", "-d")
    assert result.returncode == 1
    assert "preload" in result.stderr and "thread watcher" in result.stderr
    until(cluster.is_gone)


def test_the_environment_of_a_group(launch):
    """`env` of a group is what its application sees, and BKD_SLOT says who it is."""
    cluster = launch(web={"app": "shop:app", "count": 1, "env": {"COLOUR": "blue"}})
    assert (cluster.get("/environment?COLOUR"), cluster.get("/environment?BKD_SLOT")) == ("blue", "web.1")


def test_a_worker_left_by_its_parent_is_not_a_zombie(launch):
    """The keeper reaps whatever ends below it."""
    cluster = launch(web={"app": "shop:app", "count": 1})
    left = int(cluster.get("/orphan").partition(" of ")[0])
    kill(left)
    assert ended(left)
    until(lambda: not os.path.exists(f"/proc/{left}"))
