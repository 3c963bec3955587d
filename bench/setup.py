"""Make the environments of the benchmarks: one with most peers and this checkout, and one for each queue of messages.

The first goes to bench/.venv, or to the folder named by $BENCH_VENV; the others, whose requirements are at odds with
each other, into a folder `venvs` beside it: one for each file of bench/environments.
"""

import shutil
import subprocess
import sys
import venv
from pathlib import Path

from place import HERE, VENV, VENVS


def main() -> None:
    install(VENV, "-r", str(HERE / "requirements.txt"))
    install(VENV, "-e", f"{HERE.parent}[postgres]")
    print(f"ready: {VENV}")
    for file in sorted((HERE / "environments").glob("*.txt")):
        install(VENVS / file.stem, "-r", str(file))
        print(f"ready: {VENVS / file.stem}")
    if shutil.which("wrk") is None:
        sys.exit("throughput and balance need the program wrk as well: apt-get install wrk")


def install(folder: Path, *words: str) -> None:
    """Into the environment of this folder, which is made if it is not there."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *words], check=True)


if __name__ == "__main__":
    main()
