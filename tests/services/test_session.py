"""A session keeps the bus connected, whatever happens to the server and to the network between."""

import asyncio
import re
import subprocess
import sys
from contextlib import asynccontextmanager
from itertools import pairwise

import pytest

from bkd.supervisor.bus.driver import BusError
from bkd.supervisor.bus.local import LocalDriver
from bkd.supervisor.bus.redisdriver import RedisDriver
from bkd.supervisor.bus.session import Session
from bkd.supervisor.facts import BusConnected, BusDeaf, BusLost

from .looped import looped, until
from .proxy import Proxy
from .servers import PASSWORD

CHANNELS = frozenset(["shop:server", "shop:web"])
PROBE = "shop:reply:h1"


class Master:
    """What a session is used by: notes what it is told."""

    def __init__(self, url, *, period=0.1, patience=10.0, jitter=lambda: 0.5):
        self.facts, self.heard, self.ups = [], [], 0
        self.channels = CHANNELS
        self.driver = RedisDriver(url, name="h1", patience=patience) if url != "local:" else LocalDriver()
        self.session = Session(
            self.driver,
            channels=lambda: self.channels,
            probe=PROBE,
            hear=lambda channel, payload: self.heard.append((channel, payload)),
            up=self.up,
            tell=self.facts.append,
            period=period,
            jitter=jitter,
        )

    async def up(self):
        self.ups += 1

    def told(self, kind):
        return [fact for fact in self.facts if isinstance(fact, kind)]

    def connected(self, times=1):
        """Whether it has come up so many times, and hears its own probe."""
        document = self.session.document()
        return self.ups == times and document["connected"] and document["probe"] is not None


@asynccontextmanager
async def at_work(url, **settings):
    master = Master(url, **settings)
    task = asyncio.create_task(master.session.run())
    try:
        yield master
    finally:
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled(), task.exception()


@asynccontextmanager
async def behind_a_proxy(server, **settings):
    async with Proxy(server.port) as proxy, at_work(server.url(port=proxy.port), **settings) as master:
        await until(master.connected)
        yield master, proxy


async def say(server, channel, payload):
    """Published by somebody else; how many heard it."""

    def publish():
        with server.admin() as client:
            return client.publish(channel, payload)

    return await asyncio.to_thread(publish)


@looped
async def test_it_connects_and_hears(server):
    async with at_work(server.url()) as master:
        await until(master.connected)
        for channel in CHANNELS:
            assert await say(server, channel, b"hello") == 1
        await until(lambda: len(master.heard) == 2)

        document = master.session.document()
        assert document == {
            **document,
            "url": f"redis://bkd@127.0.0.1:{server.port}",
            "state": "connected",
            "error": None,
            "reconnects": 0,
        }
        assert master.facts == [BusConnected(url=document["url"])]
        assert min([abs(master.session.now() - await master.driver.now()) for _ in range(5)]) < 0.1


@looped
async def test_the_local_bus_is_heard_as_well():
    async with at_work("local:") as master:
        await until(master.connected)
        await master.driver.publish("shop:web", b"hello")
        await until(lambda: master.heard)

    async with at_work("local:", period=0) as master:
        await until(lambda: master.ups)
        assert master.session.document()["connected"]


@looped
async def test_channels_may_change(server):
    async with at_work(server.url()) as master:
        await until(master.connected)
        master.channels = frozenset(["shop:jobs"])
        await master.session.resubscribe()

        assert await say(server, "shop:jobs", b"1") == 1
        assert await say(server, "shop:web", b"2") == 0
        await until(lambda: master.heard)
        assert master.heard == [("shop:jobs", b"1")]


@looped
async def test_probes_that_are_none_of_ours_are_handed_on(server):
    async with at_work(server.url()) as master:
        await until(master.connected)
        await say(server, PROBE, b"probe of somebody")
        await until(lambda: master.heard)

        assert master.heard == [(PROBE, b"probe of somebody")]


@looped
async def test_a_server_that_was_killed_is_taken_up_again(server):
    async with at_work(server.url()) as master:
        await until(master.connected)
        server.kill()
        await until(lambda: master.told(BusLost))
        assert master.session.state == "away"
        assert re.search("[Cc]onnect", master.session.error), master.session.error
        with pytest.raises(BusError):
            await master.driver.publish("shop:web", b"")

        await asyncio.to_thread(server.start)
        await until(lambda: master.connected(2))

        assert await say(server, "shop:web", b"hello") == 1
        assert await say(server, "shop:server", b"hello") == 1
        assert master.session.reconnects == 1
        assert [type(fact) for fact in master.facts] == [BusConnected, BusLost, BusConnected]


