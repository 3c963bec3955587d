"""The keeper lives through every order, and the master's end of the line keeps what it is not able to say to itself."""

import json
import os
import signal
import socket
import time

import pytest

from bkd.supervisor import keeperstate
from bkd.supervisor.keeper import Keeper
from bkd.supervisor.keeperlink import PACKET, KeeperError, KeeperLink
from bkd.supervisor.trial import Code, Trial

NOBODY = 1 << 30


@pytest.fixture
def keeper():
    """One that was never run."""
    made = Keeper({})
    yield made
    made.wakeup.close()
    for fd in (*made.kept.values(), *made.locks.held.values()):
        os.close(fd)


@pytest.fixture
def link():
    """The master's end, and the socket at the other one."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    made = KeeperLink(ours.detach())
    theirs.setblocking(False)
    with made.sock, theirs:
        yield made, theirs


@pytest.mark.parametrize(
    "order",
    [
        {"do": "birth", "birth": "x"},
        {"do": "birth", "pid": "many", "birth": 3},
        {"do": "nonsense"},
        {},
        {"do": "spawn", "argv": []},
        {"do": "bind", "name": "web", "family": "inet", "address": ["127.0.0.1", 99999], "backlog": 1},
        {"do": "lock", "path": "/no/such/folder/lock"},
    ],
)
def test_an_order_that_cannot_be_obeyed_is_answered(keeper, order):
    """Whatever is wrong with an order, its answer says so and nothing is raised."""
    keeper._obey({**order, "id": 7})
    (answer,) = keeper.untold
    assert (answer["event"], answer["re"]) == ("answer", 7)
    assert "error" in answer or order["do"] == "birth"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give a file away")
def test_a_socket_of_another_user_is_his_with_the_order_that_binds_it(keeper, tmp_path):
    """Nothing is left to be done by a master that may die before it hears that there is a socket."""
    path = tmp_path / "worker.65534.sock"
    address = {"family": "unix", "address": str(path), "backlog": 5, "mode": 0o600, "uid": 65534}
    keeper._obey({"do": "bind", "name": "worker:65534", **address})
    with keeper.listeners["worker:65534"]:
        assert (path.stat().st_uid, path.stat().st_mode & 0o777) == (65534, 0o600)


def test_a_birth_for_one_that_has_ended(keeper):
    """It is passed over: the master hears of the end anyway."""
    keeper._obey({"do": "birth", "pid": NOBODY, "birth": "{}", "id": 1})
    assert list(keeper.untold) == [{"event": "answer", "re": 1}]


def test_an_order_over_the_limit_is_not_sent(link):
    """The error has the order's name and its size; the keeper gets nothing of it."""
    sender, receiver = link
    with pytest.raises(KeeperError, match=f"spawn: .* over the limit of {PACKET}"):
        sender.tell("spawn", argv=["true"], env={"A": "ä" * 45_000})
    with pytest.raises(BlockingIOError):
        receiver.recv(1)
    sender.tell("up")
    assert receiver.recv(100) == b'{"do": "up"}'


def test_a_spawn_that_was_given_up(link):
    """An answer nobody waits for any more is handed to whoever ends what came too late."""
    late = []
    link[0].on_late = lambda pid, start: late.append((pid, start))
    link[0]._heard({"event": "answer", "re": 3, "pid": 11, "start": 22}, [])
    link[0]._heard({"event": "answer", "re": 4}, [])
    assert late == [(11, 22)]


# -- masters


def test_how_long_nobody_has_decided(keeper):
    """Since the last master that was up has ended: one that ends before it is up has decided nothing."""
    keeper._obey({"do": "up"})
    assert keeper.alone_since is None
    before = time.monotonic()
    keeper._master_ended(signal.SIGKILL)
    since = keeper.alone_since
    assert before <= since <= time.monotonic()
    keeper._master_ended(signal.SIGKILL)
    keeper._announce()
    assert keeper.alone_since == keeper.untold[0]["alone"] == since
    keeper._obey({"do": "up"})
    assert keeper.alone_since is None


