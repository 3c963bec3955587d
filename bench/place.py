"""Where things lie: the environment of the peers, the applications, the results. Loopback only."""

import os
import shutil
from pathlib import Path

HERE = Path(__file__).resolve().parent
APPS = HERE / "apps"
RESULTS = HERE / "results"
VENV = Path(os.environ.get("BENCH_VENV", HERE / ".venv")).absolute()
VENVS = VENV.parent / "venvs"
HOST = "127.0.0.1"


def program(name: str, environment: str = "") -> str:
    """Path of a program in the environment, or in the one that a peer has for itself."""
    return str((VENVS / environment if environment else VENV) / "bin" / name)


def pm2() -> str | None:
    """Path of pm2, from PATH or from a folder `node` beside the environment; None when it is not there."""
    beside = VENV.parent / "node" / "node_modules" / ".bin"
    return shutil.which("pm2", path=f"{os.environ.get('PATH', os.defpath)}:{beside}")
