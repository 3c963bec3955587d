"""Make the environment of the benchmarks: a virtual environment with the peers and this checkout.

It goes to bench/.venv, or to the folder named by $BENCH_VENV.
"""

import shutil
import subprocess
import sys
import venv
from pathlib import Path

from place import HERE, VENV, program


def main() -> None:
    if not Path(program("python")).exists():
        venv.create(VENV, with_pip=True)
    pip = [program("python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "-r", str(HERE / "requirements.txt")], check=True)
    subprocess.run([*pip, "-e", str(HERE.parent)], check=True)
    print(f"ready: {VENV}")
    if shutil.which("wrk") is None:
        sys.exit("throughput and balance need the program wrk as well: apt-get install wrk")


if __name__ == "__main__":
    main()