@pytest.mark.parametrize("word", [{"do": "up"}, {"do": "exit", "code": 3}])
def test_the_last_words_of_a_master_count(keeper, word):
    """It may be reaped before what it said is read: neither a start that was over nor a stop is taken for a crash."""
    keeper.link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    keeper.link.setblocking(False)
    theirs.send(json.dumps(word).encode())
    theirs.close()
    keeper._master_ended(signal.SIGKILL)
    assert keeper.link is None
    assert (keeper.code, keeper.restart_at is None) == ((None, False) if word["do"] == "up" else (3, True))


def test_a_death_has_its_moment(keeper):
    """A master that comes later is told when it was."""
    before = time.monotonic()
    pid = os.posix_spawn("/bin/true", ["true"], {})
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    keeper._reap()
    exit = next(exit for exit in keeper.untold if exit["pid"] == pid)  # others may have left children here
    assert (exit["pid"], exit["status"], before <= exit["at"] <= time.monotonic()) == (pid, 0, True)


# -- upgrades

OLD = Code("/old/python", "/run/code")
ORDER = {
    "python": "/new/python",
    "version": "1.0",
    "target": "1.1",
    "said": "/said",
    "limit": 10.0,
    "back": "/run/code",
}


@pytest.fixture
def trial():
    """An upgrade that was asked for at the moment 100."""
    return Trial(1, ORDER, OLD, 100.0)


def test_a_trial_has_three_tries(trial):
    """The old master's end is none of them; the pauses between them double."""
    ends = []
    for moment in (100.1, 101.0, 102.0, 103.0):
        ends.append((trial.goes_on("exit code 1", moment), round(trial.pause, 3)))
        trial.begin_try()
    assert ends == [(True, 0.0), (True, 0.1), (True, 0.2), (False, 0.4)]
    assert (trial.settled, trial.failed) == (True, "it ended 3 times in a row: exit code 1")


@pytest.mark.parametrize("tries", [0, 1, 2])
def test_a_trial_has_its_time(trial, tries):
    """What is not up by then has failed, however often it was tried."""
    trial.tries = tries
    assert not trial.goes_on("SIGKILL", 110.0)
    assert trial.failed == "the new master was not up within 10 s"


def test_a_keeper_that_is_to_be_replaced_keeps_others_waiting():
    """The upgrade is not over before it is known what became of that."""
    trial = Trial(1, {**ORDER, "keeper": True}, OLD, 100.0)
    trial.begin_try()
    trial.passed(105.0)
    assert (trial.settled, trial.is_busy, trial.deadline) == (True, True, 115.0)
    trial.keeper = "done"
    assert not trial.is_busy


@pytest.mark.parametrize(
    ("path", "given", "expected"),
    [("", None, None), ("", "/mine", "/mine"), ("/code", None, "/code"), ("/code", "/mine", "/code:/mine")],
)
def test_the_code_comes_first(path, given, expected):
    """Whatever the user has in PYTHONPATH stays in it."""
    assert Code("/python", path).python_path(given) == expected


def test_one_upgrade_at_a_time(keeper):
    """The second is refused until the first has its verdict."""
    for id in (1, 2):
        keeper._obey({"do": "upgrade", "id": id, **ORDER})
    keeper.upgrade.trial.fail("it has no luck")
    keeper._obey({"do": "upgrade", "id": 3, **ORDER})
    assert [event.get("number") for event in keeper.untold] == [1, None, 2]
    assert keeper.untold[1]["error"] == "another upgrade is under way"


