"""`bkd reload`: the file is read again, and only what has changed is touched."""

import contextlib
import signal
import threading

import pytest

from .clients import PAUSE, Load, deploy, fewest_serving, is_settled, refuses, releases, served
from .cluster import alive, ended, free_port, is_free, kill, until

WEB = {"app": "versioned:app", "min_ready": "300ms", "lame_duck": "2s", "term": "1s"}
API = WEB | {"bind": ["127.0.0.1:0"], "count": 1}


def pids(cluster):
    """The pids of all groups' slots."""
    return {group["name"]: [row["pid"] for row in group["workers"]] for group in cluster.status()["groups"]}


# -- what is touched


def test_one_changed_key(launch):
    """A setting that workers are born with rolls its group, under load without a loss, and no other one."""
    cluster = launch(web=WEB, api=API)
    before = pids(cluster)
    cluster.configure(web=WEB | {"env": {"COLOUR": "blue"}}, api=API)
    with Load(cluster) as load:
        result = cluster.bkd("reload")
        load.goes_on()
    after = pids(cluster)
    assert result.returncode == 0, result.stderr
    assert "workers.web.env.COLOUR" in result.stdout + result.stderr
    assert (after["api"], set(after["web"]) & set(before["web"])) == (before["api"], set())
    assert (cluster.get("/environment?COLOUR"), dict(load.lost)) == ("blue", {})
    assert [event["fact"] for event in cluster.events("config-reloaded")] == ["config-reloaded"]


def test_a_changed_count(launch):
    """More workers restart nobody, fewer neither; what `bkd scale` has changed becomes as it is written."""
    cluster = launch(web=WEB, api=API)
    before = pids(cluster)
    cluster.configure(web=WEB | {"count": 4}, api=API)
    assert cluster.bkd("reload").returncode == 0
    until(lambda: is_settled(cluster) and cluster.group("web")["ready"] == 4)
    assert (cluster.pids("web")[:2], cluster.pids("api")) == (before["web"], before["api"])
    assert cluster.bkd("scale", "web=3").returncode == 0
    cluster.configure(web=WEB, api=API)
    assert cluster.bkd("reload").returncode == 0
    until(lambda: pids(cluster) == before)
    assert cluster.bkd("scale", "web=3").returncode == 0
    assert cluster.bkd("reload").returncode == 0
    until(lambda: pids(cluster) == before)
    assert cluster.events("roll-started") == []


def test_an_unchanged_file(launch):
    """Nothing changes, however often it is read, and though the code on the disk is new."""
    cluster = launch(web=WEB)
    before = pids(cluster)
    deploy(cluster, 2)
    for _ in range(2):
        assert cluster.bkd("reload").returncode == 0
    assert (pids(cluster), served(cluster), cluster.events("roll-started")) == (before, {"1"}, [])


def test_a_dry_run(launch):
    """`--dry-run` says for each change what it would take, and does nothing."""
    cluster = launch(web=WEB, api=API)
    before = pids(cluster)
    cluster.configure(
        app={"name": "store"}, web=WEB | {"count": 3, "drain": "5s"}, api=API | {"env": {"TOKEN": "not to be shown"}}
    )
    result = cluster.bkd("reload", "--dry-run")
    assert result.returncode == 0, result.stderr
    classes = {words[1]: words[0] for line in result.stdout.splitlines() if len(words := line.split()) > 1}
    assert classes["workers.web.count"] == classes["workers.web.drain"] == "live"
    assert (classes["workers.api.env.TOKEN"], classes["app.name"]) == ("roll", "restart")
    assert "not to be shown" not in result.stdout + result.stderr
    assert (pids(cluster), cluster.status()["app"]) == (before, "shop")
    assert cluster.events("roll-started", "config-reloaded") == []


