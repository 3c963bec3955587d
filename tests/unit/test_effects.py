"""What a worker is told is known to the next master before it is told."""

import os
import socket

import pytest

from bkd.ipc.message import Drain, Fork, LoadFailed, Serve, decode, encode
from bkd.supervisor import actions, events
from bkd.supervisor.cluster import Release
from bkd.supervisor.config.schema import (
    AppSection,
    BusSection,
    Config,
    ControlSection,
    LogSection,
    PingSection,
    StoreSection,
)
from bkd.supervisor.context import Context
from bkd.supervisor.effects import Effects
from bkd.supervisor.keeperlink import KeeperLink
from bkd.supervisor.registry import LoaderProcess, Registry

from .policy.drive import web

SECTIONS = ControlSection, PingSection, LogSection, BusSection, StoreSection
GONE = (1 << 22) + 1  # no pid is as high
SPAWN = actions.Spawn(7, "web", "web.1", 1, fork=True)


class Line:
    """A connection that writes down what is sent."""

    def __init__(self, diary):
        self.send = diary.append


@pytest.fixture
def diary():
    """What was sent to whom, and when the state was written, in their order."""
    return []


@pytest.fixture
def effects(tmp_path, diary):
    """Those of a master with one zygote."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    link = KeeperLink(ours.detach())
    with link.sock, theirs:
        context = Context(
            config=Config("", "/", AppSection("shop"), *(section() for section in SECTIONS), {}),
            run_dir=str(tmp_path),
            keeper=link,
            keeper_pid=os.getpid(),
            files=False,
            post=diary.append,
            release=lambda group, number: Release(number, web()),
            paced=lambda group, period: period,
            is_last=lambda worker: False,
            letterbox=lambda *_: "",
        )
        made = Effects(context, Registry())
        context.remember = context.note = lambda: diary.append(sorted(made.registry.workers))
        made.registry.add(LoaderProcess("web", 1, connection=Line(diary), loaded=True))
        yield made


def test_a_fork_is_ordered_once_it_is_written_down(effects, diary):
    """With its token: a worker that no state knows would be turned away by the next master."""
    effects.perform(SPAWN)
    assert diary == []
    effects.give_orders()
    known, order = diary
    assert (known, type(order), order.token) == ([7], Fork, effects.registry.workers[7].token)


@pytest.mark.parametrize(("action", "order"), [(actions.Ask(7), Drain), (actions.Admit(7), Serve)])
def test_so_is_what_a_worker_is_told(effects, diary, action, order):
    effects.perform(SPAWN)
    effects.give_orders()
    effects.registry.workers[7].connection = Line(diary)
    del diary[:]
    effects.perform(action)
    assert diary == []
    effects.give_orders()
    assert [diary[0], type(diary[-1])] == [[7], order]


def test_a_turn_without_orders_is_written_down_as_well(effects, diary):
    """What people were told in it must be true of the next master, too."""
    effects.perform(actions.CloseBreaker("web"))
    effects.give_orders()
    assert diary == [[]]


class Unread:
    """A connection on which something waits that the loop has not read."""

    def __init__(self, hear_out):
        self.hear_out = hear_out
        self.close = lambda: None


class Findings:
    """What is looked into of those that ended: nothing."""

    def ended(self, process):
        process.row = None


def test_an_end_is_judged_by_all_that_was_said_before_it(effects, diary):
    """The keeper may be faster than the last word: a worker that said why it cannot start has said so."""
    effects.autopsy = Findings()
    effects.perform(SPAWN)
    process = effects.registry.workers[7]
    process.connection = Unread(lambda: diary.append(events.BootFailed(7, "no database")))
    effects.registry.born(process, GONE, 1)
    effects.ended(GONE, 3 << 8)
    said, ended = diary
    assert (said, type(ended), ended.code) == (events.BootFailed(7, "no database"), events.Exited, 3)


def test_so_is_the_end_of_one_that_imports_the_application_itself(effects, diary):
    """It has no heartbeat yet."""
    effects.autopsy = Findings()
    effects.perform(SPAWN)
    process = effects.registry.workers[7]
    failed = decode(encode(LoadFailed("no shop", "")))
    process.loading = Unread(lambda: effects.loaders.heard_solo(process, process.loading, failed))
    effects.registry.born(process, GONE, 1)
    effects.ended(GONE, 1 << 8)
    assert [type(event) for event in diary] == [events.BootFailed, events.Exited]


def test_a_worker_whose_end_is_known_before_its_pid_gives_its_seat_back(effects, diary):
    """The keeper may also be faster than the zygote that says whom it has forked."""
    effects.autopsy = Findings()
    effects.perform(SPAWN)
    seat = effects.registry.workers[7].seat
    effects.ended(GONE, 3 << 8)
    assert diary == []
    effects.loaders.spawned(7, GONE, 1)
    assert [(type(event), event.worker) for event in diary] == [(events.Spawned, 7), (events.Exited, 7)]
    assert (effects.balance.take("web"), effects.registry.workers[7].over) == (seat, True)


def test_a_zygote_that_has_said_why_it_failed_fails_once(effects, diary):
    loader = effects.registry.loaders["web", 1]
    failed = decode(encode(LoadFailed("no shop", "")))
    loader.connection = Unread(lambda: effects.loaders.heard(loader, failed))
    effects.registry.born(loader, GONE, 1)
    effects.ended(GONE, 1 << 8)
    assert [(type(event), event.reason) for event in diary] == [(events.LoaderFailed, "no shop")]


def test_a_zygote_that_goes_in_the_same_turn_gets_no_order(effects, diary):
    """Its fork is failed at once, and nothing is sent."""
    effects.perform(SPAWN)
    effects.registry.loaders["web", 1].connection.close = lambda: None
    effects.perform(actions.DropLoader("web", 1, "it is no longer needed"))
    effects.give_orders()
    assert [type(entry).__name__ for entry in diary] == ["SpawnFailed", "list"]