def test_a_keeper_gets_all_that_another_had(keeper, trial, tmp_path):
    """Tables, queues, descriptors by their numbers, and the upgrade that is under way."""
    line, far = socket.socketpair()
    with socket.create_server(("127.0.0.1", 0)) as listener, line, far:
        keeper.listeners["web"], keeper.link, keeper.upgrade.trial = listener, line, trial
        keeper.locks.take(str(tmp_path / "lock"))
        keeper.births.pipes[7] = os.dup(line.fileno())
        keeper.told.append({"event": "exit", "pid": 5, "status": 9})
        keeper.asked, keeper.restart_at, keeper.up, keeper.alone_since = 15, 12.5, True, 11.5
        other = Keeper({})
        keeperstate.restore(other, keeperstate._written(keeper))
        assert other.listeners.pop("web").detach() == listener.fileno()
        assert other.link.detach() == line.fileno()
        assert other.births.pipes == keeper.births.pipes
        for name in ("kept", "told", "asked", "restart_at", "up", "alone_since", "options"):
            assert getattr(other, name) == getattr(keeper, name)
        assert (other.locks.held, vars(other.upgrade.trial)) == (keeper.locks.held, vars(trial))
        assert not os.get_inheritable(listener.fileno())
        keeper.births.forget_all()
        other.wakeup.close()


def test_a_keeper_of_another_kind_is_not_followed(keeper, monkeypatch):
    """The state says which; nothing is guessed."""
    fd = keeperstate._written(keeper)
    monkeypatch.setattr(keeperstate, "SCHEMA", 99)
    other = Keeper({})
    with pytest.raises(keeperstate.NoSuccession, match="stop and start"):
        keeperstate.restore(other, fd)
    other.wakeup.close()
    os.close(other.kept["state"])


def test_a_keeper_of_an_earlier_version_is_followed(keeper, monkeypatch):
    """What it did not know yet is as in one that has just begun."""
    monkeypatch.setattr(keeperstate, "PLAIN", tuple(name for name in keeperstate.PLAIN if name != "alone_since"))
    fd = keeperstate._written(keeper)
    monkeypatch.undo()
    other = Keeper({})
    keeperstate.restore(other, fd)
    assert (other.alone_since, other.kept) == (None, keeper.kept)
    other.wakeup.close()


def test_a_lock_is_taken_anew_in_a_new_folder(keeper, tmp_path):
    """A run directory that was removed and made again has another file of that name."""
    path = tmp_path / "lock"
    first = keeper._lock({"path": str(path)}), keeper.locks.held[str(path)]
    assert keeper._lock({"path": str(path)}) == {}
    assert keeper.locks.held[str(path)] == first[1]
    path.unlink()
    assert keeper._lock({"path": str(path)}) == {}
    assert path.read_text() == f"{os.getpid()}\n"


def test_an_exec_that_fails_changes_nothing(keeper):
    """The reason is given, descriptors stay private, and signals are heard as before."""
    keeper.upgrade.using = Code("/no/such/python")
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert keeperstate.replace(keeper) == "it could not be replaced: /no/such/python: No such file or directory"
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == blocked
    assert not os.get_inheritable(keeper.kept["state"])


def test_what_cannot_be_started_has_failed(keeper, tmp_path, monkeypatch):
    """An interpreter that is gone counts as a try; after the third the old one is in use again."""
    keeper._obey({"do": "upgrade", "id": 1, **ORDER, "said": str(tmp_path / "said")})
    before, given = keeper.upgrade.using, keeper.upgrade.python_path
    monkeypatch.setenv("PYTHONPATH", given or "")
    for _ in range(3):
        with pytest.raises(OSError, match="/new/python"):
            keeper.upgrade.spawn_master(0)
        keeper.upgrade.try_on("/new/python: No such file or directory")
    assert keeper.upgrade.on_trial is None
    assert "3 times in a row: /new/python: No such" in keeper.upgrade.trial.failed
    assert keeper.upgrade.using == before._replace(path="/run/code")
    assert os.environ["PYTHONPATH"] == (f"/run/code:{given}" if given else "/run/code")