@looped
async def test_a_server_that_comes_later_than_we(server):
    server.kill()
    async with at_work(server.url()) as master:
        await until(lambda: master.told(BusLost))
        await asyncio.to_thread(server.start)
        await until(master.connected)

        assert [type(fact) for fact in master.facts] == [BusLost, BusConnected]
        assert master.session.reconnects == 0


@looped
async def test_a_subscription_that_is_killed_is_made_anew_at_once(server):
    async with at_work(server.url(), period=60) as master:
        await until(master.connected)
        with server.admin() as client:
            assert client.execute_command("CLIENT", "KILL", "TYPE", "pubsub") == 1
        await until(lambda: master.connected(2))

        assert await say(server, "shop:web", b"hello") == 1


@looped
async def test_connections_that_are_cut_are_made_anew(server):
    async with behind_a_proxy(server, period=60) as (master, proxy):
        proxy.cut()
        await until(lambda: master.connected(2))

        await until(lambda: len(proxy.connections) == 2)


@pytest.mark.parametrize("directions", [("up",), ("down",), ("up", "down")])
@looped
async def test_a_network_that_swallows_everything_is_seen(server, directions):
    async with behind_a_proxy(server, patience=1.0) as (master, proxy):
        proxy.swallow(*directions)
        await until(lambda: master.told(BusLost))
        assert master.session.state == "away"
        assert "did not answer within 1 s" in master.session.error

        proxy.swallow()
        await until(lambda: master.session.document()["connected"])


@pytest.mark.parametrize("direction", ["up", "down"])
@looped
async def test_it_knows_when_it_is_deaf(server, direction):
    """Commands are answered, but nothing comes on the subscription any more."""
    async with behind_a_proxy(server, patience=2.0) as (master, proxy):
        (listener,) = [connection for connection in proxy.connections if connection.listens]
        if direction == "down":
            listener.down.open.clear()
            await until(lambda: master.told(BusDeaf))
        else:
            listener.up.open.clear()
            master.channels = frozenset(["shop:jobs"])
            await master.session.resubscribe()

        await until(lambda: master.connected(2))
        assert await say(server, next(iter(master.channels)), b"hello") == 1
        assert [type(fact) for fact in master.facts] == [
            BusConnected,
            BusDeaf if direction == "down" else BusLost,
            BusConnected,
        ]


@looped
async def test_a_slow_network_is_no_loss(server):
    async with behind_a_proxy(server, patience=5) as (master, proxy):
        proxy.delay(0.15)
        began = master.session.document()["probe"]
        await until(lambda: (master.session.document()["probe"] or 0) > began + 0.1)
        await until(lambda: master.session.document()["probe"] < 0.05)

        assert master.facts == [BusConnected(url=master.driver.place)]


@looped
async def test_who_is_refused_comes_back_less_and_less_often(server):
    async with Proxy(server.port) as proxy:
        proxy.refusing = True
        async with at_work(server.url(port=proxy.port), jitter=lambda: 1.0) as master:
            await until(lambda: len(proxy.attempts) == 5)
            gaps = [later - earlier for earlier, later in pairwise(proxy.attempts)]
            assert [gap >= least for gap, least in zip(gaps, [0.1, 0.2, 0.4, 0.8], strict=True)] == [True] * 4
            assert len(master.told(BusLost)) == 1


@looped
async def test_connections_that_never_last_count_as_refused(server):
    async with behind_a_proxy(server, period=60, jitter=lambda: 1.0) as (master, proxy):
        for times in range(2, 5):
            proxy.cut()
            await until(lambda times=times: master.connected(times))

        assert proxy.attempts[-1] - proxy.attempts[0] >= 0.1 + 0.2 + 0.4


@looped
async def test_a_wrong_password_is_told_without_it(server):
    async with at_work(server.url(password="a%20secret")) as master:
        await until(lambda: master.told(BusLost))

        (lost,) = master.told(BusLost)
        assert "refuses user bkd: correct user and password in [bus] url" in lost.describe()
        assert "secret" not in f"{lost}{master.session.error}{master.session.document()}{master.driver.__dict__}"


@looped
async def test_a_bus_that_fails_while_the_master_catches_up_is_connected_anew(server):
    async def up():
        master.ups += 1
        if master.ups == 1:
            raise BusError("in the middle of it")

    async with at_work(server.url()) as master:
        master.session._up = up
        await until(lambda: master.connected(2))

        assert [fact.why for fact in master.told(BusLost)] == ["in the middle of it"]


