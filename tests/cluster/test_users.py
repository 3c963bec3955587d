"""`user`, `group` and `umask`: what such processes are and reach, and what somebody who breaks into one cannot."""

import os
import pwd
import subprocess
import sys
import sysconfig
import urllib.parse
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest

import bkd

from .cluster import BKD, CLEAN_ENVIRONMENT, Cluster, alive, kill, until

USERS = {user.pw_name: user for user in pwd.getpwall()}
WANTED = {"nobody", "games"}
PROGRAM = ["/bin/sh", "-c", "umask > umask.txt; touch open; exec ../../python ../notifier.py"]
TAKEN = "['welcome', 'closed']"
FORBIDDEN = [
    "Visitor('{run}/control.sock')",
    "Visitor('{door}')",
    "open('{run}/state', 'rb')",
    "open('{run}/bus', 'rb')",
    "open('{run}/events.jsonl')",
    "open('{run}/log/root.1.log', 'a')",
    "open('{run}/log/victim.1.log', 'a')",
    "open('{run}/log/victim.1.log')",
    "open('{run}/log/web.9.log', 'w')",
    "os.unlink('{run}/log/web.1.log')",
    "os.symlink('/etc/passwd', '{run}/log/web.9.log')",
    "os.listdir('{run}')",
    "os.kill({master}, 9)",
    "os.kill({keeper}, 0)",
    "os.kill({victim}, 15)",
    "open('/proc/{victim}/environ')",
    "os.open('/proc/{victim}/mem', os.O_RDWR)",
    "os.setuid(0)",
    "os.setgroups([0])",
]

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not set(USERS) >= WANTED, reason="needs root, and the users nobody and games"
)


def python_for_all(folder):
    """An interpreter that other users can run: this one, or a system's of the same version with what this one has."""
    system = f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"
    paths = os.pathsep.join([str(Path(bkd.__file__).parents[1]), sysconfig.get_path("purelib")])
    wrapper = folder / "python"
    for line in (f"exec {sys.executable}", f"PYTHONPATH={paths} exec {system}"):
        wrapper.write_text(f'#!/bin/sh\n{line} "$@"\n')
        wrapper.chmod(0o755)
        if runs_as("nobody", [wrapper, "-c", "import bkd.workers.zygote"]):
            return str(wrapper)
    pytest.skip("other users can run no Python that has bkd")


def runs_as(user, command):
    """Whether a command ends well as this user."""
    account = USERS[user]
    ids = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    try:
        return subprocess.run(command, capture_output=True, check=False, timeout=60, cwd="/", **ids).returncode == 0
    except PermissionError:
        return False


@contextmanager
def passable(**sections):
    """A cluster in a folder that other users can pass and read, whatever becomes of pytest's own meanwhile."""
    with TemporaryDirectory(prefix="bkd-users-") as folder:
        Path(folder).chmod(0o755)
        python = python_for_all(Path(folder))
        cluster = Cluster(Path(folder, "c"), sections | {"app": {"python": python}})
        cluster.python = python
        cluster.folder.chmod(0o755)
        try:
            yield cluster
        finally:
            cluster.close()


@pytest.fixture(scope="module")
def cluster():
    """Workers of nobody, a function and a program of games, a program of root; logs that rotate soon."""
    groups = {
        "web": {"app": "intruder:app", "user": "nobody", "umask": "027", "min_ready": "100ms"},
        "victim": {"target": "intruder:victim", "user": "games", "preload": "false", "restart": "always"},
        "program": {"command": PROGRAM, "ready": "notify", "user": "games", "umask": "077", "cwd": "games"},
        "root": {"command": ["sleep", "1000"], "ready": "after:0s"},
    }
    with passable(log={"rotate": "4KB"}, **groups) as cluster:
        (cluster.folder / "games").mkdir()
        os.chown(cluster.folder / "games", USERS["games"].pw_uid, -1)
        cluster.start()
        yield cluster
        assert cluster.stop().returncode == 0


def run(cluster, source, path="/run"):
    """What a source prints inside a worker of nobody."""
    return cluster.get(f"{path}?{urllib.parse.quote(source)}")


