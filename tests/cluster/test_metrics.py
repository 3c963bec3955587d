"""Metrics as who scrapes them gets them: by the socket in the run directory, by a port, by the command line."""

import contextlib
import http.client
import os
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from .cluster import PATIENCE, ended, free_port, kill, until

OPENMETRICS = {"Accept": "application/openmetrics-text;version=1.0.0"}
WEB = {"app": "shop:app", "count": 2, "min_ready": "100ms"}
PLACES = 16
ASK = """
import os, socket, sys
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
client = socket.socket(socket.AF_UNIX)
client.connect(sys.argv[1])
client.sendall(b"GET /metrics HTTP/1.1\\r\\n\\r\\n")
print(client.recv(100).decode())
"""


class Scraper(http.client.HTTPConnection):
    """HTTP over a unix socket, or over TCP when it is given a port."""

    def __init__(self, place):
        super().__init__("127.0.0.1", place if isinstance(place, int) else None, timeout=PATIENCE)
        self.place = place

    def connect(self):
        if isinstance(self.place, int):
            super().connect()
        else:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(PATIENCE)
            self.sock.connect(str(self.place))


def ask(place, path="/metrics", *, method="GET", headers=OPENMETRICS):
    """The answer and its body."""
    with contextlib.closing(Scraper(place)) as scraper:
        scraper.request(method, path, headers=headers)
        response = scraper.getresponse()
        return response, response.read().decode()


def values(text):
    """What a scraper reads, by name and labels."""
    families = text_string_to_metric_families(text)
    return {(s.name, *sorted(s.labels.values())): s.value for family in families for s in family.samples}


def read(place):
    response, text = ask(place)
    assert response.status == 200, text
    return values(text)


def answers(place):
    """Whether somebody can scrape there now."""
    try:
        return ask(place)[0].status == 200
    except OSError:
        return False


def master_of(cluster):
    return cluster.status()["master_pid"]


@pytest.fixture(scope="module")
def cluster(share):
    return share(web=WEB)


@pytest.fixture
def place(cluster):
    return cluster.run_dir / "metrics.sock"


def raw(place, data=b""):
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(PATIENCE)
    client.connect(str(place))
    with contextlib.suppress(BrokenPipeError):  # the answer may be there before the request
        client.sendall(data)
    return client


def everything(client):
    with contextlib.closing(client):
        said = b""
        with contextlib.suppress(ConnectionResetError):
            while data := client.recv(1 << 16):
                said += data
        return said


