"""What a service manager is told, and what it gives: words, units, sockets; and what a program's own words change."""

import os
import socket
from pathlib import Path

import pytest
from msgspec.structs import replace

from bkd.supervisor import actions, activation, events, systemd, unitfile
from bkd.supervisor.config.load import load
from bkd.supervisor.herald import Herald
from bkd.supervisor.listeners import ListenError, Listeners

from .policy.drive import START, command, kinds, settled, web

LIMITS = {"drain": 10.0, "term": 2.0, "start_timeout": 30.0}


# -- how the cluster is


def test_a_line_says_what_serves_and_what_does_not():
    drive = settled(web(count=4), command(count=2))
    assert systemd.status_line(drive.cluster, drive.now) == "web 4/4, cache 2/2"
    drive.later(10)
    drive.dies("cache.2")
    drive.dies("cache.2")
    assert systemd.status_line(drive.cluster, drive.now) == "web 4/4, cache 1/2 (cache.2 backoff)"
    drive.happen(events.Held("web.1", True), events.StopAsked("bkd stop"))
    assert systemd.status_line(drive.cluster, drive.now).startswith("stopping: bkd stop; ")


def test_a_line_names_only_the_first_of_many():
    drive = settled(web(count=9))
    for number in range(1, 10):
        drive.dies(f"web.{number}")
    line = systemd.status_line(drive.cluster, drive.now)
    assert line == "web 0/9 (web.1 starting, web.2 starting, web.3 starting, 6 more)"


@pytest.mark.parametrize(
    ("count", "spare", "down", "short"),
    [
        (1, 0, 0, ""),
        (1, 1, 1, "web has 0 of 1 worker ready, and 1 is needed"),
        (4, 0, 1, ""),
        (4, 0, 2, "web has 2 of 4 workers ready, and 3 are needed"),
        (4, 2, 3, ""),
        (3, 0, 1, "web has 2 of 3 workers ready, and 3 are needed"),
        (8, 0, 2, ""),
    ],
)
def test_the_watchdog_wants_enough_workers(count, spare, down, short):
    drive = settled(web(count=count, max_unavailable=spare))
    drive.later(10)
    for number in range(1, down + 1):
        drive.dies(f"web.{number}")
    assert systemd.shortage(drive.cluster) == short


def test_the_watchdog_does_not_wait_for_what_is_as_it_should_be():
    """Held, scaled, begun for the first time, ended as planned."""
    drive = settled(web(count=2), command())
    drive.later(10)
    drive.happen(events.Held("cache.1", True))
    drive.dies("cache.1")
    assert systemd.shortage(drive.cluster) == ""
    drive.happen(events.Scaled("web", 8))
    assert systemd.shortage(drive.cluster) == ""
    drive.happen(events.Scaled("web", 0))
    assert systemd.shortage(drive.cluster) == ""


def test_the_conversation_of_a_start_and_a_stop():
    drive = settled(web())
    said = systemd.Said()
    starting = systemd.View(drive.cluster, started=False, watchdog=30.0, fed=False)

    lines, said = systemd.speech(said, starting, 0.0)
    assert lines == ["STATUS=web 1/1", "EXTEND_TIMEOUT_USEC=30000000"]
    assert systemd.speech(said, starting, 1.0)[0] == []
    assert systemd.pause(said, starting, 1.0) == 9.0
    assert systemd.speech(said, starting, 10.0)[0] == ["EXTEND_TIMEOUT_USEC=30000000"]

    running = starting._replace(started=True, fed=True)
    lines, said = systemd.speech(said, running, 11.0)
    assert lines == ["READY=1", "STATUS=web 1/1", "WATCHDOG=1"]
    assert systemd.pause(said, running, 11.0) == 10.0
    assert systemd.speech(said, running, 20.9)[0] == []
    assert systemd.speech(said, running, 21.0)[0] == ["WATCHDOG=1"]
    assert systemd.speech(said, running._replace(fed=False), 60.0)[0] == []
    assert systemd.pause(said, running._replace(fed=False), 60.0) is None

    drive.happen(events.StopAsked("bkd stop"))
    lines, said = systemd.speech(said, running._replace(cluster=drive.cluster), 61.0)
    assert lines == [
        "STOPPING=1",
        "STATUS=stopping: bkd stop; 1 process left",
        "EXTEND_TIMEOUT_USEC=30000000",
        "WATCHDOG=1",
    ]


def test_news_wait_for_a_second():
    drive = settled(web(count=2))
    view = systemd.View(drive.cluster, started=True)
    _, said = systemd.speech(systemd.Said(), view, 5.0)
    drive.dies("web.1")
    changed = view._replace(cluster=drive.cluster)
    assert systemd.speech(said, changed, 5.4)[0] == []
    assert systemd.pause(said, changed, 5.4) == pytest.approx(0.6)
    assert systemd.speech(said, changed, 6.0)[0] == ["STATUS=web 1/2 (web.1 starting)"]