def ids(pid):
    """Real and effective uid, then gid, then the groups of a process."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    uid, gid = lines["Uid"].split(), lines["Gid"].split()
    assert len(set(uid)) == len(set(gid)) == 1
    return int(uid[0]), int(gid[0]), [int(number) for number in lines["Groups"].split()]


def pid_of(status, group):
    """The first worker of a group."""
    return next(one["workers"][0]["pid"] for one in status["groups"] if one["name"] == group)


def door(cluster, user):
    return f"{cluster.run_dir}/worker.{USERS[user].pw_uid}.sock"


def test_every_process_of_a_group_is_its_users(cluster):
    nobody, games = USERS["nobody"], USERS["games"]
    web = cluster.group("web")
    for pid in [*cluster.pids("web"), web["helpers"][0]["pid"]]:
        assert ids(pid) == (nobody.pw_uid, nobody.pw_gid, [nobody.pw_gid])
    for pid in [*cluster.pids("victim"), *cluster.pids("program")]:
        assert ids(pid) == (games.pw_uid, games.pw_gid, [games.pw_gid])
    for pid in [cluster.status()["master_pid"], *cluster.pids("root")]:
        assert ids(pid)[:2] == (0, 0)
    imported = run(cluster, "print(IMPORTED)")
    assert f"'uid': ({nobody.pw_uid}, {nobody.pw_uid}, {nobody.pw_uid})" in imported
    assert nobody.pw_dir in imported
    assert run(cluster, "old = os.umask(0o77); print(oct(os.umask(old)), oct(old))") == "0o77 0o27"
    assert (cluster.folder / "games" / "umask.txt").read_text().strip() == "0077"
    assert run(cluster, "print(os.environ['BKD_SOCKET'], os.environ['USER'])") == f"{door(cluster, 'nobody')} nobody"


def test_messages_go_from_user_to_user(cluster):
    """Also from a process below a worker, which finds the socket by its environment."""
    answer = cluster.get("/call?7")
    assert answer.startswith(f"[{USERS['games'].pw_uid}, 'web.") and answer.endswith(", '7']")
    below = (
        "import subprocess; print(subprocess.check_output([sys.executable, '-c', "
        '\'from bkd.ipc import sync_ipc; print(sync_ipc.call("victim", "who:asks", 8)[2])\'], text=True))'
    )
    assert run(cluster, below) == "8"


ASKS = 'from bkd.ipc import sync_ipc; print(sync_ipc.call("victim", "who:asks", 9)[2])'


def test_the_kernel_keeps_it_from_whatever_is_not_its_own(cluster):
    status = cluster.status()
    known = {"run": cluster.run_dir, "door": door(cluster, "games"), "victim": pid_of(status, "victim")}
    known |= {"master": status["master_pid"], "keeper": status["keeper_pid"]}

    answers = {source: run(cluster, source.format(**known)) for source in FORBIDDEN}

    assert {source: answer for source, answer in answers.items() if not answer.startswith("PermissionError")} == {}


def test_its_own_socket_takes_no_commands(cluster):
    for role in ("client", "operator"):
        answer = run(cluster, f"v = Visitor(os.environ['BKD_SOCKET']); print(v.say('hello', version=1, role='{role}'))")
        assert answer in ("no commands are taken here", "unknown role")
    command = "v.say('command', verb='stop', arguments={}, render='text')"
    assert run(cluster, f"v = Visitor(os.environ['BKD_SOCKET']); print({command})") == "closed"
    said_hello = "v = Visitor(os.environ['BKD_SOCKET']); v.hello('application'); print(v.say('command', verb='stop'))"
    assert run(cluster, said_hello) != "done"
    assert cluster.status()["state"] == "running"


def test_nobody_is_who_he_says_he_is_but_by_the_kernels_word(cluster):
    """Tokens of other users and of other processes, other pids, and descriptors that somebody else has connected."""
    state = msgspec.msgpack.decode((cluster.run_dir / "state").read_bytes())
    foreign = next(row["token"] for row in state["workers"] if row["group"] == "victim")
    victim = cluster.pids("victim")[0]
    mine, new = "token = ipc._face._order.token", "Visitor(os.environ['BKD_SOCKET'])"
    other = "the process is not the one it says it is"
    refusals = {
        f"print({new}.hello('worker', token='{foreign}', pid={victim}))": other,
        f"{mine}; v = {new}; in_a_child(lambda: v.hello('worker', token=token))": other,
        f"{mine}; v = {new}; in_a_child(lambda: [v.hello('worker', pid=os.getppid(), token=token), v.hear()])": TAKEN,
        f"{mine}; v = {new}; in_a_child(lambda: [(w := {new}).hello('worker', token=token), w.hear()])": TAKEN,
        f"in_a_child(lambda: {new}.hello('application', pid={victim}))": other,
    }
    for source, answer in refusals.items():
        assert run(cluster, source) == answer, source
    assert cluster.pids("victim") == [victim]
    stolen = f"v = {new}; v.hello('worker', token='{foreign}'); print(v.hear())"
    until(lambda: run(cluster, stolen) == "closed" and "belongs to another user" in cluster.bkd("events").stdout)


def test_hello_again_and_again_leaves_one_connection(cluster):
    master = cluster.status()["master_pid"]
    before = len(os.listdir(f"/proc/{master}/fd"))
    source = (
        "many = [Visitor(os.environ['BKD_SOCKET']) for _ in range(40)]\n"
        "print({visitor.hello('worker', token=ipc._face._order.token) for visitor in many})\n"
        "sys.kept = many"
    )
    assert run(cluster, source) == "{'welcome'}"
    until(lambda: len(os.listdir(f"/proc/{master}/fd")) < before + 10)
    until(lambda: all(worker["verdict"] == "ok" for worker in cluster.group("web")["workers"]))


def test_whoever_fills_the_room_makes_room(cluster):
    """Connections that say nothing take the place of each other, not that of the command line."""
    assert run(cluster, "sys.silent = [Visitor(os.environ['BKD_SOCKET']) for _ in range(400)]") == ""
    assert cluster.status()["state"] == "running"


def test_a_stranger_of_the_same_user_has_no_part_in_it(cluster):
    """Neither with nothing, nor with the copied mark of a worker of another user."""
    account = USERS["nobody"]
    visit = f"intruder.Visitor({door(cluster, 'nobody')!r}).say('hello', version=1, role='application')"
    command = [cluster.python, "-c", f"import intruder; print({visit})"]
    owner = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": [], "cwd": cluster.folder}
    for mark in ({}, {"BKD_TREE": tree_of(cluster, "victim")}, {"BKD_TREE": tree_of(cluster, "root")}):
        result = subprocess.run(
            command, env=CLEAN_ENVIRONMENT | mark, capture_output=True, text=True, check=False, **owner
        )
        assert "ipc is for workers" in result.stdout, result


def tree_of(cluster, group):
    """The mark of a group's first worker."""
    rows = msgspec.msgpack.decode((cluster.run_dir / "state").read_bytes())["workers"]
    return next(row["tree"] for row in rows if row["group"] == group)


