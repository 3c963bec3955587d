"""Where things lie: the environment of the peers, the applications, the results. Loopback only."""

import os
from pathlib import Path

HERE = Path(__file__).resolve().parent
APPS = HERE / "apps"
RESULTS = HERE / "results"
VENV = Path(os.environ.get("BENCH_VENV", HERE / ".venv")).absolute()
HOST = "127.0.0.1"


def program(name: str) -> str:
    """Path of a program in the environment."""
    return str(VENV / "bin" / name)
