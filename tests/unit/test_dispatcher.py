"""The group that no configuration names: when it is there, what it is told, and how it is shown."""

import os

import pytest
from msgspec.structs import replace

from bkd.ipc.durable.wire import letterbox
from bkd.ipc.message import DispatcherWork, MessagesWork
from bkd.supervisor import dispatcher, duties, messagefacts, status
from bkd.supervisor.banner import text
from bkd.supervisor.cluster import Cause, Exit, Phase, Worker
from bkd.supervisor.config.load import SECTIONS
from bkd.supervisor.config.schema import AppSection, Config, GroupSection, StoreSection
from bkd.supervisor.dispatcher import with_dispatcher
from bkd.supervisor.facts import decode
from bkd.supervisor.founding import founded
from bkd.supervisor.origins import origin
from bkd.supervisor.privileges import Accounts
from bkd.supervisor.rows import addresses, with_group, with_slot

WEB = GroupSection("web", "web", app="shop:app", bind=["127.0.0.1:8000"], drain=60.0, term=2.0)
JOBS = GroupSection("jobs", "messages", handlers=["shop.tasks"], mode="exclusive", concurrency=3, drain=10.0, term=5.0)


def config(*groups: GroupSection) -> Config:
    sections = {name: kind() for name, kind in SECTIONS.items()}
    sections |= {"app": AppSection("shop", "h1", python="/opt/python"), "store": StoreSection("sqlite:run/x.db")}
    return Config("/srv/bkd.toml", "/srv", workers={group.name: group for group in groups}, **sections)


def test_without_messages_there_is_none():
    assert with_dispatcher(config(WEB)) == config(WEB)


def test_it_comes_with_the_first_group_of_messages():
    found = with_dispatcher(config(WEB, JOBS)).workers

    assert list(found) == ["dispatcher", "web", "jobs"]
    section = found["dispatcher"]
    assert (section.kind, section.count, section.restart, section.preload) == ("dispatcher", 1, "always", "false")


def test_two_are_never_there_at_once():
    section = with_dispatcher(config(JOBS)).workers["dispatcher"]

    assert (section.max_surge, section.max_unavailable) == (0, 1)


def test_it_runs_bkds_own_interpreter():
    whole = with_dispatcher(config(JOBS))

    assert origin(whole, whole.workers["dispatcher"]).python == ""
    assert origin(whole, whole.workers["jobs"]).python == "/opt/python"


def test_what_it_and_its_executors_are_told():
    found = duties.dispatching(config(JOBS), "/run/shop", ["messages"], {})

    assert found == DispatcherWork("sqlite:run/x.db", "/srv", "h1/shop/run/shop", ["messages"], dispatcher.PATIENCE)
    executing = MessagesWork(["shop.tasks"], "exclusive", 3, "/run/shop/messages.sock")
    assert duties.executing(JOBS, dispatcher.path("/run/shop")) == executing
    assert duties.trial(JOBS) == replace(executing, socket="")


def test_its_socket_is_kept_as_long_as_it_is_there():
    assert addresses(founded(config(WEB).workers, config().ping)) == {"127.0.0.1:8000"}
    assert addresses(founded(with_dispatcher(config(JOBS)).workers, config().ping)) == {"messages"}


def test_it_is_shown_as_a_helper_of_each_group_of_messages_and_as_no_group():
    whole = with_dispatcher(config(WEB, JOBS))
    cluster = founded(whole.workers, whole.ping)
    group = cluster.groups["dispatcher"]
    worker = Worker(9, "dispatcher.1", 1, ordered=0.0, phase=Phase.READY, pid=77)
    cluster = with_slot(cluster, group, replace(group.slots["dispatcher.1"], workers=(worker,)))

    document = status.document(cluster, whole, began=0.0, keeper=1, dropped=lambda worker: 0)

    helpers = {row["name"]: row["helpers"] for row in document["groups"]}
    shown = {"role": "dispatcher", "release": 1, "pid": 77, "state": "ready", "rss": None, "pss": None}
    assert helpers == {"web": [], "jobs": [shown]}
    assert "kept for rollback" not in status.table(document | {"bus": {"url": "local:"}})


def test_a_group_says_that_its_dispatcher_is_not_there():
    whole = with_dispatcher(config(JOBS))
    cluster = founded(whole.workers, whole.ping)
    group = cluster.groups["dispatcher"]
    end = Exit(1.0, Cause.BOOT, 3, 77, 1, 0.5, reason="file is not a database")
    cluster = with_slot(cluster, group, replace(group.slots["dispatcher.1"], last_exit=end, next_try=1e12))

    [row] = status.document(cluster, whole, began=0.0, keeper=1, dropped=lambda worker: 0)["groups"]

    assert row["reason"] == "the dispatcher is not ready (backoff): file is not a database; see `bkd why dispatcher`"


def test_the_banner_shows_groups_that_somebody_wrote():
    shown = text(with_dispatcher(config(JOBS)), "/run/shop", 1, files=True)

    assert "shop.tasks" in shown
    assert "dispatcher" not in shown


def test_it_is_told_of_the_users_whose_groups_reach_it():
    """Those of kept releases as well: a rollback brings them back."""
    own = str(os.geteuid())
    whole = with_dispatcher(config(replace(WEB, user="7001", group="7001"), replace(JOBS, user="7002", group="7002")))
    cluster = founded(whole.workers, whole.ping)
    web = cluster.groups["web"]
    kept = replace(web.release, number=2, settings=replace(WEB, user="7003", group="7003"))
    cluster = with_group(cluster, replace(web, releases={**web.releases, 2: kept}))

    admits = duties.admitted(cluster, Accounts())
    work = duties.dispatching(whole, "/run/shop", ["messages", "messages:7001"], admits)

    assert (sorted(work.users), work.runners) == ([7001, 7002, 7003], [7002])
    assert work.listeners == ["messages", "messages:7001"]
    assert duties.admitted(founded(config(replace(WEB, user=own)).workers, config().ping), Accounts()) == {}


def test_a_user_who_is_gone_keeps_no_dispatcher_from_starting():
    cluster = founded(config(replace(WEB, user="no-such-user-here")).workers, config().ping)

    assert duties.admitted(cluster, Accounts()) == {}


def test_another_user_has_a_socket_of_its_own():
    assert dispatcher.path("/run/shop") == letterbox("/run/shop/control.sock") == "/run/shop/messages.sock"
    assert dispatcher.path("/run/shop", 70) == letterbox("/run/shop/worker.70.sock") == "/run/shop/messages.70.sock"
    assert [dispatcher.is_listener(name) for name in ("messages", dispatcher.listener(70), "control")] == [1, 1, 0]


@pytest.mark.parametrize(
    ("word", "tag"),
    [("store-away", "store-away"), ("store-back", "store-back"), ("store-error", "store-fault"),
     ("loop", "loop-found"), ("dead-letter", "message-dead"), ("node-lost", "node-lost"), ("odd", "message-alarm")],
)  # fmt: skip
def test_an_alarm_is_a_fact_of_its_own(word, tag):
    fact = messagefacts.told(word, "invoice.send 17 was run 101 times")

    assert "invoice.send 17" in fact.describe()
    assert fact.__struct_config__.tag == tag
    assert decode(b'{"fact":"store-away","text":"no route"}').level() == "error"