def test_a_page_made_shorter_harms_nobody_else(cluster):
    master, page = cluster.status()["master_pid"], f"{cluster.run_dir}/balance/web@{USERS['nobody'].pw_uid}"
    old = cluster.pids("web")
    assert run(cluster, f"os.truncate({page!r}, 0)") == ""
    for pid in old:
        kill(pid)
    until(lambda: cluster.is_renewed(*old))
    assert cluster.status()["master_pid"] == master
    until(cluster.serves)


def test_logs_keep_their_owner_and_gain_no_rights(cluster):
    """Both ways of rotating: the worker opens its file anew, the program's is cut."""
    for slot, user in (("web.1", "nobody"), ("program.1", "games")):
        path = cluster.run_dir / "log" / f"{slot}.log"
        path.chmod(0o6755)
        with path.open("a") as file:
            file.write("x" * 9000 + "\n")
        older = Path(f"{path}.1")
        until(older.exists)
        until(path.exists)
        for file in (path, older):
            until(lambda file=file, user=user: file.stat().st_uid == USERS[user].pw_uid)
        made = older if slot == "program.1" else path
        until(lambda made=made: made.stat().st_mode & 0o7111 == 0)
    web = cluster.worker("web.1")["pid"]
    new = (cluster.run_dir / "log" / "web.1.log").stat().st_ino
    until(lambda: os.stat(f"/proc/{web}/fd/1").st_ino == new)


def test_a_lying_zygote_names_nobody_elses_process(cluster):
    """Root would signal what it takes for a worker."""
    victim, lie = cluster.pids("root")[0], cluster.folder / "victim.pid"
    lie.write_text(str(victim))
    try:
        kill(cluster.pids("web")[0])
        until(lambda: "is no fork of this zygote" in cluster.bkd("events").stdout)
    finally:
        lie.unlink()
    until(cluster.is_ready)
    assert cluster.pids("root") == [victim] and alive(victim)


def test_a_new_master_takes_them_over(cluster):
    master, pids = cluster.status()["master_pid"], [cluster.pids(name) for name in ("web", "victim", "program")]
    kill(master)
    until(lambda: (status := cluster.answered()) and status["master_pid"] != master)
    until(cluster.is_ready)
    until(lambda: run(cluster, ASKS) == "9")  # the victim has found the new master

    assert [cluster.pids(name) for name in ("web", "victim", "program")] == pids
    assert cluster.get("/call?9").endswith(", '9']")


def test_what_cannot_be_done_is_said_before_anything_is_started():
    with passable(web={"app": "shop:app", "user": "nobody"}) as cluster:
        cluster.folder.chmod(0o700)
        closed = cluster.bkd("check")
        cluster.folder.chmod(0o755)
        games = {"user": USERS["games"].pw_uid, "group": USERS["games"].pw_gid, "extra_groups": []}
        command = [cluster.python, *BKD[1:], "check"]
        options = {"cwd": cluster.folder, "env": CLEAN_ENVIRONMENT, "capture_output": True, "text": True}
        unprivileged = subprocess.run(command, check=False, timeout=60, **options, **games)

    expected = f'workers.web.user: expected a user who can read the application, found nobody: "{cluster.folder}'
    assert (closed.returncode, unprivileged.returncode) == (2, 2)
    assert expected in closed.stderr
    expected = "workers.web.user: expected bkd to be run as root or as nobody, found user games"
    assert unprivileged.stderr == f"bkd.toml: {expected}\n"