@pytest.mark.parametrize(
    "url",
    [
        "http://bkd:secret@h1",
        "redis://bkd:sec/ret@h1:6379",
        "redis://bkd:secret@h1:port",
        "redis://bkd:secret@h1/zero",
        "redis://bkd:secret@",
        "redis://bkd:secret@h1?socket_timeout=9",
        "redis://bkd:secret@h1#secret",
        "unix://bkd:secret@?db=1",
    ],
)
def test_a_url_that_cannot_be_read_is_told_without_the_password(url):
    with pytest.raises(BusError, match=r"\[bus\] url (has to begin|cannot be read)") as caught:
        RedisDriver(url)

    assert "sec" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("redis://h1", "redis://h1:6379"),
        ("redis://:secret@h1:1234/2", "redis://h1:1234/2"),
        ("rediss://bkd:se%2Fcret@[::1]/?ssl_ca_certs=ca.pem", "rediss://bkd@[::1]:6379"),
        ("unix://bkd:secret@/run/redis.sock?db=3", "unix://bkd@/run/redis.sock?db=3"),
        ("unix:///run/redis.sock?username=bkd&password=secret", "unix://bkd@/run/redis.sock"),
    ],
)
def test_a_place_is_shown_without_the_password(url, place):
    assert RedisDriver(url).place == place


@looped
async def test_a_certificate_that_nobody_vouches_for_is_refused(server_with_tls):
    driver = RedisDriver(server_with_tls.url("rediss").partition("?")[0])

    with pytest.raises(BusError, match=r"is not trusted: name the authority's with \?ssl_ca_certs=FILE"):
        await driver.open()


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b":x\r\n",
        b"$-7\r\n",
        b"*1\r\n+1\r\n",
        b"+OK\r\n",
        b"*-9\r\n",
        b"",
        b"\xff\r\n",
    ],
)
@looped
async def test_somebody_else_at_the_other_end(said):
    async def answer(reader, writer):
        writer.write(said * 5)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as other:
        driver = RedisDriver(f"redis://127.0.0.1:{other.sockets[0].getsockname()[1]}", patience=1)
        with pytest.raises(BusError, match=r"^redis://127\.0\.0\.1:[0-9]+:? .") as caught:
            await driver.open()
            await driver.subscribe(CHANNELS)

    assert "\n" not in str(caught.value)


@looped
async def test_nothing_is_tried_that_the_rights_do_not_allow(server):
    async with at_work(server.url(), period=0.01) as master:
        await until(master.connected)
    with server.admin() as client:
        assert client.acl_log() == []


@looped
async def test_the_database_of_the_url_is_the_one(server):
    here, there = RedisDriver(server.url()), RedisDriver(f"{server.url()}/1")
    await asyncio.gather(here.open(), there.open())
    await there.set_field("shop:hosts", "h1", b"row")

    assert await here.fields("shop:hosts") == {}
    assert await there.fields("shop:hosts") == {"h1": b"row"}
    await asyncio.gather(here.close(), there.close())


@pytest.mark.parametrize("option", ["ssl_ca_certs", "ssl_certfile"])
@looped
async def test_a_file_that_cannot_be_used_is_named(tmp_path, option):
    (tmp_path / "cert.pem").write_text("nothing")
    for name in ("none.pem", "cert.pem"):
        with pytest.raises(BusError, match=rf"correct the files in \[bus\] url: .* \({option}=.*{name}\)"):
            await RedisDriver(f"rediss://bkd:secret@127.0.0.1:1?{option}={tmp_path}/{name}").open()


@looped
async def test_nobody_at_the_other_end(tmp_path):
    for url, why in [
        (f"unix://{tmp_path}/none", "no such file"),
        ("redis://127.0.0.1:1", "refused|Connect call failed"),
    ]:
        with pytest.raises(BusError, match=why) as caught:
            await RedisDriver(url).open()
        assert "\n" not in str(caught.value)


def test_the_library_is_loaded_with_the_first_connection():
    code = "import sys, bkd.supervisor.bus.session, bkd.supervisor.bus.redisdriver as r; r.RedisDriver('redis://h1')"

    loaded = subprocess.run([sys.executable, "-c", f"{code}; print(*sys.modules)"], capture_output=True, check=True)

    assert b"bkd.supervisor.bus.redisdriver" in loaded.stdout.split()
    assert b"redis" not in loaded.stdout.split()


def test_the_password_of_the_tests_is_one_that_has_to_be_escaped():
    assert "/" in PASSWORD
