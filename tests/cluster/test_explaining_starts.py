"""Why a worker did not start, or did not last: imports, startups, programs and functions, as `bkd why` tells them."""

import pytest

from .clients import deploy
from .cluster import Cluster, free_port, until
from .witness import is_whole, reports, tells_place, why

IMPORT = "import no_such_module_anywhere\n"
SYNTAX = "PRICES = [1, 2\nVAT = 19\n"
SLOW = "import time\n\n\ndef wait():\n    time.sleep(600)\n\n\nwait()\n"
TRACEBACK = "Traceback (most recent call last)"


def web(app, **settings):
    return {"app": app, "bind": [f"127.0.0.1:{free_port()}"], "count": 1, "start_timeout": "20s"} | settings


GROUPS = {
    "absent": web("boot_absent:app"),
    "syntax": web("boot_syntax:app"),
    "startup": web("trouble:app", env={"TROUBLE": "startup"}),
    "slow": web("boot_slow:app", start_timeout="2s"),
    "alone": web("boot_slow:app", start_timeout="2s", preload=False),
    "program": {"command": ["sh", "-c", "echo the disk is on fire >&2; exit 7"], "restart": "always"},
    "function": {"target": "trouble:raises", "restart": "always"},
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A group for each fault, and one that is well."""
    sections = {"web": {"app": "versioned:app", "count": 1, "min_ready": "100ms"}, **GROUPS}
    cluster = Cluster(tmp_path_factory.mktemp("c"), sections)
    for name, code in (("boot_absent", IMPORT), ("boot_syntax", SYNTAX), ("boot_slow", SLOW)):
        (cluster.folder / f"{name}.py").write_text(code)
    try:
        yield cluster.start(ready=False)
    finally:
        cluster.close()


def told(cluster, name):
    """What is told of a group as soon as there is something, and the newest report."""
    until(cluster.answered)
    found = until(lambda: [one for one in reports(cluster, name) if is_whole(one)])
    return why(cluster, name), found[0]


def test_a_module_that_is_not_there(cluster):
    """An application that cannot be imported at the first start: the traceback first."""
    text, one = told(cluster, "absent")
    assert "ModuleNotFoundError: No module named 'no_such_module_anywhere'" in text.splitlines()[0]
    assert "boot_absent.py:1" in text or 'boot_absent.py", line 1' in text
    assert "import no_such_module_anywhere" in text
    assert (one["cause"], TRACEBACK in one["trace"]) == ("boot failure", True)
    assert TRACEBACK in text


def test_a_syntax_error(cluster):
    text, one = told(cluster, "syntax")
    assert "SyntaxError" in text.splitlines()[0]
    assert "PRICES = [1, 2" in text
    assert "boot_syntax.py" in text
    assert one["cause"] == "boot failure"


def test_a_startup_that_raises(cluster):
    """An exception in the lifespan is the worker's own: its slot, its traceback, its line."""
    text, one = told(cluster, "startup.1")
    assert "the price list is locked" in text
    assert tells_place(text, "startup"), text
    assert TRACEBACK in text
    assert (one["cause"], one["slot"]) == ("boot failure", "startup.1")
    assert "failed to start" in text.splitlines()[0]


@pytest.mark.parametrize("name", ["slow", "alone"])
def test_an_import_that_does_not_end(cluster, name):
    """Beyond `start_timeout`, in the loader of a group or in a worker of its own: where it hangs is told."""
    text, one = told(cluster, name)
    assert "not ready after" in text or "start_timeout" in text
    assert "boot_slow.py:5 " in text, text
    assert "time.sleep(600)" in text
    assert one["cause"] == "boot failure"


def test_a_program_that_exits(cluster):
    """A command's exit code, and what it said on stderr."""
    text, one = told(cluster, "program.1")
    assert "7" in text.splitlines()[0]
    assert "the disk is on fire" in text
    assert (one["code"], one["kind"], one["lines"]) == (7, "command", ["the disk is on fire"])
    assert "tried again" in one["decision"] or "again at once" in one["decision"]


def test_a_function_that_raises(cluster):
    text, one = told(cluster, "function.1")
    assert "ValueError: no such currency" in text
    assert tells_place(text, "raises"), text
    assert TRACEBACK in one["trace"]


def test_a_roll_onto_code_that_does_not_import(cluster):
    """What was served goes on; why the new release is not there is told under the group's name."""
    until(lambda: cluster.group("web")["ready"] == 1)
    assert why(cluster, "web.1").splitlines()[0].startswith("web.1 ")
    pids = cluster.pids("web")
    deploy(cluster, "bad", IMPORT.strip())
    assert cluster.bkd("restart", "web").returncode == 1
    text, one = told(cluster, "web")
    assert "No module named 'no_such_module_anywhere'" in text.splitlines()[0]
    assert 'version.py"' in text or "version.py:" in text
    assert (one["release"], one["cause"], cluster.pids("web")) == (2, "boot failure", pids)
