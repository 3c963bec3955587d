"""Servers that the tests start themselves."""

import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from .servers import BINARIES, Server, has_tls


@contextmanager
def running(flavour, *, tls=False):
    """A server of this flavour in a folder of its own, with a path short enough for a socket."""
    binary = BINARIES[flavour]
    if binary is None:
        pytest.skip(f"there is no server {flavour} here")
    folder = Path(tempfile.mkdtemp(prefix="bkd-bus-"))
    server = Server(binary, folder, tls=tls)
    try:
        yield server.start()
    finally:
        server.kill()
        shutil.rmtree(folder)


@contextmanager
def running_with_tls():
    """The first flavour that can do TLS."""
    able = [flavour for flavour, binary in BINARIES.items() if binary is not None and has_tls(binary)]
    if not able:
        pytest.skip("none of the servers here was built with TLS")
    with running(able[0], tls=True) as server:
        yield server


@pytest.fixture
def server():
    """A server that the test may kill."""
    with running(next((flavour for flavour, binary in BINARIES.items() if binary), "redis")) as server:
        yield server


@pytest.fixture
def server_with_tls():
    with running_with_tls() as server:
        yield server
