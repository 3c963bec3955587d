"""A dispatcher of the test's own, and executors that speak to it."""

import contextlib

import pytest

from .dispatcher import Dispatcher, Executor, Zygote


@pytest.fixture
def dispatcher(tmp_path):
    with contextlib.closing(Dispatcher(tmp_path / "messages.sock")) as dispatcher:
        yield dispatcher


@pytest.fixture(scope="module")
def zygote():
    with contextlib.closing(Zygote()) as zygote:
        yield zygote


@pytest.fixture
def start(zygote, dispatcher):
    """Starts an executor: itself, its connection, and what it said first."""
    executors = []

    def started(**options):
        executors.append(Executor(zygote, dispatcher.path, **options))
        connection, enlist = dispatcher.accept()
        executors[-1].ready()
        return executors[-1], connection, enlist

    yield started
    for executor in executors:
        executor.close()


@pytest.fixture
def shared(start):
    return start()[:2]


@pytest.fixture
def exclusive(start):
    return start(mode="exclusive")[:2]
