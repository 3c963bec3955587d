"""The master's line to the dispatcher, with somebody at the other end of a real socket."""

import asyncio
import os
from types import SimpleNamespace

import pytest
from msgspec.structs import replace

from bkd.ipc.durable import wire
from bkd.ipc.errors import BkdError
from bkd.ipc.frames import FrameReader
from bkd.ipc.message import Command, Finished, Progress
from bkd.supervisor import dispatcher, events
from bkd.supervisor.cluster import Phase, Worker
from bkd.supervisor.config.schema import GroupSection, PingSection
from bkd.supervisor.desk import Issuer, Request
from bkd.supervisor.facts import WorkerExited
from bkd.supervisor.founding import founded
from bkd.supervisor.messagefacts import StoreAway
from bkd.supervisor.postmaster import Postmaster
from bkd.supervisor.registry import Process, Registry
from bkd.supervisor.rows import with_slot

JOBS = GroupSection("jobs", "messages", handlers=["a"])
DISPATCHER = GroupSection("dispatcher", "dispatcher", preload="false")
LIMIT = 30.0


class Dispatcher:
    """Hears the frames of one connection after the other, and says what the test wants."""

    def __init__(self, path):
        self.path, self.heard = path, asyncio.Queue()

    async def __aenter__(self):
        self._server = await asyncio.start_unix_server(self._serve, self.path)
        return self

    async def __aexit__(self, *_error):
        self._server.close()
        self.end()
        await asyncio.sleep(0)

    async def _serve(self, reader, writer):
        self.writer, frames = writer, FrameReader()
        try:
            while data := await reader.read(1 << 16):
                for payload in frames.feed(data):
                    await self.heard.put(wire.unpacked(payload))
        except (ConnectionError, asyncio.CancelledError):
            return
        finally:
            writer.transport.abort()

    async def hear(self):
        return await asyncio.wait_for(self.heard.get(), LIMIT)

    def say(self, *frames):
        self.writer.write(b"".join(map(wire.packed, frames)))

    def end(self):
        self.writer.transport.abort()


class Desk:
    """What the line needs of the master; what it does there is kept."""

    def __init__(self, folder, *groups):
        cluster = founded({group.name: group for group in groups}, PingSection())
        self.posted, self.facts, self.sent = [], [], []
        self.turns = SimpleNamespace(cluster=cluster, post=self.posted.append)
        self.context = SimpleNamespace(run_dir=str(folder), listeners={})
        self.effects = SimpleNamespace(registry=Registry())
        self.tell = self.facts.append

    def starts(self, slot="jobs.1", pid=70):
        """A worker, and its process; the pid is its number as well."""
        group = self.turns.cluster.groups[slot.partition(".")[0]]
        worker = Worker(pid, slot, 1, ordered=0.0, phase=Phase.READY, pid=pid, start=7)
        self.effects.registry.workers[pid] = Process(pid, group.name, slot, 1, group.settings, pid=pid, start=7)
        row = replace(group.slots[slot], workers=(worker,))
        self.turns.cluster = with_slot(self.turns.cluster, group, row)

    def send(self, message, *, re):
        self.sent.append(message)

    def request(self, verb, **arguments):
        command = Command(verb, arguments, "json")
        return Request(self, 1, command, Issuer(os.getuid(), 5, "tester"))


def play(folder, story, *groups):
    """Run a story with a connected line."""

    async def run():
        desk = Desk(folder, *(groups or (DISPATCHER, JOBS)))
        async with Dispatcher(dispatcher.path(str(folder))) as other:
            post = Postmaster(desk)
            post.begin()
            assert await other.hear() == wire.Greet("master")
            await story(desk, post, other)

    asyncio.run(run())


async def until(condition):
    """The loop turns until that is so."""
    deadline = asyncio.get_running_loop().time() + LIMIT
    while not condition():
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0)


def exited(slot="jobs.1", pid=70, cause="crash", code=None, signal=None):
    return WorkerExited(slot=slot, pid=pid, release=1, cause=cause, code=code, signal=signal, uptime=1.0)


@pytest.mark.parametrize(
    ("end", "how", "charged"),
    [
        (exited(signal=11), "SIGSEGV", True),
        (exited(code=3), "exit code 3", True),
        (exited(), "an unknown end", True),
        (exited(cause="out of memory", signal=9), "out of memory", True),
        (exited(cause="hung", signal=9), "hung (SIGKILL)", True),
        (exited(cause="killed from outside", signal=9), "SIGKILL", True),
        (exited(cause="planned", code=0), "exit code 0", False),
    ],
)
def test_it_tells_how_an_executor_ended_and_whether_bkd_wanted_it(tmp_path, end, how, charged):
    async def story(desk, post, other):
        desk.starts()
        post.told(end)
        assert await other.hear() == wire.Died(70, 7, how, charged)

    play(tmp_path, story)


