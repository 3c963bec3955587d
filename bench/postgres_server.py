"""A PostgreSQL of the benchmark's own, with an empty database, on a free port of loopback; it waits for its disk."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import proc
from client import free_port
from place import HOST

USER = "bench"
SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "shared_buffers": "256MB",
    "max_connections": "200",
}
PATIENCE = 30.0


@contextmanager
def postgres_server() -> Iterator[str]:
    """The url of its database; RuntimeError when there is no such program or it does not answer. As root it runs as
    nobody, because PostgreSQL refuses root. Its folder is a new one of its own, for nobody to reach."""
    programs, port, someone = _programs(), free_port(), _someone()
    with tempfile.TemporaryDirectory(prefix="bench-postgres-") as folder:
        if someone:
            os.chown(folder, someone["user"], someone["group"])
        order = [str(programs / "initdb"), "-D", folder, "-U", USER, "--auth=trust", "--encoding=UTF8", "--locale=C"]
        subprocess.run([*order, "--no-sync"], check=True, capture_output=True, timeout=60, cwd="/", **someone)
        settings = [word for name, value in SETTINGS.items() for word in ("-c", f"{name}={value}")]
        with open(Path(folder) / "output", "ab") as output:
            argv = [str(programs / "postgres"), "-D", folder, "-p", str(port), *settings]
            server = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd="/", **someone)
        try:
            where = ["-h", HOST, "-p", str(port), "-U", USER]
            if not proc.wait_for(lambda: _succeeds([programs / "pg_isready", *where, "-q"]), PATIENCE, step=0.05):
                raise RuntimeError(f"PostgreSQL does not answer: {(Path(folder) / 'output').read_text()[-600:]}")
            subprocess.run([programs / "createdb", *where, "bench"], check=True, timeout=PATIENCE)
            yield f"postgresql://{USER}@{HOST}:{port}/bench"
        finally:
            server.send_signal(signal.SIGINT)  # without waiting for its clients
            server.wait(PATIENCE)


def _programs() -> Path:
    """The folder of the newest one that is installed."""
    on_path = shutil.which("initdb")
    found = [Path(os.path.realpath(on_path)).parent] if on_path else []
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name), reverse=True)
    if not found:
        raise RuntimeError("there is no PostgreSQL: apt-get install postgresql")
    return found[0]


def _someone() -> dict[str, Any]:
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _succeeds(argv: list[Any]) -> bool:
    return subprocess.run(argv, check=False, timeout=PATIENCE).returncode == 0
