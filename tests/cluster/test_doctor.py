"""`bkd doctor` on this machine, and `bkd doctor fork-safety` of applications that leave this and that behind."""

import json
import os
import pwd
import signal
import subprocess
import sys
import time

import pytest

from bkd.supervisor.doctor.attempt import tried
from bkd.supervisor.doctor.finding import Finding

from .cluster import CLEAN_ENVIRONMENT

PATIENCE = 40.0
AS_USER = """
import os, pwd, sys
user = pwd.getpwnam(sys.argv[1])
from bkd.supervisor import commandline
from bkd.supervisor.doctor import examine
import a2wsgi, encodings.ascii, encodings.idna, httptools, uvicorn, uvloop
os.chdir("/")
os.setgroups([])
os.setgid(user.pw_gid)
os.setuid(user.pw_uid)
sys.exit(commandline.main(sys.argv[2:]))
"""


def test_the_machine(prepare):
    cluster = prepare(web={"app": "shop:app"}, ticker={"target": "functions:ticker"})
    result = cluster.bkd("doctor", "--json")
    found = json.loads(result.stdout)
    states = {one["name"]: one["state"] for one in found["findings"]}

    assert result.returncode == (0 if found["ok"] else 1)
    assert found["ok"] == ("missing" not in states.values())
    assert [states[name] for name in ("pidfd", "subreaper", "/proc", "stacks", "python", "web")] == ["ok"] * 6
    assert "2 groups, 3 workers" in next(one["found"] for one in found["findings"] if one["name"] == "configuration")
    assert not [one for one in found["findings"] if "could not be tried" in one["found"]]


def test_it_is_a_table_for_people(prepare):
    result = prepare(web={"app": "shop:app"}).bkd("doctor")
    lines = result.stdout.splitlines()

    assert lines[0] == "kernel"
    assert any(line.startswith("  ok  pidfd ") for line in lines)
    assert lines[-1].endswith(" missing")
    assert result.stderr == ""


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become somebody else")
def test_as_a_user_without_rights():
    command = [sys.executable, "-c", AS_USER, "nobody", "doctor", "--json"]
    result = subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE, env=CLEAN_ENVIRONMENT, check=False
    )
    found = {one["name"]: one for one in json.loads(result.stdout)["findings"]}

    assert (result.returncode, result.stderr) == (0, "")
    assert found["rights"]["found"].startswith(f"user {pwd.getpwnam('nobody').pw_uid}, capabilities: none")
    assert [found[name]["state"] for name in ("pidfd", "subreaper", "stacks")] == ["ok"] * 3
    assert not [one for one in found.values() if "could not be tried" in one["found"]]


def test_a_file_that_is_not_there(prepare):
    result = prepare(web={"app": "shop:app"}).bkd("doctor", "-c", "nothing.toml")

    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.endswith("nothing.toml: no such file\n")


def test_a_probe_may_do_what_it_wants():
    found = tried(
        {
            "answers": lambda: Finding("answers", "ok", "caf\udcff"),
            "raises": lambda: 1 / 0,
            "leaves": lambda: os._exit(3),
            "dies": lambda: os.kill(os.getpid(), signal.SIGKILL),
        },
        PATIENCE,
    )
    found += tried({"hangs": lambda: time.sleep(60)}, 0.2)

    assert [one.name for one in found] == ["answers", "raises", "leaves", "dies", "hangs"]
    assert found[0].found == "caf\\udcff"
    assert found[1].found == "could not be tried: ZeroDivisionError: division by zero"
    assert found[2].found.endswith("(exit code 3)")
    assert found[3].found.endswith("(SIGKILL)")
    assert found[4].found == "could not be tried: no answer within 200 ms"
    assert {one.state for one in found[1:]} == {"degraded"}


def test_an_application_that_may_be_forked(prepare):
    result = prepare(web={"app": "shop:app"}).bkd("doctor", "fork-safety", "shop:app", "--json")
    found = json.loads(result.stdout)

    assert result.returncode == 0, result.stdout
    assert (found["ok"], found["verdict"], found["reasons"]) == (True, "safe to fork", [])
    memory = found["memory"]
    assert 0 < memory["idle"]["private"] < memory["alone"]["rss"]
    assert memory["collected"] < memory["collected_loose"]


def test_an_application_that_may_not(prepare):
    cluster = prepare(web={"app": "unsafe:app"})
    result = cluster.bkd("doctor", "fork-safety", "web")
    said = result.stdout

    assert result.returncode == 1
    assert "watcher" in said and "started at unsafe.py:20, is at unsafe.py:14 in watch" in said
    assert "unsafe.py:18" in said and "eventpoll" in said and "write: unsafe.log, opened at unsafe.py:24" in said
    assert "sleep 60, started at unsafe.py:23" in said and "SIGUSR1" in said and "random.Random" in said
    assert said.splitlines()[-1].startswith("not safe: thread watcher, connection to 127.0.0.1:")
    assert said.splitlines()[-1].endswith('bkd will start workers by exec (preload = "auto")')
    assert cluster.processes() == []


def test_an_application_that_does_not_import(prepare):
    result = prepare(web={"app": "shop:app"}).bkd("doctor", "fork-safety", "broken:app")

    assert (result.returncode, result.stdout) == (1, "")
    lines = result.stderr.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1].startswith("bkd: broken:app cannot be imported: ModuleNotFoundError")


def test_an_import_that_hangs(prepare):
    cluster = prepare(web={"app": "hangs:app", "start_timeout": "4s"})
    (cluster.folder / "hangs.py").write_text("import time\n\n\ndef fetch():\n    time.sleep(600)\n\n\nfetch()\n")
    result = cluster.bkd("doctor", "fork-safety", "web", "--json")
    found = json.loads(result.stdout)

    assert (result.returncode, found["verdict"]) == (1, "failed")
    assert found["reasons"] == ["it took longer than 4.0 s, at hangs.py:5 in fetch"]
    assert found["trace"].splitlines() == ["  hangs.py:5 in fetch", "  hangs.py:8 in <module>"]
    assert cluster.processes() == []


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import os; os._exit(3)", "the process that imported it ended: exit code 3"),
        ("import ctypes; ctypes.string_at(0)", "the process that imported it ended: SIGSEGV, at dies.py:1 in <module>"),
    ],
)
def test_an_import_that_ends_the_process(prepare, code, reason):
    cluster = prepare(web={"app": "dies:app"})
    (cluster.folder / "dies.py").write_text(f"{code}\n")
    result = cluster.bkd("doctor", "fork-safety", "web", "--json")

    assert (result.returncode, json.loads(result.stdout)["reasons"]) == (1, [reason])


def test_a_fork_that_ends_the_child(prepare):
    cluster = prepare(web={"app": "hooked:app"})
    hook = "import os\nfrom shop import app as app\nos.register_at_fork(after_in_child=lambda: os._exit(4))\n"
    (cluster.folder / "hooked.py").write_text(hook)
    result = cluster.bkd("doctor", "fork-safety", "web", "--json")

    assert result.returncode == 1
    assert json.loads(result.stdout)["reasons"] == ["forking failed: a forked child did not live"]


@pytest.mark.parametrize(
    ("name", "words"),
    [("wbe", "no such group; did you mean web?"), ("cache", "its workers are never forked")],
)
def test_what_is_no_application(prepare, name, words):
    cluster = prepare(web={"app": "shop:app"}, cache={"command": ["sleep", "600"]})
    result = cluster.bkd("doctor", "fork-safety", name)

    assert (result.returncode, result.stdout) == (2, "")
    assert words in result.stderr