def test_the_next_dispatcher_hears_of_recent_deaths_again(tmp_path):
    async def story(desk, post, other):
        desk.starts()
        post.told(exited(signal=9))
        died = await other.hear()
        other.end()
        assert [await other.hear(), await other.hear()] == [wire.Greet("master"), died]

    play(tmp_path, story)


def test_of_workers_that_run_no_messages_it_tells_nothing(tmp_path):
    async def story(desk, post, other):
        desk.starts("web.1", 71)
        desk.starts("jobs.1", 70)
        post.told(exited("web.1", 71))
        post.told(exited("jobs.2", 72))
        post.told(exited("jobs.1", 70, code=1))
        assert (await other.hear()).pid == 70

    play(tmp_path, story, DISPATCHER, JOBS, GroupSection("web", "web"))


def test_who_does_not_let_go_is_stuck(tmp_path):
    async def story(desk, post, other):
        desk.starts()
        other.say(wire.Overdue("jobs.1", 70, 8, "another process"), wire.Overdue("jobs.1", 70, 7, "message 5"))
        await until(lambda: desk.posted)
        assert desk.posted == [events.Tripped(70, 0.0, "message 5")]

    play(tmp_path, story)


def test_an_alarm_goes_into_the_journal(tmp_path):
    async def story(desk, post, other):
        other.say(wire.Alarm("store-away", "no route to host"))
        await until(lambda: desk.facts)
        assert desk.facts == [StoreAway(text="no route to host")]

    play(tmp_path, story)


def test_a_command_is_relayed_with_all_it_says(tmp_path):
    async def story(desk, post, other):
        answer = asyncio.ensure_future(post.relay(desk.request("message:list", kind="mail", width=80)))
        asked = await other.hear()
        assert asked == wire.Ask(asked.number, "list", {"kind": "mail"}, "json", 80, "tester")
        other.say(
            wire.Said(99, "not ours"), wire.Said(asked.number, "1\n", "hm\n"), wire.Answered(asked.number, 3, "2\n")
        )
        assert await answer == Finished(3, "2\n")
        assert desk.sent == [Progress("1\n", "hm\n")]

    play(tmp_path, story)


def test_a_command_that_was_under_way_fails_with_its_dispatcher(tmp_path):
    async def story(desk, post, other):
        answer = asyncio.ensure_future(post.relay(desk.request("message:cancel")))
        await other.hear()
        other.end()
        with pytest.raises(BkdError, match="it may have done that or not"):
            await answer

    play(tmp_path, story)


def test_a_command_given_between_two_dispatchers_waits_for_the_next(tmp_path):
    async def story(desk, post, other):
        other.end()
        await until(lambda: post._writer is None)
        answer = asyncio.ensure_future(post.relay(desk.request("message:stats")))
        assert await other.hear() == wire.Greet("master")
        asked = await other.hear()
        other.say(wire.Answered(asked.number, 0))
        assert (await answer).code == 0

    play(tmp_path, story)


def test_the_numbers_of_messages_come_in_pieces(tmp_path):
    async def story(desk, post, other):
        desk.starts(dispatcher.SLOT, 71)
        stats = asyncio.ensure_future(post.stats())
        asked = await other.hear()
        assert (asked.verb, asked.render) == ("stats", "json")
        other.say(wire.Said(asked.number, '{"kinds": '), wire.Answered(asked.number, 0, "[]}\n"))
        assert await stats == '{"kinds": []}\n'

    play(tmp_path, story)


def test_a_store_that_does_not_answer_has_no_numbers(tmp_path):
    async def story(desk, post, other):
        desk.starts(dispatcher.SLOT, 71)
        stats = asyncio.ensure_future(post.stats())
        other.say(wire.Answered((await other.hear()).number, 1, "", "bkd: no route to host\n"))
        with pytest.raises(BkdError, match="no route to host"):
            await stats

    play(tmp_path, story)


def test_a_dispatcher_that_ends_meanwhile_has_no_numbers(tmp_path):
    async def story(desk, post, other):
        desk.starts(dispatcher.SLOT, 71)
        stats = asyncio.ensure_future(post.stats())
        await other.hear()
        other.end()
        with pytest.raises(BkdError, match="ended meanwhile"):
            await stats

    play(tmp_path, story)


def test_numbers_are_not_waited_for_where_nobody_is(tmp_path):
    post = Postmaster(Desk(tmp_path, DISPATCHER, JOBS))

    with pytest.raises(BkdError, match="the dispatcher is not ready"):
        asyncio.run(post.stats())
    assert asyncio.run(Postmaster(Desk(tmp_path, GroupSection("web", "web"))).stats()) is None


def test_nonsense_costs_the_dispatcher_its_connection_only(tmp_path):
    async def story(desk, post, other):
        other.say(wire.Stored(1))
        assert await other.hear() == wire.Greet("master")

    play(tmp_path, story)


def test_without_messages_there_is_nobody_to_ask(tmp_path):
    post = Postmaster(Desk(tmp_path, GroupSection("web", "web")))

    with pytest.raises(BkdError, match='no group of the configuration has kind = "messages"'):
        asyncio.run(post.relay(post.master.request("message:list")))
