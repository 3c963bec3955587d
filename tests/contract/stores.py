"""The stores that the contract is tested with."""

import tempfile
from pathlib import Path

from bkd.workers.store.memory import MemoryStore
from bkd.workers.store.opening import opened

STORES = ["memory", "sqlite", "postgres"]


def make_store(name, tmp_path):
    """A store with nothing in it, not opened yet; skips the test when there is no server for it."""
    if name == "memory":
        return MemoryStore()
    if name == "sqlite":
        return opened("sqlite:bkd.db", str(tmp_path))
    from ..services.postgres import emptied_url

    return opened(emptied_url(), str(tmp_path))


def quick_folder():
    """A folder in memory where there is one: for what is done thousands of times, and says nothing about disks."""
    shared = Path("/dev/shm")
    return tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None, prefix="bkd-store-")
