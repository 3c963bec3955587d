"""What supervisors are known to get wrong and no other test is about: clocks that are set, wrappers and noise at the
end, power cuts, a run directory that is somebody else's, floods, and output while nobody supervises."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from datetime import datetime
from pathlib import Path

import pytest

from .cluster import CLEAN_ENVIRONMENT, Traffic, alive, cpu_seconds, kill, until

HOUR = 3600
LONG = 20.0  # for a stop that takes 0.8 s on a machine with nothing else to do, and never ends while it waits for noise
CLOCK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static long shift(void) {
    char text[32] = "";
    int fd = open(getenv("CLOCK_FILE"), O_RDONLY | O_CLOEXEC);
    if (fd >= 0) { if (read(fd, text, 31) < 0) text[0] = 0; close(fd); }
    return atol(text);
}
int clock_gettime(clockid_t id, struct timespec *at) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int failed = real(id, at);
    if (!failed && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) at->tv_sec += shift();
    return failed;
}
int gettimeofday(struct timeval *at, void *zone) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec, at->tv_usec = now.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
"""
NOISY = "trap 'while :; do echo dying dying dying dying dying dying; done' TERM; echo up; while :; do sleep 0.1; done"
COUNTS = "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.02; done"
FLOOD = (
    "echo up; while [ ! -e go ]; do sleep 0.05; done; "
    "head -c 100000000 /dev/zero | tr '\\0' x | fold -w 99; touch flooded; sleep 600"
)


