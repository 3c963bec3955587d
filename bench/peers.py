"""bkd and its peers: how each is started, asked for its status and ended.

Every peer serves the applications of `apps/` on one loopback port, from a fresh copy in a folder of its own.
"""

import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import proc
from client import answering, free_port
from place import APPS, HOST, pm2, program


@dataclass(frozen=True)
class Task:
    """What a peer is to run. `hang_limit`: seconds without a sign of life until a worker is replaced, 0 its default.

    `start_limit`: seconds within which a worker must be ready, 0 the default; only for peers that have such a limit.
    With `sleepers` there is no application: `workers` programs `sleep`, each with a log of its own.
    """

    workers: int = 1
    heavy: bool = False
    hang_limit: int = 0
    start_limit: int = 0
    sleepers: bool = False


class Peer:
    """Base of the adapters. `pause`: range of the seconds a worker is left alone before it is killed again."""

    app = "asgi_app:app"
    source = "asgi_app.py"
    pause = (1.2, 2.2)
    deploy_waits = False
    """Whether the operator's command ends only when the deploy has."""

    def __init__(self, task: Task, folder: Path) -> None:
        self.task, self.folder, self.port = task, folder, free_port()

    def command(self) -> list[str]:
        raise NotImplementedError

    def configure(self) -> None:
        """Write the files that the command needs."""

    def status_command(self) -> list[str]:
        raise NotImplementedError(f"{type(self).__name__} has no status command")

    def deploy_command(self) -> list[str]:
        """What an operator does after new code has been put there."""
        return ["kill", "-HUP", str(self.pid)]

    def rollback_command(self) -> list[str]:
        raise NotImplementedError(f"{type(self).__name__} has no rollback command")

    def parts(self) -> dict[str, set[int]]:
        """Pids of the parts its supervision has, where they are worth telling apart."""
        return {}

    def sleep_logs(self) -> Path:
        """Where the logs of sleepers lie, `*.log`."""
        return self.folder / "log"

    def start(self) -> None:
        self.configure()
        with open(self.folder / "output", "ab") as output:
            self.process = subprocess.Popen(
                self.command(),
                cwd=self.folder,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def environment(self) -> dict[str, str]:
        """Without the caller's settings of Python: PYTHONDONTWRITEBYTECODE alone would double an import's time."""
        unwanted = ("PYTHON", "WEB_CONCURRENCY", "BKD_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
        return {**kept, "BENCH_HEAVY": str(int(self.task.heavy))}

    def call(self, argv: list[str]) -> str:
        """What a command prints; RuntimeError with its complaint when it fails."""
        done = subprocess.run(
            argv, env=self.environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
        )
        if done.returncode:
            raise RuntimeError(f"{argv[0]} exits {done.returncode}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def stop(self) -> None:
        """End the peer and whatever it left behind."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        proc.end_everything(grace=8)
        self.process.wait(1)

    def answering(self) -> dict[int, float]:
        """Its workers by pid, with the monotonic time of their first answers; NoAnswerError when they are too few."""
        return answering(self.port, self.task.workers, lambda: self.process.poll() is None)

    @property
    def pid(self) -> int:
        return self.process.pid

    def last_words(self) -> str:
        """The end of what it printed, for the report of a failure."""
        return (self.folder / "output").read_text(errors="replace")[-600:]


class Gunicorn(Peer):
    worker_class = "uvicorn_worker.UvicornWorker"
    options: tuple[str, ...] = ()

    def command(self) -> list[str]:
        argv = [program("gunicorn"), "-w", str(self.task.workers), "-b", f"{HOST}:{self.port}", "-k", self.worker_class]
        argv += ["--control-socket", str(self.folder / "control"), *self.options]
        if limit := self.task.hang_limit or self.task.start_limit:
            argv += ["--timeout", str(limit)]
        return [*argv, self.app]

    def status_command(self) -> list[str]:
        return [program("gunicornc"), "-s", str(self.folder / "control"), "-c", "show workers"]


class GunicornPreload(Gunicorn):
    options = ("--preload",)


class GunicornSync(Gunicorn):
    app = "wsgi_app:app"
    worker_class = "sync"


class Uvicorn(Peer):
    def command(self) -> list[str]:
        limit = str(self.task.hang_limit or 5)
        if self.task.workers == 1:
            return [program("python"), "uvicorn_one.py", str(self.port), limit]
        argv = [program("uvicorn"), self.app, "--host", HOST, "--port", str(self.port), "--no-access-log"]
        return [*argv, "--workers", str(self.task.workers), "--timeout-worker-healthcheck", limit]


class Granian(Peer):
    """Respawning is off by default, and a second death within 5.5 s is taken for a crash loop that ends the server."""

    pause = (6.5, 7.5)

    def command(self) -> list[str]:
        argv = [program("granian"), "--interface", "asgi", "--loop", "uvloop", "--respawn-failed-workers"]
        return [*argv, "--host", HOST, "--port", str(self.port), "--workers", str(self.task.workers), self.app]


class Supervisord(Peer):
    deploy_waits = True

    def configure(self) -> None:
        self.sleep_logs().mkdir()
        (self.folder / "supervisord.conf").write_text(f"""
[supervisord]
nodaemon = true
logfile = {self.folder}/supervisord.log
pidfile = {self.folder}/supervisord.pid
minfds = 4096
[unix_http_server]
file = {self.folder}/control
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
[supervisorctl]
serverurl = unix://{self.folder}/control
{self.sleep_program() if self.task.sleepers else self.web_program()}
numprocs = {self.task.workers}
process_name = %(program_name)s_%(process_num)d
autorestart = true
redirect_stderr = true
""")

    def web_program(self) -> str:
        serve = f"command = {program('python')} serve_fd.py 0\nstdout_logfile = web_%(process_num)d.log"
        return f"[fcgi-program:web]\nsocket = tcp://{HOST}:{self.port}\n{serve}"

    def sleep_program(self) -> str:
        return f"[program:sleep]\ncommand = sleep 100000\nstdout_logfile = {self.sleep_logs()}/%(process_num)d.log"

    def command(self) -> list[str]:
        return [program("supervisord"), "-c", "supervisord.conf"]

    def status_command(self) -> list[str]:
        return self.control("status")

    def deploy_command(self) -> list[str]:
        return self.control("restart", "web:*")

    def control(self, *words: str) -> list[str]:
        return [program("supervisorctl"), "-c", str(self.folder / "supervisord.conf"), *words]


class Circus(Peer):
    """Looks at its processes every 5 s, so the pause before a kill goes through that period."""

    pause = (1.2, 6.2)
    deploy_waits = True

    def configure(self) -> None:
        self.sleep_logs().mkdir()
        watchers = self.sleep_watchers() if self.task.sleepers else self.web_watcher()
        (self.folder / "circus.ini").write_text(f"""
[circus]
endpoint = {self.endpoint}
pubsub_endpoint = ipc://{self.folder}/events
{watchers}
""")

    @property
    def endpoint(self) -> str:
        return f"ipc://{self.folder}/control"

    def web_watcher(self) -> str:
        return f"""
[watcher:web]
cmd = {program("python")} serve_fd.py $(circus.sockets.web)
use_sockets = True
copy_env = True
numprocesses = {self.task.workers}
[socket:web]
host = {HOST}
port = {self.port}
"""

    def sleep_watchers(self) -> str:
        """A log belongs to a watcher, so each sleeper is one."""
        return "".join(
            f"[watcher:sleep{number}]\ncmd = sleep 100000\nstdout_stream.class = FileStream\n"
            f"stdout_stream.filename = {self.sleep_logs()}/{number}.log\n"
            for number in range(self.task.workers)
        )

    def command(self) -> list[str]:
        return [program("circusd"), "circus.ini"]

    def status_command(self) -> list[str]:
        return self.control("status")

    def deploy_command(self) -> list[str]:
        return self.control("reload", "web", "--waiting")

    def control(self, *words: str) -> list[str]:
        return [program("circusctl"), "--endpoint", self.endpoint, "--timeout", "60", *words]


class Pm2(Peer):
    """Cluster mode, with the application for Node."""

    source = "node_app.js"
    deploy_waits = True

    def configure(self) -> None:
        web = {"name": "web", "script": self.source, "exec_mode": "cluster", "instances": self.task.workers}
        web |= {"out_file": str(self.folder / "web.log"), "error_file": str(self.folder / "web.log")}
        (self.folder / "ecosystem.config.js").write_text(f"module.exports = {json.dumps({'apps': [web]})}")

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "PM2_HOME": str(self.folder / "pm2"), "BENCH_PORT": str(self.port)}

    def command(self) -> list[str]:
        return self.control("start", "ecosystem.config.js", "--no-daemon")

    def status_command(self) -> list[str]:
        return self.control("jlist")

    def deploy_command(self) -> list[str]:
        return self.control("reload", "web")

    def control(self, *words: str) -> list[str]:
        return [pm2() or "pm2", *words]


class Bkd(Peer):
    extra = ""
    deploy_waits = True

    def configure(self) -> None:
        (self.folder / "bkd.toml").write_text(f"""
[app]
name = "bench"
run_dir = "run"
{self.ping()}
{self.sleep_group() if self.task.sleepers else self.web_group()}
count = {self.task.workers}
{self.extra}
""")

    def ping(self) -> str:
        limit = self.task.hang_limit
        return f'[ping]\ninterval = "{limit}s"\nkill = "{limit}s"\n' if limit else ""

    def web_group(self) -> str:
        limit = f'start_timeout = "{self.task.start_limit}s"\n' if self.task.start_limit else ""
        return f'[workers.web]\nkind = "web"\n{limit}app = "{self.app}"\nbind = ["{HOST}:{self.port}"]'

    def sleep_group(self) -> str:
        return '[log]\nmode = "files"\n[workers.sleep]\nkind = "command"\ncommand = ["sleep", "100000"]'

    def sleep_logs(self) -> Path:
        return self.folder / "run" / "log"

    def command(self) -> list[str]:
        return [program("bkd"), "start"]

    def status_command(self) -> list[str]:
        return self.control("status")

    def deploy_command(self) -> list[str]:
        return self.control("restart", "web")

    def rollback_command(self) -> list[str]:
        return self.control("rollback", "web")

    def control(self, *words: str) -> list[str]:
        return [program("bkd"), *words, "-c", str(self.folder / "bkd.toml")]

    def status(self) -> dict[str, Any]:
        return dict(json.loads(self.call([*self.status_command(), "--json"])))

    def parts(self) -> dict[str, set[int]]:
        status = self.status()
        helpers = [helper for group in status["groups"] for helper in group["helpers"]]
        return {
            "keeper + master": {status["keeper_pid"], status["master_pid"]},
            "zygotes": {helper["pid"] for helper in helpers if helper["role"] == "zygote" and helper["pid"]},
        }


class BkdWsgi(Bkd):
    app = "wsgi_app:app"


class BkdExec(Bkd):
    extra = "preload = false"


PEERS: dict[str, type[Peer]] = {
    "gunicorn": Gunicorn,
    "gunicorn-preload": GunicornPreload,
    "gunicorn-sync": GunicornSync,
    "uvicorn": Uvicorn,
    "uvicorn-again": Uvicorn,
    "granian": Granian,
    "supervisord": Supervisord,
    "circus": Circus,
    "pm2": Pm2,
    "bkd": Bkd,
    "bkd-wsgi": BkdWsgi,
    "bkd-exec": BkdExec,
}


@contextmanager
def running(name: str, task: Task) -> Iterator[Peer]:
    """The peer at work, and ended afterwards; an error carries the end of its output as a note."""
    with tempfile.TemporaryDirectory(prefix=f"bench-{name}-") as folder:
        shutil.copytree(APPS, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        peer = PEERS[name](task, Path(folder))
        peer.start()
        try:
            yield peer
        except Exception as error:
            error.add_note(peer.last_words())
            raise
        finally:
            peer.stop()
