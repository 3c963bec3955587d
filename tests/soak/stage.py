"""What everything that is done to a host has in common: whom it befalls, waiting, what meanwhile dies."""

import time

from ..cluster.cluster import alive
from .ledger import Violation

QUICK, CHARGED, ROLLED = 30.0, 75.0, 45.0
COMMAND = 150.0
SEVERAL = 3
MEANWHILE = 3.0


class Stage:
    """Base of those who act; `server` is the bus's, if there is one. All of them raise Violation."""

    def __init__(self, hosts, watch, server):
        self.hosts, self.watch, self.server = {host.name: host for host in hosts}, watch, server

    def _settle(self, host, limit):
        return self.watch.settled(host, limit)

    def _worker(self, host, group, pick):
        """Slot and pid of one of those that run."""
        running = sorted(host.workers(group).items())
        if not running:
            raise Violation(f"{host.name}: {group} has no worker", group)
        return running[int(pick * len(running))]

    def _victims(self, host, action):
        if action.what == "all workers":
            return [pid for name in host.counts for pid in host.workers(name).values()]
        if action.what == "several":
            everybody = [host.known["master_pid"], host.zygote("web"), host.zygote("plain")]
            everybody += [pid for name in host.counts for pid in host.workers(name).values()]
            first = int(action.pick * len(everybody))
            return [pid for pid in (everybody * 2)[first : first + SEVERAL] if pid]
        group, _, helper = action.what.partition(" ")
        pids = [host.zygote(group) if helper else self._worker(host, group, action.pick)[1]]
        return [pid for pid in pids if pid]

    def _gone(self, host, pid, limit, what):
        deadline = time.monotonic() + limit
        while alive(pid):
            if time.monotonic() > deadline:
                raise Violation(f"{host.name}: {what}, pid {pid}, is still there after {limit:g} s", "web")
            self.watch.pause(0.2)

    def _rolled(self, host, action, words, *, codes):
        """A command to its end, while somebody dies."""
        running = host.begun(*words)
        if action.meanwhile:
            self.watch.pause(MEANWHILE * action.pick)
            self._interrupt(host, action)
        self._wait(running, COMMAND)
        return host.finished(running, limit=COMMAND, codes=codes).returncode

    def _interrupt(self, host, action):
        if action.meanwhile == "bus":
            self._bus_down(1.0)
            return
        if host.status(must=False) is None:
            return
        group = action.what.split()[0] if action.what.split()[0] in host.counts else "web"
        if action.meanwhile == "master":
            host.slay([host.known["master_pid"]], "")
        elif action.meanwhile == "worker":
            host.slay([pid for _, pid in [*host.workers(group).items()][-1:]], str(action))
        elif helpers := host.group(group)["helpers"]:
            host.slay([helpers[int(action.pick * len(helpers))]["pid"]], str(action))

    def _wait(self, running, limit):
        """Until it has ended, or has had its time, with an eye on everything; its output is short."""
        deadline = time.monotonic() + limit
        while running.poll() is None and time.monotonic() < deadline:
            self.watch.pause(0.2)

    def _bus_down(self, seconds):
        self.server.kill()
        self.watch.pause(seconds)
        self.server.start()
