"""What a dispatcher works with: a store and a socket."""

from pathlib import Path

import pytest

from bkd.workers.store.opening import opened
from bkd.workers.store.protocol import Store


@pytest.fixture(params=["memory:", "sqlite:bkd.db"])
def store(request, tmp_path) -> Store:
    return opened(request.param, str(tmp_path))


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "m.sock"
