"""What runs short, and what lies between hosts: memory, disk, the bus."""

import json
import time

from .host import LOG_BYTES, MOST_PRINTED
from .ledger import Violation
from .load import Connection, ask
from .stage import CHARGED, COMMAND, QUICK, Stage

BUS = 45.0
MOST_GROWN, STEP = 240, 20
FILLER = 1 << 20


class Scarcity(Stage):
    """The verbs about memory, logs, disks."""

    def _leak(self, host, action):
        connection, grown = Connection(host.ports["web"]), 0
        try:
            while grown < MOST_GROWN and not connection.is_over():
                pid, goes_on = self._fed(connection)
                grown = grown + STEP if goes_on else MOST_GROWN
                self.watch.pause(0.2)
        finally:
            connection.close()
        self._gone(host, pid, CHARGED, "a worker over max_memory")
        self._settle(host, CHARGED)
        return f"pid {pid}"

    def _fed(self, connection):
        body, goes_on = connection.get(f"/grow?megabytes={STEP}")
        return int(body.split()[1]), goes_on

    def _flood(self, host, action):
        kilobytes = int(MOST_PRINTED * action.pick) >> 10
        ask(host.ports["web"], f"/flood?kilobytes={kilobytes}")
        self._settle(host, QUICK)
        return f"{kilobytes} KB, logs are rotated at {LOG_BYTES >> 10} KB"

    def _full_disk(self, host, action):
        host.was_full = True
        filler = host.run_dir / "filler"
        try:
            fill(filler)
            host.slay([self._worker(host, "web", action.pick)[1]], str(action))
            self.watch.pause(action.seconds)
            if host.status()["state"] != "running":
                raise Violation(f"{host.name}: a full disk stopped it")
        finally:
            filler.unlink()
        self._settle(host, CHARGED)


class Fleet(Stage):
    """The verbs about the bus and several hosts."""

    def _bus(self, host, action):
        if action.what == "restart":
            self._bus_down(action.seconds)
        else:
            with self.server.admin() as client:
                client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
                client.execute_command("CLIENT", "KILL", "TYPE", "pubsub", "SKIPME", "yes")
        self._connected()

    def _connected(self):
        """Until every host is on the bus and hears of the others."""
        deadline = time.monotonic() + BUS
        while why := self._cut_off():
            if time.monotonic() > deadline:
                raise Violation(f"after {BUS:g} s {why}")
            self.watch.pause(0.5)
        for host in self.hosts.values():
            self._settle(host, QUICK)

    def _cut_off(self):
        for host in self.hosts.values():
            if not host.status()["bus"]["connected"]:
                return f"{host.name} is not on the bus"
            told = host.bkd("status", "--fleet", "--json", limit=30.0, codes=None).stdout
            seen = {row["host"] for row in json.loads(told)["hosts"] if row["answered"]} if told else set()
            if missing := self.hosts.keys() - seen:
                return f"{host.name} does not see {missing}"
        return ""

    def _fleet(self, host, action):
        if action.what == "scale":
            count = 1 + int(3 * action.pick)
            host.bkd("scale", f"web={count}", "--fleet", limit=COMMAND)
            for each in self.hosts.values():
                each.counts["web"] = count
        else:
            new = {each.name: each.deploy("web") for each in self.hosts.values()}
            codes = (0, 1, 3) if action.meanwhile else (0,)
            code = self._rolled(host, action, ["restart", "web", "--fleet"], codes=codes)
            for each in self.hosts.values():
                self._learn(each, new[each.name], code)
        self._connected()

    def _learn(self, host, new, code):
        """Which version a host has come to; without a fault it is the new one."""
        self._wait_for_rolls(host)
        served = ask(host.ports["web"], "/").split()[0]
        if served not in (new, host.live["web"]) or (code == 0 and served != new):
            raise Violation(f"{host.name} answers with {served} after exit code {code}, new is {new}", "web")
        host.went_live("web", served)
        host.withdraw("web")
        host.prune()

    def _wait_for_rolls(self, host):
        deadline = time.monotonic() + COMMAND
        while any(group["roll"] for group in host.status()["groups"]):
            if time.monotonic() > deadline:
                raise Violation(f"{host.name}: a roll does not end", "web")
            self.watch.pause(0.3)


def fill(path):
    """Leave no byte free on the disk of this path."""
    with path.open("wb", buffering=0) as file:
        for size in (FILLER, 4096, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue
