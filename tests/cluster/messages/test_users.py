"""Messages between users: who may enqueue, who may run them, and what somebody who breaks into a worker cannot."""

import os
import stat
import urllib.parse

import pytest

from ..cluster import kill, until
from ..test_users import USERS, WANTED, passable

HANDLERS = """
import os

from bkd.workers import enqueue, handler


@handler("{name}.who", mode="{mode}")
def who() -> int:
    return os.geteuid()


@handler("{name}.more")
async def more() -> int:
    return (await enqueue("home.who", {{}})).id
"""
SPEAK = (
    "import socket; from bkd.ipc.durable import wire; from bkd.ipc.frames import FrameReader; "
    "s = socket.socket(socket.AF_UNIX); s.connect(os.environ['BKD_SOCKET'].replace('worker.', 'messages.')); "
    "s.settimeout(10); s.sendall(wire.packed({frame})); data = s.recv(65536); "
    "print([wire.unpacked(one).reason for one in FrameReader().feed(data)])"
)
ENLIST = "wire.Enlist('web.1', 'web', os.getpid(), start_time(os.getpid()), 'shared', 1, [])"

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not set(USERS) >= WANTED, reason="needs root, and the users nobody and games"
)


def messages(name, user, **settings):
    """A group of messages as that user; "" is root."""
    return {"kind": "messages", "handlers": [name], "min_ready": "100ms", "drain": "3s", "user": user} | settings


def write(cluster):
    """The handlers of all groups: `home` is run as root, `away` and `far` as games."""
    for name, mode in (("home", "shared"), ("away", "shared"), ("far", "exclusive")):
        (cluster.folder / f"{name}.py").write_text(HANDLERS.format(name=name, mode=mode))


def run(cluster, source):
    """What a source prints inside a worker of nobody."""
    return cluster.get(f"/run?{urllib.parse.quote(source)}")


def result(kind):
    """A source: enqueue, wait, and print what came of it."""
    return (
        "from bkd.workers import sync_enqueue, sync_end_of; "
        f"print(sync_end_of(sync_enqueue('{kind}', {{}}), within=12).result)"
    )


@pytest.fixture(scope="module")
def cluster():
    """The web of nobody, messages of root and of games."""
    web = {"app": "intruder:app", "user": "nobody", "min_ready": "100ms", "count": 1}
    with passable(web=web, jobs=messages("home", ""), others=messages("away", "games")) as cluster:
        write(cluster)
        cluster.start()
        yield cluster
        assert cluster.stop().returncode == 0


def test_each_user_has_a_socket_of_its_own(cluster):
    def about(name):
        found = os.stat(cluster.run_dir / name)
        return found.st_uid, stat.S_IMODE(found.st_mode)

    users = {user: USERS[user].pw_uid for user in WANTED}
    assert about("messages.sock") == (0, 0o600)
    assert {about(f"messages.{uid}.sock") for uid in users.values()} == {(uid, 0o600) for uid in users.values()}
    paths = ["messages.sock", f"messages.{users['games']}.sock", "bkd.db"]
    tried = [run(cluster, f"import socket; Visitor('{cluster.run_dir}/{name}')") for name in paths[:2]]
    tried.append(run(cluster, f"open('{cluster.run_dir}/bkd.db')"))
    assert [answer.partition(":")[0] for answer in tried] == ["PermissionError"] * 3


def test_messages_go_from_user_to_user_and_back(cluster):
    """From nobody to games, whose handler enqueues one for root."""
    games = USERS["games"].pw_uid

    assert run(cluster, result("away.who")) == str(games)
    assert run(cluster, result("home.who")) == "0"
    id = int(run(cluster, result("away.more")))
    selection = {"ids": [str(id)]}
    told = until(lambda: (found := cluster.asked("message:show", selection=selection))["result"] is not None and found)
    assert (told["kind"], told["result"]) == ("home.who", 0)


def test_who_runs_no_messages_cannot_take_any(cluster):
    assert "no group of messages runs as user" in run(cluster, SPEAK.format(frame=ENLIST))
    assert "may speak as its master" in run(cluster, SPEAK.format(frame="wire.Greet('master')"))
    assert run(cluster, result("home.who")) == "0"


def test_one_user_cannot_take_all_the_room(cluster):
    """Connections of processes of its own, many of each: others are still heard."""
    source = (
        "import socket, subprocess\n"
        "path = os.environ['BKD_SOCKET'].replace('worker.', 'messages.')\n"
        "code = f'import socket, time; s = [socket.socket(socket.AF_UNIX) for _ in range(90)]; "
        "[one.connect({path!r}) for one in s]; [one.sendall({packed!r}) for one in s]; "
        "print(1, flush=True); time.sleep(600)'\n"
        "sys.greedy = [subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE) for _ in range(6)]\n"
        "print([child.stdout.read(1) for child in sys.greedy])"
    )
    packed = "from bkd.ipc.durable import wire; packed = wire.packed(wire.Greet('producer'))\n"
    try:
        assert run(cluster, packed + source) == str([b"1"] * 6)
        assert cluster.asked("message:add", kind="home.who", items=[{}], count=1, options={})["created"] == 1
        until(lambda: cluster.log("dispatcher.1").count("its user has 400 connections already") >= 100)
    finally:
        run(cluster, "[child.kill() for child in sys.greedy]; [child.wait() for child in sys.greedy]")
    assert run(cluster, result("away.who")) == str(USERS["games"].pw_uid)


def test_a_dispatcher_and_a_master_that_die_are_got_over(cluster):
    status = cluster.status()
    helpers = next(group["helpers"] for group in status["groups"] if group["name"] == "jobs")
    kill(next(row["pid"] for row in helpers if row["role"] == "dispatcher"))
    assert run(cluster, result("away.who")) == str(USERS["games"].pw_uid)
    kill(status["master_pid"])
    assert run(cluster, result("home.who")) == "0"
    until(lambda: (found := cluster.answered()) and found["master_pid"] != status["master_pid"])
    until(cluster.is_ready)
    assert run(cluster, result("away.who")) == str(USERS["games"].pw_uid)


def test_a_socket_that_was_removed_is_made_again(cluster):
    path = cluster.run_dir / f"messages.{USERS['nobody'].pw_uid}.sock"
    path.unlink()

    until(path.exists)

    assert path.stat().st_uid == USERS["nobody"].pw_uid
    assert run(cluster, result("away.who")) == str(USERS["games"].pw_uid)


def test_a_reload_lets_another_user_in():
    """It had no part in messages before: the dispatcher hears of it."""
    web = {"app": "intruder:app", "user": "nobody", "min_ready": "100ms", "count": 1}
    with passable(web=web | {"user": ""}, jobs=messages("home", "")) as cluster:
        write(cluster)
        cluster.start()
        assert not list(cluster.run_dir.glob("messages.*.sock"))
        app = {"app": {"python": cluster.python}}
        cluster.configure(web=web, jobs=messages("home", ""), far=messages("far", "games", mode="exclusive"), **app)

        done = cluster.bkd("reload")

        assert done.returncode == 0, done
        assert run(cluster, "print(os.geteuid())") == str(USERS["nobody"].pw_uid)
        assert run(cluster, result("home.who")) == "0"
        assert run(cluster, result("far.who")) == str(USERS["games"].pw_uid)
        assert cluster.stop().returncode == 0
