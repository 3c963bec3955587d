"""Projects for tests that judge messages from outside."""

from contextlib import ExitStack, contextmanager

import pytest

from .project import Project


@contextmanager
def _running(folder, sections):
    project = Project(folder, sections)
    try:
        yield project
    finally:
        project.close()


@pytest.fixture
def project(tmp_path_factory):
    """Writes a project's folder, for `start`; it is ended with the test."""
    with ExitStack() as stack:
        yield lambda **sections: stack.enter_context(_running(tmp_path_factory.mktemp("m"), sections))


@pytest.fixture(scope="module")
def shared_project(tmp_path_factory):
    """The same for a project that all tests of a module use."""
    with ExitStack() as stack:
        yield lambda **sections: stack.enter_context(_running(tmp_path_factory.mktemp("m"), sections))
