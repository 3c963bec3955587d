"""What `enqueue` says when the dispatcher cannot be reached: one line, with what to do."""

import os
import signal
import subprocess
import sys

import pytest

from ..cluster import CLEAN_ENVIRONMENT
from ..test_users import USERS, WANTED, passable
from .project import JOBS

SCRIPT = """
import sys
from bkd.ipc import sync_ipc
from bkd.ipc.errors import BkdError
from bkd.workers import sync_enqueue, sync_end_of
try:
    if "alone" not in sys.argv:
        sync_ipc.connect("bkd.toml")
        if "waits" in sys.argv:
            input("joined")
    print(sync_enqueue("note", {}, timeout=0.7).id)
except BkdError as error:
    print(type(error).__name__, error, sep=": ")
"""
HANDLERS = """
from bkd.workers import handler


@handler("note")
async def note() -> None:
    pass
"""


def said(cluster, *words, python=sys.executable, **options):
    """What a script prints that enqueues one message."""
    given = {"cwd": cluster.folder, "env": CLEAN_ENVIRONMENT, "capture_output": True, "text": True} | options
    done = subprocess.run([python, "-c", SCRIPT, *words], timeout=30, check=False, **given)
    assert done.stderr == ""
    return done.stdout.strip()


def test_a_script_that_joined_nothing(project):
    line = said(project(), "alone")

    assert line == "NotConnected: this process is in no cluster: start it with bkd, or join one with ipc.connect()"


def test_a_cluster_that_is_not_running(project):
    line = said(project())

    assert line.startswith("NotRunning: no cluster of ") and line.endswith("start it with `bkd start`")


def test_a_cluster_without_messages(project):
    cluster = project(web={"app": "shop:app", "count": 1, "min_ready": "100ms"}).start()

    assert said(cluster) == (
        "DeadlineError: not stored within 0.7 s: no group of this cluster runs messages: "
        'add one with kind = "messages", then `bkd reload`'
    )


def test_a_cluster_that_ended_meanwhile(project):
    cluster = project(jobs=JOBS).start()
    order = [sys.executable, "-c", SCRIPT, "waits"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": CLEAN_ENVIRONMENT}
    with subprocess.Popen(order, cwd=cluster.folder, **pipes) as script:
        assert script.stdout.read(6) == "joined"
        assert cluster.stop().returncode == 0
        out, _ = script.communicate("\n", timeout=30)

    assert out.strip() == (
        f"DeadlineError: not stored within 0.7 s: no cluster is running in {cluster.run_dir}: `bkd start` starts it"
    )


def test_a_dispatcher_that_says_nothing(project):
    cluster = project(jobs=JOBS, ping={"kill": "0s"}).start()
    pid = cluster.dispatcher
    os.kill(pid, signal.SIGSTOP)
    try:
        line = said(cluster)
    finally:
        os.kill(pid, signal.SIGCONT)

    assert line == (
        "DeadlineError: not known to be stored within 0.7 s: "
        "the dispatcher did not answer; `bkd status` says how it and its store are"
    )


@pytest.mark.skipif(os.geteuid() != 0 or not set(USERS) >= WANTED, reason="needs root, and the users nobody and games")
def test_a_user_whose_socket_it_is_not():
    with passable(jobs=JOBS | {"handlers": ["away"], "user": "nobody", "count": 1}) as cluster:
        (cluster.folder / "away.py").write_text(HANDLERS)
        cluster.start()
        uid, games = USERS["nobody"].pw_uid, USERS["games"]
        found = {"env": CLEAN_ENVIRONMENT | {"BKD_SOCKET": f"{cluster.run_dir}/worker.{uid}.sock"}}
        found |= {"user": games.pw_uid, "group": games.pw_gid, "extra_groups": []}

        line = said(cluster, "alone", python=cluster.python, **found)

        assert line == (
            f"DeadlineError: not stored within 0.7 s: {cluster.run_dir}/messages.{uid}.sock is not for this user: "
            "messages come from users of groups, from who started bkd, and from root"
        )
        assert cluster.stop().returncode == 0
