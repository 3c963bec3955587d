"""One pass of bkd's policy over many slots, inside one process. There is no peer for this."""

import json
import subprocess

from case import Case, Figures
from place import HERE, program


def measure(_name: str, *, slots: int = 1000, passes: int = 50) -> Figures:
    argv = [program("python"), str(HERE / "policy_pass.py"), str(slots), str(passes)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=300)
    if done.returncode:
        raise RuntimeError(done.stderr[-600:])
    return dict(json.loads(done.stdout))


CASE = Case(title="one policy pass over 1,000 slots", measure=measure, peers=("bkd",), rounds=3)
