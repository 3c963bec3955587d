"""Applications of every kind that talk to each other through the master, and what becomes of that when it dies."""

import json
import subprocess
import sys
import urllib.parse
from contextlib import closing
from functools import partial

import pytest

from .cluster import CLEAN_ENVIRONMENT, free_port, kill, until

KINDS = ["async", "wsgi"]


@pytest.fixture(scope="module")
def talking(share):
    """Two web workers, two of Flask, one async and one plain function."""
    port = free_port()
    cluster = share(
        web={"app": "talking:app"},
        wsgi={"app": "talking:flask_app", "bind": [f"127.0.0.1:{port}"]},
        ticker={"target": "talking:ticker", "restart": "always"},
        plain={"target": "talking:plain", "restart": "always"},
        ping={"interval": "500ms", "kill": "20s"},
    )
    cluster.ports = {"async": None, "wsgi": port}
    return cluster


def get(cluster, path, *, kind="async", **arguments):
    """What the path answers, of the async application or that of WSGI."""
    query = urllib.parse.urlencode({name: json.dumps(value) for name, value in arguments.items()})
    return json.loads(cluster.get(f"{path}?{query}", port=cluster.ports[kind]))


def ipc(cluster, verb, *, kind="async", **arguments):
    """What a call of `ipc` or `sync_ipc` gives in a worker of that kind."""
    return get(cluster, f"/ipc/{verb}", kind=kind, **arguments)


@pytest.fixture(params=KINDS)
def use(talking, request):
    """`ipc` of the shared cluster, for async code and for threads."""
    return partial(ipc, talking, kind=request.param)


def test_the_master_answers(use, talking):
    assert use("call", to="server", op="echo", data={"sku": [1, None, "é"]}) == {"value": {"sku": [1, None, "é"]}}
    stats = use("call", to="server", op="stats")["value"]
    assert stats["app"] == "shop"
    assert {group["name"] for group in stats["groups"]} == {"web", "wsgi", "ticker", "plain"}


@pytest.mark.parametrize("to", ["web", "web.2", "wsgi.1", "ticker.1", "plain", "plain.1"])
@pytest.mark.parametrize("op", ["price:ask", "price:ask-plainly"])
def test_every_kind_of_worker_answers(use, to, op):
    """By a handler in its main loop, and by one in a thread."""
    answer = use("call", to=to, op=op, data=7)["value"]
    assert answer["slot"].startswith(to)
    assert answer["asked"] == 7
    assert answer["by"].partition(".")[0] in ("web", "wsgi")


def test_functions_ask_as_soon_as_they_run(talking):
    """The async one in its loop, the plain one without any."""
    for name, asked in (("ticker.1", "of the ticker"), ("plain.1", "of the plain one")):
        until(lambda name=name, asked=asked: f'"asked": "{asked}"' in talking.log(name))


def test_errors_come_back_as_what_they_are(use):
    assert use("call", to="web.1", op="price:fail") == {"error": "RemoteError", "text": "ValueError: no such price"}
    strange = use("call", to="plain", op="price:strange")
    assert strange["error"] == "RemoteError"
    assert "its answer cannot be sent" in strange["text"]
    unheard = use("call", to="web.1", op="nobody:listens")
    assert unheard == {"error": "RefusedError", "text": "web.1 has no handler for nobody:listens"}
    assert use("call", to="nobody.9", op="price:ask")["error"] == "RefusedError"
    late = use("call", to="web.2", op="price:never", timeout=0.2)
    assert late["error"] == "DeadlineError"


def test_a_worker_that_dies_is_a_closed_call(use, talking):
    dying = talking.worker("ticker.1")["pid"]
    assert use("call", to="ticker.1", op="price:die")["error"] == "ClosedError"
    until(lambda: talking.is_renewed(dying))


def test_an_event_reaches_one_worker_or_all(use, talking):
    """`send` one of a group, `broadcast` every one of them, whatever its kind."""
    kind = use.keywords["kind"]
    use("send", to="web.2", op="price:changed", data=f"for one, {kind}")
    until(lambda: f'heard in a thread "for one, {kind}"' in talking.log("web.2"))
    until(lambda: f'heard ["price:changed", "for one, {kind}", ' in talking.log("web.2"))

    until(lambda: use("broadcast", channel=":all", op="price:nothing", data=None) == {"value": [1, 6]})
    assert use("broadcast", channel=":all", op="price:changed", data=f"for all, {kind}") == {"value": [1, 6]}
    for name in ("web.1", "web.2", "wsgi.1", "wsgi.2", "ticker.1", "plain.1"):
        until(lambda name=name: f'heard in a thread "for all, {kind}"' in talking.log(name))
        until(lambda name=name: f'heard ["price:changed", "for all, {kind}", ' in talking.log(name))
    assert "for one" not in talking.log("plain.1")


