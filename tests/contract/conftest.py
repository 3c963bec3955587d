"""The stores that one suite is run over."""

from pathlib import Path

import pytest

from .desk import Desk
from .stores import STORES, make_store, quick_folder


@pytest.fixture(params=STORES)
def store(request):
    with quick_folder() as folder:
        made = make_store(request.param, Path(folder))
        made.open()
        yield made
        assert made.check() == []
        made.close()


@pytest.fixture
def desk(store):
    return Desk(store)
