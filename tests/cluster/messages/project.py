"""A project that runs messages, as its user sees it: the command line, what its handlers write, SQL that only reads."""

import contextlib
import json
import shutil
import sqlite3
from datetime import datetime
from pathlib import Path

import pytest

from bkd.ipc.errors import BkdError

from ..cluster import PATIENCE, Cluster, alive, until

HERE = Path(__file__).parent
JOBS = {"kind": "messages", "handlers": ["work"], "count": 2, "min_ready": "200ms", "drain": "10s", "term": "2s"}
ENDED = {"succeeded", "partial", "dead_letter", "cancelled"}
OFTEN = 0.005


class Project(Cluster):
    """A cluster whose handlers are those of `apps/work.py`; unless told otherwise one group, `jobs`, runs them."""

    def __init__(self, folder, sections=None):
        shutil.copytree(HERE / "apps", folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        super().__init__(folder, sections or {"jobs": JOBS})

    # -- commands

    def message(self, *words, code=0, **options):
        """`bkd message WORDS --json`: what it prints; the test fails when it exits with another code."""
        done = self.bkd("message", *map(str, words), "--json", **options)
        assert done.returncode == code, (words, done.returncode, done.stdout[-500:], done.stderr)
        return json.loads(done.stdout) if done.stdout else done.stderr

    def add(self, kind, *items, count=1, **options):
        """Numbers of new messages, one for each of these arguments; `bkd message add` without its interpreter."""
        told = self.asked("message:add", kind=kind, items=list(items), count=count, options=options)
        assert told["created"] == len(told["ids"]), told
        return told["ids"]

    def show(self, id):
        """What `bkd message show ID --json` prints."""
        return self.asked("message:show", selection={"ids": [str(id)]})

    def select(self, most=1000, **selection):
        """The messages of `bkd message list --json`."""
        return self.asked("message:list", selection=selection, most=most, after=0)["messages"]

    def tally(self, kind):
        """The numbers of one kind in `bkd message stats --json`, None while it is unknown."""
        return next((one for one in self.asked("message:stats")["kinds"] if one["kind"] == kind), None)

    def end(self, id, limit=PATIENCE):
        """How a message is shown once it has ended."""
        return until(lambda: (found := self._shown(id)) and found["state"] in ENDED and found, limit)

    def ends(self, *kinds, limit=2 * PATIENCE):
        """Wait until no message of these kinds is left to be run."""

        def over():
            with contextlib.suppress(BkdError):
                tallies = [self.tally(kind) for kind in kinds]
                return not any(one[state] for one in tallies if one for state in one_waits(one))
            return False

        until(over, limit, pause=0.05)

    def stands(self, id, state, limit=PATIENCE):
        """How a message is shown once it is in this state."""
        return until(lambda: (found := self._shown(id)) and found["state"] == state and found, limit)

    def _shown(self, id):
        """None while nobody answers."""
        with contextlib.suppress(BkdError, OSError):
            return self.show(id)

    # -- what its handlers do

    def runs(self, *ids, event="start", kind=None):
        """What handlers have written of these messages, or of all."""
        file = self.folder / "runs.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        told = [json.loads(line) for line in lines if line.endswith("}")]
        return [
            one
            for one in told
            if (not ids or one["id"] in ids) and one["event"] == event and (kind is None or one["kind"] == kind)
        ]

    def started(self, id, times=1, limit=PATIENCE):
        """The runs of a message once there are so many."""
        return until(lambda: len(found := self.runs(id)) >= times and found, limit, pause=OFTEN)

    def open(self, gate):
        """Let whoever waits at this gate go on."""
        (self.folder / gate).touch()

    # -- its processes

    @property
    def dispatcher(self):
        """Pid of the dispatcher."""
        return self.helper("dispatcher")

    def helper(self, role, group="jobs"):
        """Pid of a helper of the group; None while there is none."""
        rows = (self.answered() or {"groups": []})["groups"]
        found = [row["pid"] for one in rows if one["name"] == group for row in one["helpers"] if row["role"] == role]
        return found[0] if found else None

    @property
    def keeper(self):
        """Pid of the keeper."""
        return self.process.pid if self.process else self.status()["pid"]

    @property
    def master(self):
        """Pid of the master."""
        return self.status()["master_pid"]

    def everybody(self, group="jobs"):
        """Pids by what they are: keeper, master, dispatcher, zygote, executors; only those that live."""
        roles = {"keeper": [self.keeper], "master": [self.master], "executor": self.pids(group)}
        roles |= {role: [self.helper(role, group)] for role in ("dispatcher", "zygote")}
        return {role: [pid for pid in pids if pid and alive(pid)] for role, pids in roles.items()}

    # -- its store

    def query(self, statement, *values):
        """Rows of the file of messages, read."""
        with contextlib.closing(sqlite3.connect(f"file:{self.run_dir}/bkd.db?mode=ro", uri=True)) as base:
            base.row_factory = sqlite3.Row
            return [dict(row) for row in base.execute(statement, values)]

    def faults(self):
        """What `bkd store check` finds."""
        return self.asked("store:check")["faults"]


def one_waits(tally):
    """The states of a tally that are no ends."""
    return [state for state in ("queued", "running", "retry_scheduled", "waiting_remote", "blocked") if tally[state]]


def moment(text):
    """Seconds since 1970 of a time as `--json` prints it."""
    return datetime.fromisoformat(text).timestamp()


def most_at_once(cluster, ids):
    """How many of these ran at the same time at most; each of them has an end."""
    moves = [(one["at"], 1) for one in cluster.runs(*ids)] + [
        (one["at"], -1) for one in cluster.runs(*ids, event="end")
    ]
    most = now = 0
    for _, change in sorted(moves):
        now += change
        most = max(most, now)
    return most


def slowly(*values):
    """A case among the tests that take long."""
    return pytest.param(*values, marks=pytest.mark.slow)
