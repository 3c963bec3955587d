"""What a worker is told is known to the next master before it is told."""

import os
import socket

import pytest

from bkd.ipc.message import Drain, Fork, Serve
from bkd.supervisor import actions
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


def test_a_zygote_that_goes_in_the_same_turn_gets_no_order(effects, diary):
    """Its fork is failed at once, and nothing is sent."""
    effects.perform(SPAWN)
    effects.registry.loaders["web", 1].connection.close = lambda: None
    effects.perform(actions.DropLoader("web", 1, "it is no longer needed"))
    effects.give_orders()
    assert [type(entry).__name__ for entry in diary] == ["SpawnFailed", "list"]
