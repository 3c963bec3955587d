"""bkd in a container as the documentation has it: process 1, a user without an entry, nothing to write to but its run
directory, no HOME, no /dev/shm; and what the files of `examples/container` promise."""

import json
import os
import re
import signal
import subprocess
import time
from itertools import pairwise
from pathlib import Path

import pytest

from bkd.supervisor.config.load import load

from .cluster import BKD, CLEAN_ENVIRONMENT, kill, until

EXAMPLE = Path(__file__).parents[2] / "examples" / "container"
USER = 12345
BOX = f"""
mount -t tmpfs -o mode=2777 emptydir run || exit 77
while umount -l /dev/shm; do :; done
mount -o remount,bind,ro / || exit 77
exec unshare --user --map-user={USER} --map-group={USER} -- env -u HOME -u USER -u LOGNAME "$@"
"""
CONTAINER = ["unshare", "--fork", "--pid", "--mount", "--mount-proc", "--kill-child", "sh", "-c", BOX, "sh"]
LEAVES = "( (sleep 0.3; exit 3) & (sleep 0.3; exit 4) & ); exec sleep 600"
GRACE = 30.0


class Box:
    """A running container. `pid`: of its process 1 out here."""

    def __init__(self, cluster):
        self.cluster = cluster
        waits = cluster.process.pid
        self.pid = int(until(Path(f"/proc/{waits}/task/{waits}/children").read_text).split()[0])

    def run(self, *command):
        """A command inside, as a probe runs it."""
        enter = ["nsenter", "-t", str(self.pid), "--pid", "--mount", f"--wdns={self.cluster.folder}"]
        options = {"env": CLEAN_ENVIRONMENT, "capture_output": True, "text": True, "timeout": 60}
        return subprocess.run([*enter, *command], check=False, **options)

    def probe(self, *more):
        """`bkd status --healthy` inside: exit code, and what it said of why."""
        done = self.run(*BKD, "status", "--healthy", *more)
        return done.returncode, done.stderr.strip()

    def master(self):
        """The pid that the master has inside."""
        return json.loads(self.run(*BKD, "status", "--json").stdout)["master_pid"]


@pytest.fixture
def contain(prepare):
    """Starts a cluster in a container, ready by its probe."""
    if os.getuid() != 0 or subprocess.run([*CONTAINER[:6], "true"], check=False, capture_output=True).returncode:
        pytest.skip("needs root, and a kernel that makes namespaces")

    def begin(**sections):
        cluster = prepare(**sections, app={"run_dir": "run/shop"})
        cluster.run_dir.mkdir()
        (cluster.folder / "open").symlink_to("run/open")  # what `functions:notifying` waits for
        cluster.start(prefix=CONTAINER, ready=False)
        box = Box(cluster)
        until(lambda: cluster.process.poll() is not None or "took over" in cluster.said(), 40.0)
        if cluster.process.poll() == 77:
            pytest.skip("nothing can be mounted here")
        return box

    return begin


def test_a_container_with_nothing_to_spare(contain):
    """Probes tell how it is while it starts, while its master is another one, and when a group has failed; orphans of
    strangers end unseen; SIGHUP reloads, SIGINT stops."""
    groups = {
        "web": {"app": "shop:app"},
        "later": {"target": "functions:notifying", "ready": "notify"},
        "orphans": {"command": ["sh", "-c", LEAVES], "ready": "after:0s"},
    }
    box = contain(**groups)
    cluster = box.cluster
    until(cluster.serves)
    assert box.probe() == (0, "")
    until(lambda: box.probe("--ready") == (1, "bkd: not ready: later has no ready worker (later.1 starting)"))
    assert box.probe("--ready", "web") == (0, "")
    assert box.probe("nobody")[0] == 2
    assert box.run("touch", "run/open").returncode == 0
    until(lambda: box.probe("--ready") == (0, ""))

    mine = box.run("sh", "-c", f"id -u; grep -h Uid: /proc/1/status; test -w {cluster.folder} || echo read-only")
    assert mine.stdout.split()[-1] == "read-only"
    assert "CapEff:\t0000000000000000" in Path(f"/proc/{box.pid}/status").read_text()
    assert Path(f"/proc/{box.pid}/uid_map").read_text().split()[0] == str(USER)

    first = box.master()
    until(lambda: "Z" not in box.run("ps", "-eo", "stat=").stdout and "0.3" not in box.run("ps", "-eo", "args=").stdout)
    assert (box.master(), "worker-exited" in journal(box)) == (first, False)

    assert box.run("kill", "-KILL", str(first)).returncode == 0
    began = time.monotonic()
    until(lambda: box.probe("--ready") == (0, ""))
    print(f"ready by the next master after {time.monotonic() - began:.1f} s")
    assert box.master() != first

    kill(box.pid, signal.SIGHUP)
    until(lambda: "reload: nothing has changed" in cluster.said())
    kill(box.pid, signal.SIGINT)
    assert cluster.exit_code() == 0


