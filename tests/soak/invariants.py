"""What has to hold all the time, looked at from outside: /proc, the command line, the files, the visitors."""

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from ..cluster.cluster import alive
from .growth import Sample, grown, typical
from .host import stands_still
from .ledger import Violation
from .load import LostError, ask

LOOK, GLANCE = 1.0, 0.4
JUDGED_AFTER = 3.0
ZOMBIE, SAMPLING = 4.0, 2.0
ASKED = 6
LOG_SLACK = 1.2
PEACEFUL = ("planned", "finished")
# says which signals it got; whoever signals what is not his, signals this sooner or later
CANARY = """
import signal, sys, time
for number in set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}:
    signal.signal(number, lambda number, frame: print("signal", number, flush=True))
print("sings", flush=True)
while True:
    time.sleep(3600)
"""


class Canary:
    """A process of the same session and user that is nobody's business."""

    def __init__(self, folder, name):
        self.log = folder / f"{name}.txt"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen([sys.executable, "-S", "-c", CANARY], stdout=log, stderr=log, cwd="/")

    def look(self):
        """Raises Violation when somebody has touched it."""
        said = self.log.read_text().replace("sings", "").strip()
        if self.process.poll() is not None or said or not alive(self.process.pid):
            raise Violation(f"a process that is not the cluster's, pid {self.process.pid}, got {said or 'a signal'}")

    def close(self):
        self.process.kill()
        self.process.wait(15)


