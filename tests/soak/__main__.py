"""python -m tests.soak --minutes 20 --seed 7: two hosts, visitors, and everything that can go wrong, for a while.

Exit code 0 when nothing was lost and nothing grew, 1 with what is known otherwise; the same seed deals the same cards.
"""

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from contextlib import ExitStack
from pathlib import Path

from ..cluster.cluster import kill, until
from ..services.servers import BINARIES, Server
from .chaos import Chaos, able
from .host import Host
from .invariants import Watch
from .ledger import Ledger, Violation
from .load import Load
from .schedule import Choice, actions

KEY = "the key that the hosts of a soak have in common"
PATHS = ("/", "/", "/", "/slow?seconds=0.2", "/stream")
PLAIN = ("/", "/", "/?seconds=0.1")
DRAINED, GONE = 60.0, 10.0
LAST_EVENTS = 60


class Soak:
    """One run."""

    def __init__(self, given):
        self.given, self.ledger = given, Ledger()
        self.folder = Path(given.folder or tempfile.mkdtemp(prefix="bkd-soak-"))
        self.folder.mkdir(exist_ok=True)
        self.server = self._bus()
        self.hosts = [Host(self.folder / name, name, self._letters(), self.ledger) for name in self._names()]
        self.done = []

    def _names(self):
        return ("h1", "h2") if self.server else ("h1",)

    def _bus(self):
        binary = next(filter(None, BINARIES.values()), None)
        if binary is None or self.given.alone:
            return None
        folder = self.folder / "bus"
        folder.mkdir()
        return Server(binary, folder).start()

    def _letters(self):
        if self.server is None:
            return {}
        secret = self.folder / "secret"
        secret.write_text(KEY + "\n")
        secret.chmod(0o600)
        return {"url": self.server.url(), "secret_file": str(secret)}

    def run(self):
        """The exit code."""
        self.say(f"seed {self.given.seed}, {self.given.minutes:g} minutes, in {self.folder}")
        try:
            with ExitStack() as stack:
                stack.callback(self._close)
                self._play(stack)
        except (Violation, AssertionError) as error:
            self.say(f"FAILED: {error}")
            return 1
        except Exception:  # noqa: BLE001 - whatever it is, the clusters are ended and the seed is told
            self.say(f"FAILED: {traceback.format_exc()}")
            return 1
        shutil.rmtree(self.folder)
        return 0

    def _play(self, stack):
        disk = [host.mount() for host in self.hosts]
        abilities = able(bus=self.server is not None, disk=all(disk))
        self.say(f"with {', '.join(sorted(abilities)) or 'nothing special'}")
        for host in self.hosts:
            host.start()
        watch = Watch(self.hosts, self.ledger, self.folder)
        stack.callback(watch.close)
        chaos = Chaos(self.hosts, watch, self.server)
        try:
            with Load(self.ledger, self._services(), seed=self.given.seed) as load:
                self._befall(chaos, watch, abilities)
                watch.pause(5.0)
                self._summary(watch, load)
            self._without_keeper(self.hosts[0])
            for host in self.hosts:
                self._stopped(host)
            watch.look()
        except AssertionError as error:
            self._evidence(error)
            raise

    def _services(self):
        services = {host.ports["web"]: (PATHS, 4 if host.name == "h1" else 2) for host in self.hosts}
        return services | {self.hosts[0].ports["plain"]: (PLAIN, 2)}

    def _befall(self, chaos, watch, abilities):
        for host in self.hosts:
            watch.settled(host, 60.0)
        over = time.monotonic() + 60.0 * self.given.minutes
        choice = Choice(abilities, _words(self.given.only), _words(self.given.without))
        for action in actions(self.given.seed, choice):
            if time.monotonic() > over:
                return
            began = time.monotonic()
            self.done.append(f"{watch.age:7.1f} s  {action}")
            said = chaos.do(action)
            self.say(f"{self.done[-1]}: {said} [{time.monotonic() - began:.1f} s]")

    def _summary(self, watch, load):
        for host in self.hosts:
            watch.journal(host)
            self.say(f"{host.name}: slowest answer to an operator {host.slowest[1]:.2f} s ({host.slowest[0]})")
        if not load.visiting:
            raise Violation("a visitor has given up: see above")
        lines, faults = watch.growth()
        slow = sorted(load.slow, key=lambda row: -row[1])[:1]
        self.say(f"{len(self.done)} actions, {load.served} requests served, 0 lost, {self.ledger.explained} explained")
        self.say(f"{len(load.slow)} answers took more than a second, the longest {slow and round(slow[0][1], 1)} s")
        self.say(f"run_dir at most {watch.largest >> 10} KB")
        for line in lines:
            self.say(line)
        if faults:
            raise Violation("; ".join(faults))

    def _without_keeper(self, host):
        """The end of the keeper is the end of the cluster, by design, and the next one starts on what is left."""
        self.say(f"{host.name}: the keeper is killed")
        kill(host.known["keeper_pid"])
        host.process.wait(DRAINED)
        until(lambda: not host.processes(), DRAINED)
        host.start()

    def _stopped(self, host):
        result = host.bkd("stop", limit=DRAINED, codes=(0, 3))
        host.process.wait(DRAINED)
        deadline = time.monotonic() + GONE
        while left := host.leftovers():
            if time.monotonic() > deadline:
                raise Violation(f"{host.name}: the cluster was stopped, and this is left: {left}")
            time.sleep(0.1)
        self.say(f"{host.name}: stopped with {result.returncode}; nothing is left")

    # -- when it fails

    def _evidence(self, error):
        self.say(f"at {time.strftime('%H:%M:%S')}, seed {self.given.seed}: {error}")
        self.say("the last actions:\n" + "\n".join(self.done[-4:]))
        for host in self.hosts:
            self.say(f"--- {host.name}: {sorted(host.processes().items())}")
            for words in (["status"], ["events", "--since", "90s"], *self._whys(error, host)):
                self._tell(host, words)
            self.say(f"--- {host.name}: bkd start has printed\n{host.said()}")
            host.keep()
        self.say(f"again with: make soak MINUTES={self.given.minutes:g} SEED={self.given.seed}; files: {self.folder}")

    def _whys(self, error, host):
        name = getattr(error, "slot", "")
        rows = [row["name"] for group in host.known.get("groups", []) for row in group["workers"]]
        return [["why", row] for row in rows if row == name or row.startswith(f"{name}.")]

    def _tell(self, host, words):
        try:
            result = host.bkd(*words, limit=20.0, codes=None)
        except AssertionError as error:
            self.say(f"--- {error}")
            return
        text = "\n".join((result.stdout + result.stderr).splitlines()[-LAST_EVENTS:])
        self.say(f"--- {host.name}: bkd {' '.join(words)}: {result.returncode}\n{text}")

    def _close(self):
        for host in self.hosts:
            host.close()
        if self.server is not None:
            self.server.kill()

    def say(self, text):
        """A line for whoever watches."""
        print(text, flush=True)


def _words(text):
    return tuple(word.strip() for word in text.split(",") if word.strip())


def main():
    """Run it as the command line says; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--only", default="", help="these actions alone: kill,roll web")
    parser.add_argument("--without", default="", help="not these: spoil,kill master")
    parser.add_argument("--alone", action="store_true", help="one host and no bus")
    parser.add_argument("--folder", default="", help="a new folder to work in (default: one below the temporary ones)")
    given = parser.parse_args()
    given.seed = random.randrange(1_000_000) if given.seed is None else given.seed
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    return Soak(given).run()


if __name__ == "__main__":
    sys.exit(main())
