"""Processes die, stand still and hang."""

import os
import select
import shutil
import signal
import socket
import time
from pathlib import Path

from ..cluster.cluster import ended, kill, until
from .apps.hands import held
from .host import KILL, stands_still
from .ledger import Doom, Violation
from .load import ask
from .stage import CHARGED, QUICK, Stage

HUNG = 30.0
TRIES = 20
LAST_PID = Path("/proc/sys/kernel/ns_last_pid")
LETHAL_STOP = KILL - 1.5


class Deaths(Stage):
    """The verbs that send signals, or have an application get into trouble."""

    def _kill(self, host, action):
        if action.what == "master":
            return self._kill_master(host)
        pids = self._victims(host, action)
        host.slay(pids, str(action))
        self._settle(host, QUICK)
        return f"pids {pids}"

    def _spoil(self, host, action):
        """The next master finds no state that it could use, or everybody no run directory."""
        if action.what == "state":
            os.truncate(host.run_dir / "state", int(action.pick * os.path.getsize(host.run_dir / "state")))
            return self._kill_master(host)
        for path in host.run_dir.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        self._settle(host, CHARGED)
        return ""

    def _kill_master(self, host):
        before = {name: host.workers(name) for name in host.counts}
        old = host.known["master_pid"]
        kill(old)
        self._settle(host, QUICK)
        after = {name: host.workers(name) for name in host.counts}
        if before != after:
            raise Violation(f"{host.name}: the death of a master changed workers: {before} -> {after}")
        return f"pid {old}, next {host.known['master_pid']}"

    def _stop(self, host, action):
        role, group = action.what, action.what.partition(" ")[0]
        if role in ("master", "keeper"):
            return self._stop_helper(host, action, host.known[f"{role}_pid"], "web")
        pid = self._victims(host, action)[0]
        return self._stop_helper(host, action, pid, group) if group != role else self._stop_worker(host, action, pid)

    def _stop_helper(self, host, action, pid, group):
        """Somebody who serves nobody stands still, and a worker dies meanwhile."""
        with Stopped(pid):
            host.slay([self._worker(host, group, action.pick)[1]], str(action))
            self.watch.pause(action.seconds)
        self._settle(host, CHARGED)
        return f"pid {pid}"

    def _stop_worker(self, host, action, pid):
        """What it has in its hands waits for it; should it not go on in time, that may be lost."""
        with Stopped(pid):
            doom = Doom(time.monotonic(), str(action), held(pid))
            if action.seconds > LETHAL_STOP:
                host.harmed.add(pid)
                host.ledger.doom(doom)
            self.watch.pause(action.seconds)
        if time.monotonic() - doom.at > LETHAL_STOP:
            host.harmed.add(pid)
            host.ledger.doom(doom)
        self._settle(host, CHARGED)
        return f"pid {pid}"

    def _hang(self, host, action):
        pid = self._troubled(host, f"/hang?how={action.what}")
        self._gone(host, pid, HUNG, "a hung worker")
        self._settle(host, CHARGED)
        return f"pid {pid}"

    def _leave(self, host, action):
        pid = self._troubled(host, "/leave")
        self._settle(host, CHARGED)
        return f"pid {pid}"

    def _troubled(self, host, path):
        """Ask for trouble; the pid of whom it has come to."""
        with socket.create_connection(("127.0.0.1", host.ports["web"]), timeout=20.0) as client:
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: soak\r\n\r\n".encode())
            notes = until(host.read_notes, 20.0)
        return notes[0]["pid"]

    def _orphan(self, host, action):
        pid = int(ask(host.ports["web"], "/orphan").split()[1])
        host.slay([pid], str(action))
        self._settle(host, QUICK)
        return f"pid {pid}"

    def _impostor(self, host, action):
        """A stranger gets the pid of a dead worker before the master has heard of the death."""
        master, (slot, pid) = host.known["master_pid"], self._worker(host, action.what.split()[0], action.pick)
        with Stopped(master):
            host.slay([pid], str(action))
            ended(pid)
            stranger = self._stranger(pid)
            if action.what.endswith("master"):
                kill(master)
        self._settle(host, QUICK)
        return f"{slot}, pid {pid} {'was taken' if stranger else 'could not be taken'}"

    def _stranger(self, pid):
        for _ in range(TRIES):
            if Path(f"/proc/{pid}").exists():
                self.watch.pause(0.1)
                continue
            LAST_PID.write_text(str(pid - 1))
            canary = self.watch.another()
            if canary.process.pid == pid:
                return canary
            self.watch.dismiss(canary)
        return None


class Stopped:
    """A process that does nothing while the `with` lasts; afterwards it goes on, if it is still the same one."""

    def __init__(self, pid):
        self._pid, self._descriptor = pid, os.pidfd_open(pid)

    def __enter__(self):
        signal.pidfd_send_signal(self._descriptor, signal.SIGSTOP)
        until(lambda: stands_still(self._pid) or self._is_over(), pause=0.002)

    def __exit__(self, *_error):
        if not self._is_over():
            signal.pidfd_send_signal(self._descriptor, signal.SIGCONT)
        os.close(self._descriptor)

    def _is_over(self):
        return bool(select.select([self._descriptor], [], [], 0)[0])