@pytest.mark.parametrize("fault", ["an unknown key", "no TOML"])
def test_a_file_that_is_wrong(launch, fault):
    """An invalid file is exit 2 with the fault, and changes nothing; once it is repaired it counts."""
    cluster = launch(web=WEB)
    before, good = pids(cluster), cluster.file.read_text()
    text, word = {"an unknown key": (good + "cuont = 3\n", "cuont"), "no TOML": (good + "[workers.\n", "line")}[fault]
    socket = str(cluster.run_dir / "control.sock")
    for arguments in (["--dry-run"], []):
        cluster.file.write_text(text)
        result = cluster.bkd("reload", "--socket", socket, *arguments)
        assert (result.returncode, result.stdout, word in result.stderr) == (2, "", True), result.stderr
        cluster.file.write_text(good)
        assert (pids(cluster), served(cluster)) == (before, {"1"})
    cluster.configure(web=WEB | {"count": 3})
    assert cluster.bkd("reload").returncode == 0
    until(lambda: cluster.group("web")["ready"] == 3)


def test_settings_that_count_at_once(launch):
    """`[ping]` and limits of a group hold for the workers that are there already."""
    cluster = launch(web=WEB | {"count": 1, "app": "shop:app"})
    old = cluster.worker("web.1")["pid"]
    cluster.configure(
        web=WEB | {"count": 1, "app": "shop:app", "term": "500ms"}, ping={"interval": "500ms", "kill": "2s"}
    )
    assert cluster.bkd("reload").returncode == 0
    assert cluster.worker("web.1")["pid"] == old
    with cluster.send("/block?600"):
        assert ended(old)
    assert [event["pid"] for event in cluster.events("worker-hung")] == [old]


def test_what_needs_a_new_start(launch):
    """A change that cannot be made while the cluster runs is told as such and left out, the others are made: exit 3."""
    cluster = launch(web=WEB)
    cluster.configure(app={"name": "store"}, web=WEB | {"count": 3})
    result = cluster.bkd("reload")
    assert result.returncode == 3
    assert "app.name" in result.stdout + result.stderr
    assert "bkd stop" in result.stdout + result.stderr
    assert cluster.status()["app"] == "shop"
    until(lambda: cluster.group("web")["ready"] == 3)


# -- groups that come and go


def test_a_new_group(launch):
    """It is started, the others are not touched; the command ends when it is ready."""
    cluster = launch(web=WEB)
    before, port = cluster.pids("web"), free_port()
    cluster.configure(web=WEB, api=API | {"bind": [f"127.0.0.1:{port}"]}, job={"target": "functions:plain"})
    result = cluster.bkd("reload")
    assert result.returncode == 0, result.stderr
    until(cluster.is_ready)
    assert cluster.get(port=port).startswith("1 ")
    assert (cluster.pids("web"), cluster.worker("job.1")["state"]) == (before, "ready")


def test_a_removed_group(launch):
    """Its workers finish their requests, its port is closed, its processes are gone, and nothing is left of it."""
    port = free_port()
    api = API | {"bind": [f"127.0.0.1:{port}"]}
    cluster = launch(web=WEB, api=api)
    before, old = cluster.pids("web"), cluster.pids("api")
    cluster.configure(web=WEB)
    result = cluster.bkd("reload")
    assert result.returncode == 0, result.stderr
    until(lambda: [group["name"] for group in cluster.status()["groups"]] == ["web"])
    assert all(ended(pid) for pid in old)
    until(lambda: is_free(port))
    assert (cluster.pids("web"), served(cluster)) == (before, {"1"})
    assert cluster.bkd("restart", "api").returncode == 2
    cluster.configure(web=WEB, api=api)
    assert cluster.bkd("reload").returncode == 0
    until(cluster.is_ready)
    assert cluster.get(port=port).startswith("1 ")


# -- addresses


class Follower(threading.Thread):
    """A client that knows two ports and prefers the second: how often neither of them let it in."""

    def __init__(self, old, new):
        super().__init__(name="follower")
        self._ports = (new, old, new)
        self._over = threading.Event()
        self.tries, self.refused = 0, 0

    def run(self):
        while not self._over.wait(PAUSE):
            self.refused += all(map(refuses, self._ports))
            self.tries += 1

    @contextlib.contextmanager
    def following(self):
        """While this lasts it tries."""
        self.start()
        try:
            until(lambda: self.tries)
            yield self
            until(lambda before=self.tries: self.tries > before + 1)
        finally:
            self._over.set()
            self.join()