def test_nobody_is_ready_while_a_reload_goes_on():
    drive = settled(web())
    view = systemd.View(drive.cluster, started=True, reloading=True)
    lines, said = systemd.speech(systemd.Said(), view, 0.0)
    assert lines == ["STATUS=web 1/1"]
    assert systemd.speech(said, view._replace(reloading=False), 0.1)[0] == ["READY=1", "STATUS=web 1/1"]
    assert systemd.reloading(1.5) == "RELOADING=1\nMONOTONIC_USEC=1500000"


# -- what a program says of itself


def test_a_program_that_says_it_is_stuck_is_replaced():
    drive = settled(command(**LIMITS))
    done = drive.happen(events.Tripped(drive.worker("cache.1").id, 4.0))
    assert "Condemn" in kinds(done)
    assert "Spawn" in kinds(done)


def test_but_not_while_it_is_held():
    drive = settled(command(**LIMITS))
    number = drive.worker("cache.1").id
    drive.happen(events.Held("cache.1", True), events.Tripped(number, 4.0))
    assert not drive.did(actions.Condemn)
    drive.happen(events.Held("cache.1", False))
    assert not drive.did(actions.Condemn)


def test_a_program_gets_more_time_to_end():
    drive = settled(command(**LIMITS))
    began = drive.now
    drive.happen(events.Scaled("cache", 0))
    drive.later(9)
    (worker,) = drive.slot("cache.1").workers
    drive.happen(events.Extended(worker.id, 20.0))
    drive.at(began - START + 28.9)
    assert not drive.did(actions.Terminate)
    drive.at(began - START + 29)
    assert len(drive.did(actions.Terminate)) == 1
    drive.later(2)
    assert len(drive.did(actions.Kill)) == 1


def test_a_program_cannot_ask_for_ever():
    drive = settled(command(**LIMITS))
    began = drive.now
    drive.happen(events.Scaled("cache", 0))
    (worker,) = drive.slot("cache.1").workers
    drive.happen(events.Extended(worker.id, 1e9))
    drive.at(began - START + 3600)
    assert len(drive.did(actions.Terminate)) == 1


def test_a_program_gets_more_time_to_start():
    drive = settled(web())
    drive.happen(events.Reconfigured({"web": web(), "cache": command(**LIMITS)}, drive.cluster.ping, {}))
    (worker,) = drive.slot("cache.1").workers
    began = drive.now
    drive.happen(events.Extended(worker.id, 60.0))
    drive.at(began - START + 59)
    assert not drive.did(actions.Condemn)
    drive.at(began - START + 61)
    assert len(drive.did(actions.Condemn)) == 1


def test_words_out_of_place_change_nothing():
    """More time for what is ready; of a worker that is gone."""
    drive = settled(command(**LIMITS))
    before = drive.cluster
    drive.happen(events.Extended(drive.worker("cache.1").id, 60.0), events.Extended(999, 60.0), events.Tripped(999))
    assert drive.cluster == before


# -- sockets


def test_descriptors_of_somebody_else_are_left_alone():
    environ = {"LISTEN_PID": "1", "LISTEN_FDS": "3", "LISTEN_FDNAMES": "a:b:c", "HOME": "/"}
    assert activation.inherited(environ) == {}
    assert environ == {"HOME": "/"}


