"""What holds for all tests."""

import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

HERE = Path(__file__).parent
LONGEST_FIRST = ("test_packaging.py", "services", "simulation", "cluster", "contract", "test_architecture.py", "unit")

# the tests start thousands of interpreters: without bytecode each of them compiles all of bkd anew
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# how long an example takes says how busy the machine is, and nothing else
settings.register_profile("suite", max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("thorough", settings.get_profile("suite"), max_examples=400)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))


class Scheduling(LoadScopeScheduling):
    """Modules whose tests share something stay in one process; other clusters start wherever there is room."""

    def _split_scope(self, nodeid: str) -> str:
        module = nodeid.partition("::")[0]
        return module if _shares(module) else nodeid


@cache
def _shares(module: str) -> bool:
    return not module.startswith("tests/cluster/") or 'scope="module"' in (HERE.parent / module).read_text()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling | None:
    """For `--dist loadfile`."""
    if config.getoption("dist") != "loadfile":
        return None
    config.option.loadscopereorder = False  # by their number; here it is by their length
    return Scheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In several processes what takes longest begins first, so that none of them is left alone with it in the end."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=_place)


def _place(item: pytest.Item) -> tuple[int, bool]:
    module = item.path.relative_to(HERE.parent).as_posix()
    part = module.split("/")[1]
    return LONGEST_FIRST.index(part) if part in LONGEST_FIRST else len(LONGEST_FIRST), not _shares(module)
