"""The mark of a worker, as others see it in /proc."""

import subprocess
import sys

import pytest

PLACE = "0" * 16
MARK = "0123456789abcdef"
CODE = f"""
from bkd.workers.marker import mark
print(mark({MARK!r}))
print(*open("/proc/self/environ").read().split("\\0"))
"""


def environment_of_a_marked(environment):
    """What `mark` returned, and the environment that /proc shows of its process afterwards."""
    command = [sys.executable, "-c", CODE]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=True)
    marked, shown = ran.stdout.splitlines()
    return marked == "True", shown.split()


def test_the_mark_replaces_its_placeholder():
    """Only the placeholder changes: not a name that ends like it, nor what stands around it."""
    before = {"OLD_BKD_TREE": PLACE, "A": "1", "BKD_TREE": PLACE, "Z": "2"}
    marked, shown = environment_of_a_marked(before)
    after = {**before, "BKD_TREE": MARK}
    assert (marked, shown) == (True, [f"{name}={value}" for name, value in after.items()])


@pytest.mark.parametrize("environment", [{"A": "1"}, {"BKD_TREE": "short"}, {"OLD_BKD_TREE": PLACE}])
def test_without_a_placeholder_nothing_is_written(environment):
    """Nothing of another length, or of another name, is written over."""
    marked, shown = environment_of_a_marked(environment)
    assert (marked, shown) == (False, [f"{name}={value}" for name, value in environment.items()])