def test_the_answers_of_a_broadcast_are_gathered(use, talking):
    answers = use("broadcast", channel=":wsgi", op="price:ask", data=1, timeout=5)["value"]
    host = talking.status()["host"]
    assert set(answers) == {f"wsgi.1@{host}", f"wsgi.2@{host}"}
    assert answers[f"wsgi.2@{host}"]["value"]["slot"] == "wsgi.2"
    some = use("broadcast", channel=":ticker", op="price:never", timeout=0.3)["value"]
    assert some[f"ticker.1@{host}"]["error"] == "timeout"


def test_limits_hold_for_all_processes(talking):
    """Three a minute: the fourth waits, whichever worker it comes to."""
    delays = [ipc(talking, "limiter", kind=kind, name="login", rate=3, interval=60)["value"] for kind in KINDS * 2]
    assert delays[:3] == [0, 0, 0]
    assert 5 < delays[3] <= 20


@pytest.mark.parametrize("kind", KINDS)
def test_a_lock_has_one_holder(talking, kind):
    """It is renewed while it is held, and free when it is given back; the next holder's fence is larger."""

    def take(seconds):
        return json.loads(talking.get(f"/lock?name={kind}&seconds={seconds}", port=talking.ports[kind]))

    with closing(talking.send(f"/lock?name={kind}&seconds=2.5&wait=10")) as client:
        until(lambda: take(0).get("error") == "HeldError")
        said = b"".join(iter(lambda: client.recv(4096), b""))
    first = json.loads(said.partition(b"\r\n\r\n")[2])
    assert not first["lost"]
    assert take(0)["fence"] > first["fence"]


def test_what_is_deleted_is_deleted_everywhere(talking):
    """Each worker keeps its own values; a deletion in one reaches the other."""

    def both(verb, **arguments):
        """What each of the two workers answers, whichever is asked more often."""
        answers = {}
        until(lambda: len(answers) == 2 or answers.update([one(verb, **arguments)]))
        return set(answers.values())

    def one(verb, **arguments):
        answer = get(talking, f"/cache/{verb}", key="sku 7", **arguments)
        return answer["slot"], answer["value"]

    both("set", value=3)
    assert both("get") == {3}
    one("delete")
    until(lambda: both("get") == {None})


def test_a_reload_is_an_event(launch):
    """On the application's connection; a worker that was ready has heard of it."""
    cluster = launch(web={"app": "configured:app"})
    cluster.configure(web={"app": "configured:app", "count": 3})
    assert cluster.bkd("reload").returncode == 0
    until(lambda: "changed workers.web.count" in cluster.log("web.1"))


def test_the_master_is_killed(launch):
    """Calls that wait fail at once, and the next ones are answered by the next master; handlers are called again."""
    cluster = launch(web={"app": "talking:app"}, ping={"interval": "500ms", "kill": "20s"})
    cluster.ports = {"async": None}
    waiting = [cluster.send("/ipc/call?to=%22web%22&op=%22price:never%22&timeout=60") for _ in range(2)]
    master = until(lambda: cluster.status()["ipc"]["pending"] == 2 and cluster.status()["master_pid"])
    kill(master)
    for client in waiting:
        with client:
            assert b'"NotConnected"' in b"".join(iter(partial(client.recv, 4096), b""))
    assert ipc(cluster, "call", to="server", op="echo", data=1) == {"value": 1}
    until(lambda: ipc(cluster, "broadcast", channel=":web", op="price:changed", data="again")["value"] == [1, 2])
    for name in ("web.1", "web.2"):
        until(lambda name=name: 'heard ["price:changed", "again", ' in cluster.log(name))


SCRIPT = """
import asyncio, os, sys
from bkd.ipc import NotConnected, ipc, sync_ipc
if len(sys.argv) > 1:
    sync_ipc.connect(sys.argv[1])
try:
    print(sync_ipc.call("server", "echo", "of a script"))
except NotConnected as error:
    print("NotConnected:", error)
async def main():
    name = f"script {os.getpid()}"
    assert await ipc.limiter(name, 1, 60) == 0.0
    assert await ipc.limiter(name, 1, 60) > 50
    async with ipc.lock(name) as lock:
        assert lock.fence
asyncio.run(main())
"""


def script(cluster, *arguments):
    """What a script prints that bkd has not started."""
    command = [sys.executable, "-c", SCRIPT, *arguments]
    environment = {name: value for name, value in CLEAN_ENVIRONMENT.items() if not name.startswith("BKD_")}
    return subprocess.run(command, cwd=cluster.folder, env=environment, capture_output=True, text=True, timeout=30)


def test_scripts_join_by_socket_or_configuration(talking):
    for place in (talking.run_dir / "control.sock", talking.file):
        ran = script(talking, str(place))
        assert (ran.stdout, ran.stderr, ran.returncode) == ("of a script\n", "", 0)


def test_outside_a_cluster(talking):
    """Calls say what is missing; limits and locks work all the same, and a cluster that is not there is said so."""
    ran = script(talking)
    assert ran.stdout.startswith("NotConnected: this process is in no cluster")
    assert (ran.stderr, ran.returncode) == ("", 0)
    assert script(talking, "none.sock").stderr.endswith("none.sock: no such file\n")