def test_another_address(launch):
    """A changed `bind` rolls the group: the new port is open before the old one is closed, and that is closed at the
    end."""
    cluster = launch(web=WEB)
    port = free_port()
    cluster.configure(web=WEB | {"bind": [f"127.0.0.1:{port}"]})
    with Follower(cluster.port, port).following() as follower:
        result = cluster.bkd("reload")
    assert result.returncode == 0, result.stderr
    assert (follower.refused, refuses(cluster.port), refuses(port)) == (0, True, False)
    assert cluster.get(port=port).startswith("1 ")
    assert cluster.group("web")["bind"] == [f"127.0.0.1:{port}"]


def test_one_more_address(launch):
    """An address that stays is never closed."""
    cluster = launch(web=WEB)
    port = free_port()
    cluster.configure(web=WEB | {"bind": [f"127.0.0.1:{cluster.port}", f"127.0.0.1:{port}"]})
    with Load(cluster) as load:
        assert cluster.bkd("reload").returncode == 0
        load.goes_on()
    assert dict(load.lost) == {}
    assert (cluster.get(port=port).split()[0], served(cluster)) == ("1", {"1"})


def test_an_address_that_is_taken(launch):
    """A port that somebody else has is an error in one line that names it, and the old one is served."""
    cluster = launch(web=WEB, api=API)
    before = pids(cluster)
    other = launch(web=WEB)
    cluster.configure(web=WEB | {"bind": [f"127.0.0.1:{other.port}"]}, api=API)
    result = cluster.bkd("reload")
    assert result.returncode == 1
    assert str(other.port) in result.stderr
    until(lambda: is_settled(cluster))
    assert (pids(cluster), served(cluster)) == (before, {"1"})


# -- rolls that fail, and other ways to ask


def test_code_that_is_broken(launch):
    """A reload whose roll fails is exit 1, and the old code serves; once it is repaired another one brings it live."""
    cluster = launch(web=WEB)
    before = pids(cluster)
    cluster.configure(web=WEB | {"app": "broken:app"})
    result = cluster.bkd("reload")
    assert (result.returncode, pids(cluster), served(cluster)) == (1, before, {"1"})
    assert "no_such_module_anywhere" in result.stderr.splitlines()[-1]
    (cluster.folder / "broken.py").write_text("from versioned import app\n")
    assert cluster.bkd("reload").returncode == 0
    assert (len(cluster.events("roll-done")), set(pids(cluster)["web"]) & set(before["web"])) == (1, set())


def test_a_signal_to_the_keeper(launch):
    """SIGHUP, which is what `systemctl reload` sends, is the same; a file that is wrong is told in the log only."""
    cluster = launch(web=WEB, api=API)
    before = pids(cluster)
    cluster.configure(web=WEB | {"env": {"COLOUR": "green"}}, api=API)
    kill(cluster.process.pid, signal.SIGHUP)
    until(lambda: is_settled(cluster) and releases(cluster) == [2, 2])
    assert (cluster.get("/environment?COLOUR"), cluster.pids("api")) == ("green", before["api"])
    before, file = pids(cluster), cluster.file.read_text()
    cluster.file.write_text("[workers.web]\nkidn = 'web'\n")
    kill(cluster.process.pid, signal.SIGHUP)
    until(lambda: "kidn" in cluster.said() + logged(cluster))
    cluster.file.write_text(file)
    assert (pids(cluster), alive(cluster.process.pid)) == (before, True)


def logged(cluster):
    """What the master has written into its own log."""
    path = cluster.run_dir / "log" / "bkd.log"
    return path.read_text(errors="replace") if path.exists() else ""


def test_workers_are_told(launch):
    """A handler for `config:init` runs in every worker after a reload, with the names of what has changed."""
    cluster = launch(web=WEB | {"app": "configured:app"})
    before = pids(cluster)
    cluster.configure(web=WEB | {"app": "configured:app", "drain": "5s"})
    assert cluster.bkd("reload").returncode == 0
    for slot in ("web.1", "web.2"):
        until(lambda slot=slot: "changed workers.web.drain" in cluster.log(slot).splitlines())
    assert pids(cluster) == before