def test_the_socket_in_the_run_directory_is_for_the_owner(cluster, place):
    assert stat.S_IMODE(place.stat().st_mode) == 0o600

    response, text = ask(place)

    assert response.headers["Content-Type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert response.headers["Connection"] == "close"
    assert text.endswith("# EOF\n")
    shown = values(text)
    assert shown["bkd_up",] == 1
    assert shown["bkd_group_workers_ready", "web"] == 2
    assert shown["bkd_master_epoch",] == 1
    until(lambda: read(place).get(("bkd_worker_resident_bytes", "web", "web.1"), 0) > 1 << 20)


def test_who_does_not_take_openmetrics_gets_the_older_text(place):
    response, text = ask(place, headers={"Accept": "text/plain"})

    assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert 'bkd_group_workers_ready{group="web"} 2.0' in text
    assert "# EOF" not in text


def test_other_requests_are_answered_clearly(place):
    response, text = ask(place, method="HEAD")
    assert (response.status, text) == (200, "")
    assert int(response.headers["Content-Length"]) > 1000
    assert ask(place, "/")[1] == "bkd: the metrics are at /metrics\n"
    assert ask(place, "/other")[0].status == 404
    response, _ = ask(place, method="POST")
    assert (response.status, response.headers["Allow"]) == (405, "GET, HEAD")
    assert b" 400 " in everything(raw(place, b"\x16\x03\x01nonsense\r\n\r\n"))
    assert b" 431 " in everything(raw(place, b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 20_000))


def test_a_kill_from_outside_is_counted(cluster, place):
    key = ("bkd_worker_exits_total", "killed_from_outside", "web")
    before = read(place)

    kill(cluster.worker("web.2")["pid"])

    until(lambda: read(place)[key] == before[key] + 1)
    until(cluster.is_ready)
    restarts = ("bkd_worker_restarts_total", "web", "web.2")
    until(lambda: read(place)[restarts] == before[restarts] + 1)


def test_the_command_line_prints_the_same(cluster, place):
    def printed():
        answer = cluster.bkd("status", "--openmetrics")
        assert answer.returncode == 0, answer.stderr
        return values(answer.stdout)

    until(lambda: printed().keys() == read(place).keys())  # at first some worker has not yet sent a heartbeat
    refused = cluster.bkd("status", "--json", "--openmetrics")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "--openmetrics" in refused.stderr


def test_a_slow_client_costs_only_itself(place):
    slow = raw(place, b"GET /metrics HT")

    for _ in range(5):
        assert ask(place)[0].status == 200

    assert b" 408 " in everything(slow)


def test_clients_that_say_nothing_make_room(place):
    """Sixteen of them take all places, for half a second."""
    silent = [raw(place) for _ in range(PLACES)]
    until(lambda: answers(place))

    assert any(is_closed(client) for client in silent)
    assert [ask(place)[0].status for _ in range(20)] == [200] * 20
    for client in silent:
        client.close()


def is_closed(client):
    client.setblocking(False)
    try:
        return client.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def test_twenty_at_once_are_served(place):
    clients = [raw(place, b"GET /metrics HTTP/1.1\r\n\r\n") for _ in range(20)]

    codes = [everything(client)[9:12] for client in clients]

    assert set(codes) <= {b"200", b"503"}
    assert codes.count(b"200") >= PLACES


def test_the_next_master_serves_again(launch):
    cluster = launch(web=WEB)
    place = cluster.run_dir / "metrics.sock"
    master = master_of(cluster)
    assert read(place)["bkd_master_epoch",] == 1

    kill(master)

    assert ended(master)
    until(lambda: answers(place))
    assert read(place)["bkd_master_epoch",] == 2
    assert cluster.stop().returncode == 0
    assert not place.exists()


def test_a_port_that_is_changed_while_it_runs(launch):
    first, second = free_port(), free_port()
    cluster = launch(web=WEB, metrics={"bind": f"127.0.0.1:{first}"})
    assert read(first)["bkd_up",] == 1
    assert not (cluster.run_dir / "metrics.sock").exists()

    cluster.configure(web=WEB, metrics={"bind": f"0.0.0.0:{second}"})
    assert cluster.bkd("reload").returncode == 0

    until(lambda: answers(second))
    until(lambda: not answers(first))
    until(lambda: "who reaches it can read" in cluster.said())
    cluster.configure(web=WEB, metrics={"bind": ""})
    assert cluster.bkd("reload").returncode == 0
    until(lambda: not answers(second))


def test_an_address_that_is_taken_costs_a_line(launch):
    with socket.create_server(("127.0.0.1", 0)) as other:
        cluster = launch(web=WEB, metrics={"bind": f"127.0.0.1:{other.getsockname()[1]}"})

        said = until(lambda: [line for line in cluster.said().splitlines() if "no metrics at" in line])

    assert len(said) == 1
    assert "end that, or name another address" in said[0]
    assert cluster.serves()


def test_what_is_no_socket_is_left_alone(launch):
    cluster = launch(web=WEB, metrics={"bind": "unix:bkd.toml"})

    until(lambda: "no metrics at" in cluster.said())
    assert "[metrics]" in cluster.file.read_text()


@pytest.mark.skipif(os.getuid() != 0, reason="takes two users")
def test_who_has_no_role_is_told_so(launch):
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        place = f"{folder}/m.sock"
        launch(web=WEB, metrics={"bind": f"unix:{place}"}, control={"operators": "daemon", "viewers": "bin"})
        until(lambda: answers(place))

        as_nobody = subprocess.run([sys.executable, "-I", "-c", ASK, place], capture_output=True)

        assert b" 403 " in as_nobody.stdout, as_nobody.stderr


def test_who_is_not_scraped_does_not_pay_for_it():
    code = "import sys, bkd.supervisor.master\nsys.exit('prometheus_client' in sys.modules)"

    assert subprocess.run([sys.executable, "-P", "-c", code]).returncode == 0