@pytest.mark.parametrize("count", ["", "x", "-1", "\u0663"])
def test_nonsense_is_nothing(count):
    assert activation.inherited({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": count}) == {}


def test_an_address_means_one_listener():
    names = ["127.0.0.1:8000", "fd:3:web", "fd:4:api", "fd:5:api", "unix:/run/a.sock"]
    assert activation.meant(names, "127.0.0.1:8000") == ["127.0.0.1:8000"]
    assert activation.meant(names, "fd:web") == ["fd:3:web"]
    assert activation.meant(names, "fd:4") == ["fd:4:api"]
    assert activation.meant(names, "fd:api") == ["fd:4:api", "fd:5:api"]
    assert activation.meant(names, "fd:fd") == []
    assert [activation.label(name) for name in names] == ["8000", "web", "api", "api", "a.sock"]


def test_a_program_is_not_given_what_is_not_there():
    with pytest.raises(OSError, match="no such listener"):
        activation.chosen({}, ["fd:web"])


def test_a_name_that_two_sockets_have_is_refused():
    listeners = Listeners(None, {"fd:3:api": 3, "fd:4:api": 4})
    assert listeners.found == {}
    with pytest.raises(ListenError, match="2 sockets have this name: write fd:3 or fd:4"):
        listeners._take_over("fd:api")
    with pytest.raises(ListenError, match=r"fd:web: bkd was not given .*, it was started with fd:api \(fd:3\), fd:api"):
        listeners._take_over("fd:web")


# -- the keeper's voice


def test_the_watchdog_is_fed_for_a_while_without_a_master(tmp_path):
    """As often as a master would; the first word of the next one ends it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "n"))
        manager.setblocking(False)
        environ = {"NOTIFY_SOCKET": str(tmp_path / "n"), "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}
        herald = Herald(environ, pytest.fail)
        assert environ == {}
        assert herald.told() == {"notify": True, "watchdog": 30.0}
        assert herald.due is None
        herald.lost()
        herald.keep_alive()
        assert manager.recv(100) == b"WATCHDOG=1"
        herald.keep_alive()
        with pytest.raises(BlockingIOError):
            manager.recv(100)
        herald.say("READY=1")
        assert herald.due is not None
        herald.say("STATUS=x\nWATCHDOG=1")
        assert herald.due is None


@pytest.mark.parametrize(
    ("environ", "watchdog"),
    [
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, 0.0),
        ({"WATCHDOG_USEC": "often"}, 0.0),
        ({"WATCHDOG_USEC": "2000000"}, 2.0),
        ({}, 0.0),
    ],
)
def test_a_watchdog_of_somebody_else_is_not_fed(environ, watchdog):
    herald = Herald({"NOTIFY_SOCKET": "@x", **environ}, pytest.fail)
    assert herald.told() == {"notify": True, "watchdog": watchdog}


def test_a_way_that_is_none_is_told_once():
    complaints = []
    herald = Herald({"NOTIFY_SOCKET": "vsock:2:1234", "WATCHDOG_USEC": "1000000"}, complaints.append)
    assert herald.told() == {"notify": False, "watchdog": 0.0}
    assert complaints == ["bkd: NOTIFY_SOCKET=vsock:2:1234 is no unix socket: nobody is told how the cluster is\n"]


# -- units


def plan(tmp_path, text, **options):
    path = tmp_path / "bkd.toml"
    path.write_text(text)
    config = load(str(path), {}, hostname="h1")
    return unitfile.Plan(config, ["/opt/my tools/bkd"], options.pop("version", 252), **options)


WEB = '[app]\nname = "shop"\n[workers.web]\nkind = "web"\napp = "a:b"\n'


def test_a_service(tmp_path):
    lines = unitfile.service(plan(tmp_path, WEB + 'drain = "40s"\n', user="shop")).splitlines()
    assert f'ExecStart="/opt/my tools/bkd" start -c {tmp_path}/bkd.toml' in lines
    assert f'ExecReload="/opt/my tools/bkd" reload --no-wait -c {tmp_path}/bkd.toml' in lines
    wanted = {"Type=notify", "User=shop", "TimeoutStopSec=53", "RuntimeDirectory=bkd/shop", "CapabilityBoundingSet="}
    assert wanted <= set(lines)
    assert [line for line in lines if len(line) > 120] == []


def test_a_service_of_a_newer_systemd(tmp_path):
    assert "\nType=notify-reload\n" in unitfile.service(plan(tmp_path, WEB, version=253))


def test_a_service_writes_where_the_configuration_says(tmp_path):
    text = WEB.replace("[workers", 'run_dir = "my run"\n[control]\n[workers') + 'bind = ["unix:/srv/x/a.sock"]\n'
    lines = unitfile.service(plan(tmp_path, text, user="shop")).splitlines()
    assert f'ReadWritePaths="{tmp_path}/my run"' in lines
    assert "ReadWritePaths=/srv/x" in lines
    assert not any(line.startswith("RuntimeDirectory") for line in lines)


@pytest.mark.parametrize(("port", "ambient"), [(80, True), (8000, False)])
def test_a_low_port_needs_a_capability(tmp_path, port, ambient):
    text = unitfile.service(plan(tmp_path, f'{WEB}bind = [":{port}"]\n', user="shop"))
    assert ("\nAmbientCapabilities=CAP_NET_BIND_SERVICE\n" in text) is ambient


def test_sockets(tmp_path):
    text = unitfile.sockets(plan(tmp_path, WEB + 'bind = ["[::1]:8000", ":9000", "fd:extra"]\n'))
    assert [line for line in text.splitlines() if line.startswith(("# /", "ListenStream", "FileDescriptorName"))] == [
        "# /etc/systemd/system/shop-web.socket",
        "ListenStream=[::1]:8000",
        "FileDescriptorName=web",
        "# /etc/systemd/system/shop-web-2.socket",
        "ListenStream=9000",
        "FileDescriptorName=web-2",
        "# /etc/systemd/system/shop-extra.socket",
        "ListenStream=127.0.0.1:8000",
        "FileDescriptorName=extra",
    ]


def test_the_unit_that_comes_along_is_the_one_that_is_printed():
    folder = Path(__file__).parents[2] / "etc"
    config = replace(load(str(folder / "bkd.toml"), {}, hostname="h1"), path="/etc/bkd/bkd.toml", base="/etc/bkd")
    printed = unitfile.service(unitfile.Plan(config, ["/usr/local/bin/bkd"], version=252, user="shop"))
    assert (folder / "bkd.service").read_text() == printed
