"""A host as its operators have it: a folder with `bkd.toml`, releases, a run directory, and the command line."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from ..cluster.clients import link, write
from ..cluster.cluster import BKD, CLEAN_ENVIRONMENT, alive, free_port, is_free, kill, toml, until
from .apps.hands import held
from .ledger import Doom, Violation

APPS = Path(__file__).parent / "apps"
RUN_BYTES = "80m"
LOG_BYTES, LOG_KEEP = 256 << 10, 2
MOST_PRINTED = 2 << 20  # between two looks of whoever rotates
KILL = 4.0
NAME = "shop"  # the one that etc/redis.acl is about
KEPT_RELEASES = 15
COUNTS = {"h1": {"web": 3, "plain": 2, "clock": 1, "tool": 1}, "h2": {"web": 2}}
BAD = {
    "import": 'raise LookupError("no price list")\n',
    "plain import": 'raise LookupError("no price list")\n',
    "never": "import asyncio\n\n\nasync def start():\n    await asyncio.Event().wait()\n",
    "dies": "import asyncio\n\nimport hands\n\n\nasync def start():\n"
    "    asyncio.get_running_loop().call_later({seconds:.2f}, hands.leave, 3)\n",
}


class Host:
    """`counts` are what is wanted, `live` the versions that have to answer, by group. `harmed` are the pids to whom
    something was done, `on_trial` the groups whose workers may die of their own."""

    def __init__(self, folder, name, bus, ledger):
        self.folder, self.name, self.ledger, self.bus = folder, name, ledger, bus
        self.file, self.run_dir, self.notes = folder / "bkd.toml", folder / "run", folder / "notes"
        self.console, self.mounted, self.process = folder / "console.txt", False, None
        self.ports = {"web": free_port(), "plain": free_port()}
        self.configured = COUNTS[name]
        self.counts, self.live, self.past, self.version = dict(self.configured), {}, set(), 0
        self.limits = {"min_ready": "1s", "env": {"NOTES": str(self.notes), "ROUND": "0"}}
        self.slowest, self.was_full = ("", 0.0), False
        self.known = {}
        self.harmed, self.on_trial, self.judged = set(), frozenset(), 0.0
        self._commands = []
        for path in (folder, self.run_dir, self.notes):
            path.mkdir(mode=0o700)
        shutil.copytree(APPS, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        for group in self.ports:
            self.went_live(group, self.deploy(group))
        self.configure()

    def mount(self):
        """Have the run directory on a small disk of its own; for root."""
        order = ["mount", "-t", "tmpfs", "-o", f"mode=0700,size={RUN_BYTES}", "tmpfs", str(self.run_dir)]
        self.mounted = subprocess.run(order, capture_output=True, check=False, timeout=20).returncode == 0
        return self.mounted

    @property
    def log_limit(self):
        """Bytes that all log files of a slot may have together."""
        return (LOG_KEEP + 1) * (LOG_BYTES + MOST_PRINTED)

    # -- code and configuration

    def configure(self):
        """Write `bkd.toml`. The web group has its releases in folders, the others are edited in place."""
        web = {"kind": "web", "app": "front:app", "cwd": "current", "bind": [f"127.0.0.1:{self.ports['web']}"]}
        web |= {"drain": "10s", "lame_duck": "1500ms", "term": "2s", "start_timeout": "10s", "max_memory": "160MB"}
        plain = {"kind": "web", "app": "plain:app", "bind": [f"127.0.0.1:{self.ports['plain']}"], "min_ready": "500ms"}
        groups = {
            "web": web | self.limits,
            "plain": plain | {"drain": "10s", "lame_duck": "1500ms"},
            "clock": {"kind": "python", "target": "clock:main", "restart": "always", "min_ready": "500ms"},
            "tool": {"kind": "command", "command": [sys.executable, "tool.py"], "ready": "notify", "restart": "always"},
        }
        sections = {
            "app": {"name": NAME, "host": self.name, "run_dir": "run"},
            "ping": {"interval": "1s", "kill": f"{KILL:g}s"},
            "log": {"rotate": f"{LOG_BYTES >> 10}KB", "keep": LOG_KEEP},
            **({"bus": self.bus} if self.bus else {}),
        }
        for name, count in self.configured.items():
            sections[f"workers.{name}"] = groups[name] | {"count": count}
        lines = []
        for name, keys in sections.items():
            lines += [f"[{name}]", *(f"{key} = {toml(value)}" for key, value in keys.items()), ""]
        self.file.write_text("\n".join(lines))

    def deploy(self, group, code=""):
        """New code on the disk, not yet live; gives its version."""
        self.version += 1
        text = f'VERSION = "{self.version}"\n{code}'
        if group == "web":
            folder = self.folder / "releases" / str(self.version)
            shutil.copytree(APPS, folder, ignore=shutil.ignore_patterns("__pycache__"))
            (folder / "version.py").write_text(text)
            self.point(str(self.version))
        elif group == "plain":
            write(self.folder / "version.py", text)
        else:
            write(self.folder / f"{group}.py", (APPS / f"{group}.py").read_text() + f"# {self.version}\n")
        return str(self.version)

    def went_live(self, group, version):
        """From now on this version has to answer."""
        if group in self.ports:
            self.live[group] = version
            self.past.add(version)

    def withdraw(self, group):
        """Have the disk say what is live, as an operator does after a deploy that failed."""
        if group == "web":
            self.point(self.live["web"])
        elif group == "plain":
            write(self.folder / "version.py", f'VERSION = "{self.live["plain"]}"\n')

    def point(self, version):
        """`current` is this release."""
        link(self.folder / "current", f"releases/{version}")

    def prune(self):
        """Forget the oldest releases, none that may be loaded."""
        kept = {self.live["web"], os.readlink(self.folder / "current").rpartition("/")[2]}
        for path in sorted((self.folder / "releases").iterdir(), key=lambda path: int(path.name))[:-KEPT_RELEASES]:
            if path.name not in kept:
                shutil.rmtree(path)

    # -- the command line

    def start(self):
        """`bkd start` in the foreground, in a process group but no session of its own; until everything is ready."""
        with self.console.open("ab") as console:
            self.process = self._popen(
                "start", "-c", str(self.file), cwd=self.folder, stdout=console, stderr=console, process_group=0
            )
        until(self.is_ready, 90.0)

    def is_ready(self):
        """Whether every group has what it wants."""
        if self.process.poll() is not None:
            raise Violation(f"{self.name}: bkd start ended with {self.process.returncode}: {self.said()}")
        status = self.status(limit=60.0, must=False)
        return status is not None and all(group["ready"] == group["count"] for group in status["groups"])

    def bkd(self, *words, limit=20.0, codes=(0,)):
        """A command to its end, which has to come in time and with one of these exit codes."""
        return self.finished(self.begun(*words), limit=limit, codes=codes)

    def begun(self, *words):
        """A command in the background, for `finished`."""
        there = ["--socket", str(self.run_dir / "control.sock")]
        process = self._popen(*words, *there, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        process.words, process.since = words, time.monotonic()
        return process

    def finished(self, process, *, limit, codes=None):
        """How it ended."""
        said = f"{self.name}: bkd {' '.join(process.words)}"
        try:
            out, err = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired as error:
            raise Violation(f"{said} has not ended after {limit:g} s") from error
        took = time.monotonic() - process.since
        if took > self.slowest[1] and process.words[0] not in ("restart", "reload", "rollback", "stop", "upgrade"):
            self.slowest = (" ".join(process.words), took)
        if codes is not None and process.returncode not in codes:
            raise Violation(f"{said} ended with {process.returncode}, not {codes}: {(err or out).strip()[-2000:]}")
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def _popen(self, *words, **options):
        """In `/`, so that whoever works in the folder belongs to the cluster."""
        options = {"stdin": subprocess.DEVNULL, "env": CLEAN_ENVIRONMENT, "cwd": "/"} | options
        process = subprocess.Popen([*BKD, *words], **options)
        self._commands.append(process)
        return process

    # -- what it says

    def status(self, *, limit=20.0, must=True):
        """`bkd status --json`; None when nobody answers and nobody must."""
        result = self.bkd("status", "--json", limit=limit, codes=(0,) if must else None)
        if result.returncode:
            return None
        self.known = json.loads(result.stdout)
        return self.known

    def group(self, name):
        """A group's part of the last status."""
        return next(group for group in self.known["groups"] if group["name"] == name)

    def workers(self, name):
        """Pid by slot, of those that have a process, as of the last status."""
        return {row["name"]: row["pid"] for row in self.group(name)["workers"] if row["pid"]}

    def zygote(self, name):
        """The pid of the zygote of the present release, 0 when there is none."""
        release = self.group(name)["release"]
        helpers = [row for row in self.group(name)["helpers"] if row["release"] == release]
        return helpers[0]["pid"] if helpers else 0

    def said(self):
        """The last of what the foreground has printed."""
        return self.console.read_text(errors="replace")[-3000:]

    # -- its processes

    def processes(self):
        """Every process that works in the folder: all of the cluster do, and nobody else. No zombies."""
        found = {}
        for name in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                if Path(os.readlink(f"/proc/{name}/cwd")).is_relative_to(self.folder):
                    found[int(name)] = Path(f"/proc/{name}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        return found

    def doom(self, pid, why):
        """What this process, which does nothing any more, has in its hands may be lost."""
        self.harmed.add(pid)
        self.ledger.doom(Doom(time.monotonic(), why, held(pid)))

    def slay(self, pids, why):
        """SIGKILL for all of them in one moment, after a look at what they have in their hands."""
        self.harmed.update(pids)
        for pid in pids:
            kill(pid, signal.SIGSTOP)
        for pid in pids:
            until(lambda pid=pid: not alive(pid) or stands_still(pid), pause=0.002)
            with contextlib.suppress(OSError):
                self.doom(pid, why)
        for pid in pids:
            kill(pid)

    def read_notes(self):
        """What workers have said before they ended or stood still."""
        found = []
        for path in self.notes.glob("*.json"):
            note = json.loads(path.read_text())
            path.unlink()
            held_ports = frozenset((here, there) for here, there in note["held"])
            self.ledger.doom(Doom(note["at"], f"{note['why']} of {note['pid']}", held_ports))
            self.harmed.add(note["pid"])
            found.append(note)
        return found

    def leftovers(self):
        """What is there that should not be, now that the cluster has ended: processes, sockets, listeners."""
        sockets = [str(path) for path in self.run_dir.rglob("*") if path.is_socket()]
        taken = [f"port {port}" for port in self.ports.values() if not is_free(port)]
        return [*map(str, self.processes().items()), *sockets, *taken]

    def keep(self):
        """Save the run directory from the end of its disk."""
        if self.mounted:
            shutil.copytree(self.run_dir, self.folder / "run.kept", ignore=irregular)

    def close(self):
        """End whatever still runs."""
        deadline = time.monotonic() + 15.0
        while (left := self.processes()) and time.monotonic() < deadline:
            for pid in left:
                kill(pid)
            time.sleep(0.05)
        for process in self._commands:
            if process.poll() is None:
                process.kill()
            process.communicate(timeout=15.0)
        if self.mounted:
            subprocess.run(["umount", "-l", str(self.run_dir)], check=False, timeout=20)


def irregular(folder, names):
    """Those of the names that are neither files nor folders."""
    paths = [Path(folder, name) for name in names]
    return {path.name for path in paths if path.is_symlink() or not (path.is_file() or path.is_dir())}


def stands_still(pid):
    """Whether it is stopped by a signal."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] in (b"T", b"t")
    return False
