"""Clusters for tests that judge bkd from outside."""

import time
from contextlib import ExitStack, contextmanager

import pytest

from .cluster import Cluster


@contextmanager
def _running(folder, sections):
    cluster = Cluster(folder, sections)
    try:
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
def prepare(tmp_path_factory):
    """Writes a cluster's folder: `prepare(web={"app": "shop:app"}, ping={"kill": "1s"})`. It is ended with the test."""
    with ExitStack() as stack:
        yield lambda **sections: stack.enter_context(_running(tmp_path_factory.mktemp("c"), sections))


@pytest.fixture
def launch(prepare):
    """The same, started and ready."""
    return lambda **sections: prepare(**sections).start()


@pytest.fixture(scope="module")
def share(tmp_path_factory):
    """As `launch`, for a cluster that all tests of a module use."""
    with ExitStack() as stack:
        yield lambda **sections: stack.enter_context(_running(tmp_path_factory.mktemp("c"), sections)).start()


@pytest.fixture
def watch():
    """Lets time pass where a test is about what does not happen in it, or what it costs."""
    return time.sleep