class Watch:
    """Looks at everything, and raises Violation. Called in the main thread whenever that waits."""

    def __init__(self, hosts, ledger, folder):
        self.hosts, self.ledger, self.folder = hosts, ledger, folder
        self.canaries = [Canary(folder, "canary")]
        self.samples = {}
        self.began = self._sampled = time.monotonic()
        self.largest = 0
        self._zombies = {}

    @property
    def age(self):
        return time.monotonic() - self.began

    def pause(self, seconds):
        """Let time pass, with an eye on everything."""
        over = time.monotonic() + seconds
        while (left := over - time.monotonic()) > 0:
            time.sleep(min(left, LOOK))
            self.look()

    def look(self):
        """What can be seen without asking anybody."""
        for canary in self.canaries:
            canary.look()
        for host in self.hosts:
            host.read_notes()
            self._no_zombies(host)
        if losses := self.ledger.losses(time.monotonic() - JUDGED_AFTER):
            raise Violation(f"{len(losses)} requests lost without an excuse:\n" + "\n".join(map(str, losses[:20])))
        if time.monotonic() - self._sampled > SAMPLING:
            self._sampled = time.monotonic()
            self._sample()

    def _no_zombies(self, host):
        """The dead are buried in time, whoever's children they were."""
        keeper = host.process.pid
        dead = [] if stands_still(keeper) else [pid for pid in children(keeper) if not alive(pid)]
        seen = {(host.name, pid): self._zombies.get((host.name, pid), time.monotonic()) for pid in dead}
        others = {key: since for key, since in self._zombies.items() if key[0] != host.name}
        self._zombies = others | seen
        if any(time.monotonic() - since > ZOMBIE for since in seen.values()):
            raise Violation(f"{host.name}: zombies for more than {ZOMBIE:g} s: {dead}")

    # -- after something has happened

    def settled(self, host, limit, *, serving=True):
        """Wait until the host has again what is wanted, and nothing else; `limit` in seconds."""
        deadline = time.monotonic() + limit
        while why := self._unsettled(host):
            if time.monotonic() > deadline:
                raise Violation(f"{host.name} is not as wanted after {limit:g} s: {why}", why.split()[0])
            time.sleep(GLANCE)
            self.look()
        if serving:
            self._answers(host)
        self._files(host)
        self._deaths(host)

    def _unsettled(self, host):
        """Why things are not as they are wanted, "" when they are."""
        status = host.status(must=False)
        if status is None:
            return "nobody answers"
        for group in status["groups"]:
            if group["count"] != host.counts[group["name"]]:
                raise Violation(f"{host.name}: {group['name']} has count {group['count']}, not {host.counts}")
            if group["roll"] is not None:
                return f"{group['name']} rolls: {group['roll']}"
            if group["ready"] != group["count"]:
                states = [(row["name"], row["state"], row["next_try"]) for row in group["workers"]]
                return f"{group['name']} has {group['ready']} of {group['count']} ready: {states}"
            if len(group["workers"]) != group["count"]:
                return f"{group['name']} has slots that are not wanted any more"
        return self._company(host, status)

    def _company(self, host, status):
        """Who is there and should not be, or should be and is not."""
        rows = [row for group in status["groups"] for row in group["workers"]]
        beside = [row["name"] for row in rows if row["beside"]]
        if beside:
            return f"{beside[0]} has another process beside it"
        helpers = [row["pid"] for group in status["groups"] for row in group["helpers"]]
        wanted = {status["keeper_pid"], status["master_pid"], *helpers, *(row["pid"] for row in rows)}
        there = host.processes()
        extra = {pid: title for pid, title in there.items() if pid not in wanted and "viewer" not in title}
        missing = wanted - there.keys() - {None}
        return f"processes too many: {extra}" if extra else f"missing: {missing}" if missing else ""

    def _answers(self, host):
        """Whoever comes now meets the version that is live."""
        for group in host.counts.keys() & host.ports.keys():
            try:
                versions = {ask(host.ports[group], "/").split()[0] for _ in range(ASKED)}
            except LostError as error:
                raise Violation(f"{host.name}: {group} does not answer: {error}", group) from error
            if versions != {host.live[group]}:
                raise Violation(f"{host.name}: {group} answers with {versions}, live is {host.live[group]}", group)

    def _files(self, host):
        """No log is longer than it may be."""
        sizes, whole = {}, 0
        for path in host.run_dir.rglob("*"):
            with contextlib.suppress(FileNotFoundError):
                size = path.lstat().st_size if path.is_file() else 0
                whole += size
                if path.parent.name == "log":
                    name = path.name.partition(".log")[0]
                    sizes[name] = sizes.get(name, 0) + size
        self.largest = max(self.largest, whole)
        most = host.log_limit * LOG_SLACK
        for name, size in sizes.items():
            if size > most:
                raise Violation(f"{host.name}: the log of {name} has {size} bytes, more than {most:.0f}")

    def _deaths(self, host):
        """Nobody has died, or was killed, but those to whom something was done."""
        lines = host.bkd("events", "--json", "--since", "5m").stdout.splitlines()
        told = [event for event in map(json.loads, lines) if event["mono"] > host.judged]
        host.judged = max((event["mono"] for event in told), default=host.judged)
        for event in told:
            died = event["fact"] == "worker-killed" or event.get("cause", "planned") not in PEACEFUL
            if died and event["pid"] not in host.harmed and event["slot"].partition(".")[0] not in host.on_trial:
                raise Violation(f"{host.name}: nobody has harmed {event['slot']}: {json.dumps(event)}", event["slot"])

    def journal(self, host):
        """Every line is a fact; in the files only a full disk may tear one."""
        told = host.bkd("events", "--json", limit=40.0).stdout.splitlines()
        files = [] if host.was_full else [path.read_text() for path in host.run_dir.glob("events.jsonl*")]
        for line in [*told, *(line for text in files for line in text.splitlines())]:
            try:
                json.loads(line)["fact"]
            except (ValueError, KeyError) as error:
                raise Violation(f"{host.name}: a line of the journal is no fact: {line[:300]!r}") from error

    # -- how large keepers and masters are

    def _sample(self):
        for host in self.hosts:
            for role in ("keeper", "master"):
                pid = host.known.get(f"{role}_pid", 0)
                with contextlib.suppress(OSError):
                    sample = Sample(self.age, *size_of(pid))
                    self.samples.setdefault((host.name, role), {}).setdefault(pid, []).append(sample)

    def growth(self):
        """Lines about how large they were in the second minute and in the last, and what is too large."""
        lines, faults = [], []
        for (name, role), lives in self.samples.items():
            every = [sample for life in lives.values() for sample in life]
            longest = max(lives.values(), key=len)
            spans = [("all", every, 60.0, self.age)]
            if len(lives) > 1:
                spans.append((f"the longest of {len(lives)} lives", longest, longest[0].at + 60.0, longest[-1].at))
            for what, samples, begin, end in spans:
                first, last = typical(samples, begin, begin + 60.0), typical(samples, end - 60.0, end)
                if first is None or last is None or end - begin < 120.0:
                    continue
                lines.append(f"{name} {role}, {what}: {_size(first)} -> {_size(last)}")
                lines.append(f"    MB minute by minute: {_by_minute(samples)}")
                if why := grown(first, last):
                    faults.append(f"{name}: the {role} has grown: {why}")
        return lines, faults

    # -- strangers

    def another(self):
        """One more canary."""
        self.canaries.append(Canary(self.folder, f"canary-{len(self.canaries)}"))
        return self.canaries[-1]

    def dismiss(self, canary):
        """It has not got the pid it was made for."""
        self.canaries.remove(canary)
        canary.close()

    def close(self):
        for canary in self.canaries:
            canary.close()


def _by_minute(samples):
    minutes = range(int(samples[0].at // 60), int(samples[-1].at // 60) + 1)
    found = [typical(samples, 60.0 * minute, 60.0 * minute + 60.0) for minute in minutes]
    return " ".join(f"{sample.rss / (1 << 20):.1f}" for sample in found if sample is not None)


def _size(sample):
    return f"{sample.rss >> 10} KB {sample.descriptors} fds {sample.threads} threads"


def size_of(pid):
    """Resident bytes, descriptors and threads of a process; raises OSError when it is gone."""
    resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return resident, len(os.listdir(f"/proc/{pid}/fd")), len(os.listdir(f"/proc/{pid}/task"))


def children(pid):
    """The children of a process."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
