"""What `bkd why` says where memory or disk are short."""

import contextlib
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from .cluster import PATIENCE, ended, until
from .witness import is_place, report, tells_place, why

WEB = {"app": "trouble:app", "count": 1, "min_ready": "100ms", "drain": "1s", "term": "300ms"}
PING = {"interval": "500ms", "kill": "2s"}
NAME = f"bkd-test-{os.getpid()}"
INTO = ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"']
ROOT = Path("/sys/fs/cgroup")


@contextlib.contextmanager
def control_group(limit):
    """A new control group with so much memory, by its folder; skips where none can be made."""
    file = (
        ROOT / "memory" / NAME / "memory.limit_in_bytes" if (ROOT / "memory").is_dir() else ROOT / NAME / "memory.max"
    )
    try:
        file.parent.mkdir()
        file.write_text(str(limit))
    except OSError as error:
        if file.parent.is_dir():
            file.parent.rmdir()
        pytest.skip(f"no control group with a limit of memory can be made here: {file}: {error.strerror}")
    try:
        yield file.parent
    finally:
        until(lambda: not (file.parent / "cgroup.procs").read_text())
        file.parent.rmdir()


def test_out_of_memory(prepare):
    """The kernel kills a worker for the memory of its control group: it is named, with the limit."""
    with control_group(400 << 20) as group:
        cluster = prepare(web=WEB)
        try:
            cluster.start(prefix=[*INTO, str(group)])
            pid = cluster.worker("web.1")["pid"]
            with cluster.send("/grow?megabytes=1000"):
                assert ended(pid)
                one = report(cluster, "web.1", pid)
            text = why(cluster, "web.1")
            assert "out of memory" in " ".join(text.splitlines()[:3])
            assert (one["cause"], one["signal"]) == ("out of memory", 9)
            assert re.search(r"4(00|19) ?MB", text), text
            until(cluster.serves)
        finally:
            cluster.close()


def test_a_leak(launch):
    """A worker that grew beyond `max_memory` ends as planned, and what it had grown to is told."""
    cluster = launch(web=WEB | {"max_memory": "200MB"})
    old = cluster.worker("web.1")
    until(lambda: cluster.worker("web.1").get("pss"))
    with cluster.send("/grow?megabytes=300"):
        assert ended(old["pid"], 30.0)
    one = report(cluster, "web.1", old["pid"])
    text = why(cluster, "web.1")
    head = " ".join(text.splitlines()[:3])
    assert one["cause"] == "planned"
    assert "max_memory" in head
    assert "memory" in head
    assert "as planned" in head


@contextlib.contextmanager
def small_disk(folder):
    """A file system of 2 MB at this place; skips where none can be mounted."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m,mode=0700", "bkd-test", folder]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder):
    """Leave no byte."""
    left = shutil.disk_usage(folder).free
    while left:
        with contextlib.suppress(OSError), (folder / "ballast").open("ab", buffering=0) as file:
            file.write(bytes(4096))
        before, left = left, shutil.disk_usage(folder).free
        if left == before:
            return


def test_a_full_disk(prepare):
    """What could not be written is kept in memory and told from there; nothing waits for the disk."""
    cluster = prepare(web=WEB, ping=PING)
    with small_disk(cluster.run_dir):
        try:
            cluster.start()
            fill(cluster.run_dir)
            pid = cluster.worker("web.1")["pid"]
            with cluster.send("/deadlock"):
                began = time.monotonic()
                assert ended(pid)
                one = report(cluster, "web.1", pid)
                assert time.monotonic() - began < PATIENCE
            assert is_place(one["evidence"]["culprit"], "deadlock")
            assert tells_place(why(cluster, "web.1"), "deadlock")
            until(cluster.serves)
            (cluster.run_dir / "ballast").unlink()
            until(lambda: list((cluster.run_dir / "why").glob("web.1*")), 40.0)
        finally:
            cluster.close()
