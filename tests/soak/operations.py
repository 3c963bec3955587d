"""What operators do: deploys good and bad, counts, configurations, looks."""

from ..cluster.cluster import alive
from .deaths import Stopped
from .host import BAD
from .ledger import Violation
from .load import ask
from .stage import COMMAND, QUICK, ROLLED, Stage


class Operations(Stage):
    """The verbs that are commands of bkd."""

    def _roll(self, host, action):
        group = action.what
        new = host.deploy(group)
        code = self._rolled(host, action, ["restart", group], codes=(0, 1) if action.meanwhile else (0,))
        if not code:
            host.went_live(group, new)
        else:
            host.withdraw(group)
        self._settle(host, ROLLED)
        host.prune()
        return f"version {new}, exit code {code}"

    def _bad_roll(self, host, action):
        group = "plain" if action.what.startswith("plain") else "web"
        host.deploy(group, BAD[action.what].replace("{seconds:.2f}", f"{action.seconds:.2f}"))
        host.on_trial = frozenset({group})
        self._rolled(host, action, ["restart", group], codes=(1,))
        host.withdraw(group)
        self._settle(host, ROLLED)
        host.on_trial = frozenset()
        host.prune()

    def _restart(self, host, action):
        if action.what == "hard":
            host.harmed.update([*host.workers("clock").values(), *host.workers("tool").values()])
            self._rolled(host, action, ["restart", "--hard", "clock", "tool"], codes=(0,))
            self._settle(host, ROLLED)
            return ""
        slot, pid = self._worker(host, "web", action.pick)
        self._rolled(host, action, ["restart", slot], codes=(0,))
        self._gone(host, pid, ROLLED, "a restarted worker")
        self._settle(host, ROLLED)
        return slot

    def _rollback(self, host, action):
        code = self._rolled(host, action, ["rollback", action.what], codes=(0, 1))
        if not code:
            host.live["web"] = self._known_version(host)
        host.withdraw("web")
        self._settle(host, ROLLED)
        return f"exit code {code}, version {host.live['web']}"

    def _known_version(self, host):
        """What answers, which has to be something that was live before."""
        version = ask(host.ports["web"], "/").split()[0]
        if version not in host.past:
            raise Violation(f"{host.name}: a rollback has led to {version}; live were {sorted(host.past)}", "web")
        return version

    def _upgrade(self, host, action):
        before = {name: host.workers(name) for name in host.counts}
        code = self._rolled(host, action, ["upgrade"], codes=(0,))
        self._settle(host, QUICK)
        if before != {name: host.workers(name) for name in host.counts}:
            raise Violation(f"{host.name}: an upgrade changed workers")
        return f"exit code {code}"

    def _scale(self, host, action):
        count = 1 + int(4 * action.pick)
        host.bkd("scale", f"{action.what}={count}", limit=COMMAND)
        host.counts[action.what] = count
        if action.meanwhile:
            self._interrupt(host, action)
        self._settle(host, ROLLED)
        return f"to {count}"

    def _reload(self, host, action):
        if action.what == "invalid":
            good = host.file.read_text()
            host.file.write_text(good.replace('kind = "web"', 'kind = "webb"'))
            host.bkd("reload", limit=COMMAND, codes=(2,))
            host.file.write_text(good)
        else:
            key, values = ("min_ready", ("1s", "900ms")) if action.what == "live" else ("ROUND", ("0", "1"))
            self._toggle(host, key, values)
            code = self._rolled(host, action, ["reload"], codes=(0, 1) if action.meanwhile else (0,))
            self._again(host, code)
            host.counts = dict(host.configured)
        self._settle(host, ROLLED)

    def _toggle(self, host, key, values):
        place = host.limits if key in host.limits else host.limits["env"]
        place[key] = values[1] if place[key] == values[0] else values[0]
        host.configure()

    def _again(self, host, code):
        """What was taken back because somebody died meanwhile is asked for once more."""
        if code:
            host.bkd("reload", limit=COMMAND)

    def _hold(self, host, action):
        slot, pid = self._worker(host, "web", action.pick)
        host.bkd("hold", slot)
        if action.pick < 0.5:
            host.slay([pid], str(action))
            self.watch.pause(2.0)
        else:
            with Stopped(pid):
                host.doom(pid, str(action))
                self.watch.pause(action.seconds)
            if not alive(pid):
                raise Violation(f"{host.name}: {slot} was held, and its stopped process was ended", slot)
        host.status()
        row = next(row for row in host.group("web")["workers"] if row["name"] == slot)
        if row["state"] != "held" or row["pid"] not in (None, pid):
            raise Violation(f"{host.name}: {slot} was held, and is {row['state']} with pid {row['pid']}", slot)
        host.bkd("unhold", slot)
        self._settle(host, QUICK)
        return f"{slot}, pid {pid}"

    def _ask(self, host, action):
        """What people type when they wonder."""
        slot = self._worker(host, "web", action.pick)[0]
        for words in ("status", f"why {slot}", "events --since 1m", f"dump {slot}", "logs -n 3", "why tool.1"):
            host.bkd(*words.split())