def journal(box):
    return box.run("cat", "run/shop/events.jsonl").stdout


@pytest.mark.slow
def test_the_end_comes_before_the_grace_is_over(contain):
    """Workers that never end, of every kind, with the limits that nobody has set: killed and gone before Docker or
    Kubernetes would do it, and the exit code says so."""
    stubborn = ["sh", "-c", "trap '' TERM; while :; do sleep 1; done"]
    box = contain(
        web={"app": "shop:app"},
        job={"target": "functions:ignores_everything"},
        program={"command": stubborn, "ready": "after:0s"},
    )
    until(lambda: box.probe("--ready") == (0, ""))
    with box.cluster.send("/sleep?600"), box.cluster.send("/spin"):
        until(lambda: "asked" in box.cluster.said())
        began = time.monotonic()
        kill(box.pid, signal.SIGTERM)
        assert box.cluster.exit_code(2 * GRACE) == 3
        assert time.monotonic() - began < GRACE


# -- examples/container


def commands(text):
    """Every list of arguments in the file that begins with bkd."""
    return [json.loads(found) for found in re.findall(r'\["bkd".*?\]', text)]


def test_the_example_is_valid():
    """Its configuration, and the command of each probe."""
    config = load(str(EXAMPLE / "bkd.toml"), {}, hostname="box")
    assert (config.app.run_dir, config.workers["web"].kind) == ("/run/bkd/shop", "web")
    wanted = commands((EXAMPLE / "k8s.yaml").read_text()) + commands((EXAMPLE / "Dockerfile").read_text())
    assert [command[1] for command in wanted].count("status") == 4
    assert {word for command in wanted for word in command[2:]} == {"--healthy", "--ready", "web"}
    assert ["bkd", "start"] in wanted


def test_the_grace_of_the_example_is_longer_than_its_limits():
    """Kubernetes waits for more than drain and term together, and begins to ask before it gives up on a start."""
    config = load(str(EXAMPLE / "bkd.toml"), {}, hostname="box")
    longest = max(group.drain + group.term for group in config.workers.values())
    grace = int(re.search(r"terminationGracePeriodSeconds: (\d+)", (EXAMPLE / "k8s.yaml").read_text())[1])
    assert longest + 2 <= GRACE <= grace


def test_the_dockerfile_has_exec_forms_in_a_sensible_order():
    """CMD and HEALTHCHECK without a shell, a user who is not root, and nothing written after it."""
    lines = [line for line in (EXAMPLE / "Dockerfile").read_text().splitlines() if line and not line.startswith("#")]
    words = [line.split()[0] for line in lines]
    known = {"FROM", "RUN", "COPY", "WORKDIR", "ENV", "USER", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "CMD"}
    assert set(words) <= known
    assert [line for line in lines if line.startswith("CMD")] == ['CMD ["bkd", "start"]']
    assert next(line for line in lines if line.startswith("HEALTHCHECK")).endswith('CMD ["bkd", "status", "--healthy"]')
    assert all(not (first == "USER" and then in ("RUN", "COPY")) for first, then in pairwise(words))
    assert "USER 10001:10001" in lines
