"""Who is who among the hosts at one store of PostgreSQL: by its url, its name, and what it can see."""

import logging
import shutil
import subprocess
import sys

import psycopg
import pytest

from bkd.workers.store.instance import instance
from bkd.workers.store.postgres import PostgresStore
from bkd.workers.store.postgres_link import address
from bkd.workers.store.protocol import StoreError

from ..contract.desk import Desk
from .postgres import emptied_url

HERE = "from bkd.workers.store.instance import instance; print(instance())"


@pytest.fixture
def namesakes():
    """Two hosts of the same name at one store, which cannot see each other's processes."""
    url = emptied_url()
    stores = [PostgresStore(url, seen_from) for seen_from in ("boot-1/1", "boot-2/1")]
    for store in stores:
        store.open()
    yield stores
    for store in stores:
        store.close()


@pytest.mark.parametrize(
    "place",
    [
        "u:SEC%RET@127.0.0.1:1/db",
        "u:SEC@RET@127.0.0.1:1/db",
        "u:SEC/RET@127.0.0.1:1/db",
        "u:12/RET@127.0.0.1:1/db",
        "u:SEC?RET@127.0.0.1:1/db",
        "u:SEC?RET=@127.0.0.1:1/db",
        "u:SEC RET@127.0.0.1:1/db",
        "u:%ff@127.0.0.1:1/db",
        "u@127.0.0.1:1/db?password=SECRET&colour=RET",
        "u@127.0.0.1:SECRET/db",
    ],
)
def test_of_an_url_that_is_none_nothing_is_repeated(place):
    with pytest.raises(StoreError, match="percent-encode") as raised:
        address(f"postgresql://{place}")
    assert not any(word in str(raised.value) for word in ("SEC", "RET", "127"))
    assert raised.value.__context__ is None or raised.value.__suppress_context__


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("u:p%40q%2F+%25@h:5/db", {"user": "u", "password": "p@q/+%", "host": "h", "port": "5", "dbname": "db"}),
        ("u:a#b[c:d@h/db", {"password": "a#b[c:d", "host": "h", "dbname": "db"}),
        ("/db?host=/run/pg&password=a+b", {"host": "/run/pg", "password": "a+b", "dbname": "db"}),
        ("h1:1,h2:2/db?connect_timeout=9", {"host": "h1,h2", "port": "1,2", "connect_timeout": "9"}),
    ],
)
def test_what_libpq_is_told(place, told):
    where = address(f"postgresql://{place}")

    assert where.schema == "bkd"
    assert psycopg.conninfo.conninfo_to_dict(where.conninfo).items() >= told.items()


def test_the_schema_is_not_libpqs():
    assert address("postgresql://h/db?schema=mine").schema == "mine"
    with pytest.raises(StoreError, match=r"correct \?schema="):
        address("postgresql://h/db?schema=Not-this")


def test_a_host_of_the_same_name_is_another_node_and_takes_nothing_over(namesakes, caplog):
    first, second = namesakes
    here = Desk(first, "h1/shop")
    now = first.clock()
    first.renew(here.node.number, now, now + 30_000)
    here.put()
    task = here.claim_one()
    with caplog.at_level(logging.WARNING):
        there = second.register("h1/shop", now, now + 30_000)

    assert (there.number != here.node.number, there.generation) == (True, 1)
    assert second.leases(there.number) == second.orphans(now, 9) == []
    assert [lease.id for lease in first.leases(here.node.number)] == [task.id]
    assert "give each host a name of its own" in caplog.text
    assert first.renew(here.node.number, now, now + 30_000).known
    assert here.end(task).stale == []


def test_what_a_host_held_before_it_was_started_again_is_found_when_its_time_is_over(namesakes):
    before, after = namesakes
    was = Desk(before, "h1/shop")
    was.put()
    task = was.claim_one()
    now = was.now + 30_001
    after.register("h1/shop", now, now + 3_600_000_000)

    assert [(lease.id, lease.node) for lease in after.orphans(now, 9)] == [(task.id, "h1/shop")]


def test_nodes_that_hold_nothing_are_not_looked_at_again_and_again(namesakes):
    store = namesakes[0]
    gone = Desk(store, "h2")
    gone.put()
    gone.put()
    task, other = gone.claim()
    gone.end(task)
    gone.give_back(other)
    store.leave(gone.node.number, gone.now)

    assert store.orphans(gone.now, 9) == []
    with psycopg.connect(store._url, autocommit=True) as admin:
        admin.execute(
            "INSERT INTO bkd.lease SELECT message_id, 9, 0, due, kind_id, priority, %s, 1, 1, 1, 0, 0, 0, 0, 0, false"
            " FROM bkd.ready",
            (gone.node.number,),
        )
    assert store.orphans(gone.now, 9) == []
    Desk(store, "h2").store.leave(gone.node.number, gone.now)
    assert [lease.id for lease in store.orphans(gone.now, 9)] == [other.id]


def test_hosts_that_are_long_dead_are_forgotten(namesakes):
    store, days = namesakes[0], 3 * 86_400_000
    was, is_here = Desk(store, "h2"), Desk(store, "h1")
    was.now = is_here.now = store.clock() - days
    for desk in (was, is_here):
        store.renew(desk.node.number, desk.now, desk.now + 30_000)
        store.enlist(desk.node.number, "jobs.1", 100, 7, desk.now)
    was.put()
    task = was.claim_one()
    now = store.clock()
    store.renew(is_here.node.number, now, now + 30_000)
    (lease,) = store.orphans(now, 9)
    store.sweep(now, 100)
    assert [lease] == store.orphans(now, 9)

    is_here.end(task)
    store.sweep(now, 100)
    assert Desk(store, "h1").node.number == is_here.node.number
    assert Desk(store, "h2").node.generation == 1


def test_another_pid_namespace_is_another_instance():
    command = [sys.executable, "-c", HERE]
    same = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert same.stdout.strip() == instance()
    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare here")
    apart = subprocess.run(
        ["unshare", "--pid", "--fork", "--mount-proc", *command],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if apart.returncode:
        pytest.skip(f"no namespaces can be made here: {apart.stderr.strip()}")
    boot, _, namespace = apart.stdout.strip().partition("/")
    assert instance().startswith(f"{boot}/")
    assert instance() != f"{boot}/{namespace}"