# -- what was rejected, renamed, or came late

PICKY = "import os\nif os.environ.get('BAD'):\n    raise RuntimeError('BAD is set')\nfrom versioned import app\n"


@pytest.fixture
def picky(launch):
    """A cluster whose application does not load with BAD set."""

    def start(**more):
        cluster = launch(web=WEB | {"app": "versioned:app", "count": 1}, **more)
        (cluster.folder / "picky.py").write_text(PICKY)
        return cluster

    return start


def test_a_rejected_setting_is_gone_with_the_file(picky):
    """A reload that was taken back leaves nothing behind: what is in the file counts, for restarts as well."""
    cluster = picky()
    web = WEB | {"app": "picky:app", "count": 1}
    cluster.configure(web=web)
    assert cluster.bkd("reload").returncode == 0
    cluster.configure(web=web | {"env": {"BAD": "1"}})
    rejected = cluster.bkd("reload")
    assert (rejected.returncode, "BAD is set" in rejected.stderr) == (1, True)
    again = cluster.bkd("reload")
    assert (again.returncode, "BAD is set" in again.stderr) == (1, True)
    cluster.configure(web=web)
    assert cluster.bkd("reload").returncode == 0
    assert cluster.bkd("restart", "web").returncode == 0


def test_a_folder_that_was_rejected_is_tried_again(picky):
    """Neither a folder nor an interpreter is forgotten because its first try failed."""
    cluster = picky()
    other = cluster.folder / "other"
    other.mkdir()
    web = WEB | {"count": 1, "cwd": "other"}
    cluster.configure(web=web)
    assert cluster.bkd("reload").returncode == 1
    for name in ("versioned.py", "version.py"):
        (other / name).write_text((cluster.folder / name).read_text())
    assert cluster.bkd("reload").returncode == 0
    assert cluster.worker("web.1")["release"] == 3


def test_status_shows_the_addresses_that_are_served(picky):
    """After a move to another address that failed, the old one is served, and shown."""
    cluster = picky()
    web = WEB | {"app": "picky:app", "count": 1, "env": {"BAD": "1"}, "bind": [f"127.0.0.1:{free_port()}"]}
    before = cluster.group("web")["bind"]
    cluster.configure(web=web)
    assert cluster.bkd("reload").returncode == 1
    assert (cluster.group("web")["bind"], bool(cluster.get())) == (before, True)


def test_a_renamed_group_is_served_by_the_old_one_until_the_new_one_can(picky):
    """The address never goes unanswered; when the new group does not come up, the old one stays."""
    cluster = picky()
    before, begun = cluster.pids("web"), len(cluster.events())
    cluster.configure(site=WEB | {"app": "picky:app", "env": {"BAD": "1"}})
    with Load(cluster) as load:
        bad = cluster.bkd("reload")
        load.goes_on()
        cluster.configure(site=WEB | {"app": "picky:app"})
        good = cluster.bkd("reload")
        load.goes_on()
    assert (bad.returncode, "web stays" in bad.stderr) == (3, True), bad.stderr
    assert good.returncode == 0, good.stderr
    assert (dict(load.lost), fewest_serving(before, cluster.events()[begun:])) == ({}, 1)
    assert [group["name"] for group in cluster.status()["groups"]] == ["site"]


def test_a_group_that_comes_and_fails_does_not_end_the_others(launch, picky):
    """With `exit_when = "failed"` the cluster ends when what it was started for has failed, not for a late guest."""
    app = {"exit_when": "failed"}
    cluster = picky(app=app)
    cluster.configure(app=app, web=WEB | {"count": 1}, api=API | {"app": "picky:app", "env": {"BAD": "1"}})
    result = cluster.bkd("reload")
    assert (result.returncode, "BAD is set" in result.stderr) == (3, True)
    assert cluster.get()
    assert cluster.status()["state"] == "running"