@pytest.fixture
def settable(tmp_path):
    """The environment of processes whose wall clock can be set, and the function that sets it."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    source, library, file = tmp_path / "clock.c", tmp_path / "clock.so", tmp_path / "clock"
    source.write_text(CLOCK)
    command = [compiler, "-shared", "-fPIC", "-w", "-o", library, source, "-ldl"]
    if compiler is None or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("needs a C compiler")
    file.write_text("0\n")
    return CLEAN_ENVIRONMENT | {"LD_PRELOAD": str(library), "CLOCK_FILE": str(file)}, lambda s: file.write_text(
        f"{s}\n"
    )


def test_the_wall_clock_is_set(prepare, settable, watch):
    """An hour forward, then two back, for all of the cluster: nobody is judged, delayed or restarted for it."""
    environ, step = settable
    cluster = prepare(web={"app": "shop:app"}, ping={"interval": "1s", "kill": "1s"}).start(env=environ)
    before = cluster.pids("web")
    for shift in (HOUR, -HOUR):
        step(shift)
        assert abs(stamp(cluster) - time.time() - shift) < 60
        watch(1.3)
        assert cluster.get("/pid")
    assert cluster.pids("web") == before
    assert cluster.events("worker-late", "worker-hung", "worker-exited", "worker-worn") == []
    assert [event for event in cluster.events("overslept") if event["seconds"] > HOUR / 2] == []
    kill(before[0])
    until(lambda: cluster.is_renewed(before[0]))
    assert all(row["uptime"] < HOUR for row in cluster.group("web")["workers"])


def stamp(cluster):
    """The wall clock of the master: it stamps what is done to a worker."""
    assert cluster.bkd("signal", "web.1", "CONT").returncode == 0
    line = (cluster.run_dir / "events.jsonl").read_text().splitlines()[-1]
    return datetime.fromisoformat(json.loads(line)["time"]).timestamp()


def test_wrappers_and_noise_at_the_end(launch):
    """A shell between bkd and the program is no shelter; who prints without end while it dies is killed in time."""
    wrapped = {"command": ["sh", "-c", "sleep 601; true"], "ready": "after:0s"}
    noisy = {"command": ["sh", "-c", NOISY], "ready": "log:up", "drain": "100ms", "term": "700ms"}
    cluster = launch(wrapped=wrapped, noisy=noisy, log={"rotate": "1MB", "keep": 2})
    sleeper = until(lambda: [pid for pid in cluster.processes() if command_line(pid) == b"sleep\x00601\x00"])[0]
    began = time.monotonic()
    stopped = cluster.stop()
    killed = stopped.stderr.splitlines()[-1]
    assert (stopped.returncode, "noisy.1" in killed, "wrapped.1" in killed) == (3, True, False), stopped.stderr
    assert time.monotonic() - began < LONG
    assert not alive(sleeper)
    until(cluster.is_gone)


def command_line(pid):
    """Its arguments, each ended by a zero byte; nothing when it is gone."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def test_a_power_cut(prepare):
    """Everything is killed at once, and of the state on the disk a part is left: the next start does not mind, makes it
    anew, and harms nobody who has such a pid by now."""
    cluster = prepare(web={"app": "shop:app"}).start()
    everybody = cluster.processes()
    for pid in everybody:
        kill(pid)
    cluster.process.wait()
    until(lambda: not cluster.processes())
    state = cluster.run_dir / "state"
    whole = state.read_bytes()
    stranger = subprocess.Popen(["sleep", "600"])
    try:
        for left in (whole, whole[: len(whole) // 2]):
            state.write_bytes(left)
            cluster.start()
            assert cluster.get("/pid")
            assert cluster.stop().returncode == 0
            until(cluster.is_gone)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to give a folder away")
def test_a_run_directory_of_somebody_else(launch, prepare):
    """Given away and closed while the cluster runs: it serves on, and the next master takes over. A start in it is
    refused, with the reason."""
    cluster = launch(web={"app": "shop:app"})
    before, master = cluster.pids("web"), cluster.status()["master_pid"]
    with Traffic(cluster) as traffic:
        os.chown(cluster.run_dir, 65534, 65534)
        cluster.run_dir.chmod(0o500)
        kill(master)
        until(lambda: (now := cluster.answered()) and now["master_pid"] != master)
        until(cluster.is_ready)
    assert (traffic.failed, cluster.pids("web")) == ([], before)
    other = prepare(web={"app": "shop:app"})
    other.run_dir.mkdir(mode=0o700)
    os.chown(other.run_dir, 65534, 65534)
    refused = other.bkd("start")
    assert (refused.returncode, "belongs to user 65534" in refused.stderr) == (2, True), refused.stderr


def test_a_flood_of_output(launch):
    """100 MB as fast as it goes: the files keep their limit, and the master has next to nothing to do with it."""
    loud = {"command": ["sh", "-c", FLOOD], "ready": "log:up"}
    cluster = launch(loud=loud, web={"app": "shop:app", "count": 1}, log={"rotate": "4MB", "keep": 2})
    master = cluster.status()["master_pid"]
    before, began = cpu_seconds(master), time.monotonic()
    (cluster.folder / "go").touch()
    until(
        lambda: (
            not [pid for pid in cluster.processes() if command_line(pid).startswith((b"head", b"fold"))]
            and logged(cluster)
        )
    )
    took = time.monotonic() - began
    assert cpu_seconds(master) - before < 0.3 * max(took, 1.0)
    until(lambda: logged(cluster) <= 3 * (4 << 20) + (1 << 20))
    assert cluster.worker("loud.1")["restarts"] == 0


def logged(cluster):
    """Bytes in the log files of the loud program."""
    return sum(path.stat().st_size for path in (cluster.run_dir / "log").glob("loud.1.log*"))


def test_output_while_no_master_is_there(launch):
    """What a program prints while the master is stopped, dead, and succeeded is in its log line by line."""
    cluster = launch(counts={"command": ["sh", "-c", COUNTS], "ready": "after:0s"})
    master = cluster.status()["master_pid"]
    kill(master, signal.SIGSTOP)
    before = len(cluster.log("counts.1").splitlines())
    until(lambda: len(cluster.log("counts.1").splitlines()) > before + 5)
    kill(master)
    until(lambda: (now := cluster.answered()) and now["master_pid"] != master)
    seen = len(cluster.log("counts.1").splitlines())
    until(lambda: len(cluster.log("counts.1").splitlines()) > seen + 20)
    lines = cluster.log("counts.1").splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n")]
    assert whole == [f"line {number}\n" for number in range(1, len(whole) + 1)]
