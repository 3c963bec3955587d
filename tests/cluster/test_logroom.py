"""Logs that cannot be written: the cluster serves on, and whoever looks at it is told, once."""

import os
import subprocess

import pytest

from .cluster import Cluster, until
from .smalldisk import fill, small_disk

WEB = {"app": "shop:app", "min_ready": "100ms", "count": 1}
FULL = "No space left on device (ENOSPC)"


@pytest.fixture
def cluster(tmp_path):
    cluster = Cluster(tmp_path / "c", {"web": WEB})
    yield cluster
    cluster.close()


def test_a_full_disk_is_told_once_and_so_is_its_end(cluster):
    with small_disk(cluster.run_dir / "log", "256k") as disk:
        cluster.run_dir.chmod(0o700)
        cluster.start()
        filler = fill(disk)
        until(lambda: cluster.events("log-trouble"))
        path = f"{cluster.run_dir}/log/web.1.log"

        line = f"what processes print cannot be written: {FULL}"
        assert cluster.status()["disk"] == line
        assert f"! {line}\n" in cluster.bkd("status").stdout
        assert cluster.serves()
        filler.unlink()
        until(lambda: cluster.events("log-well"))

        assert cluster.status()["disk"] is None
        said = cluster.said()
        assert said.count(f"{path} cannot be written: {FULL}; what processes print is lost meanwhile") == 1
        assert said.count(f"{path} can be written again") == 1
        cluster.close()


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to mount")
def test_a_disk_that_may_only_be_read_is_told(cluster):
    cluster.start()
    log = cluster.run_dir / "log"
    if subprocess.run(["mount", "--bind", log, log], check=False).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        read_only = ["mount", "-o", "remount,bind,ro", log]
        until(lambda: subprocess.run(read_only, check=False).returncode == 0)  # not while something is being written
        until(lambda: "Read-only file system (EROFS)" in (cluster.status()["disk"] or ""))
    finally:
        subprocess.run(["umount", "-l", log], check=True)
    until(lambda: cluster.status()["disk"] is None)


def test_a_folder_of_logs_that_cannot_be_made_again_is_told(cluster):
    cluster.start()
    log = cluster.run_dir / "log"
    log.rename(cluster.run_dir / "logs-of-before")
    log.write_text("in the way")

    until(lambda: "(ENOTDIR)" in (cluster.status()["disk"] or ""))
    log.unlink()
    until(lambda: cluster.status()["disk"] is None)
