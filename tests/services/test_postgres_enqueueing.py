"""Messages from other languages, in transactions of applications, and who hears of them."""

import asyncio
import json
import time

import psycopg
import pytest
from psycopg.rows import dict_row

from bkd.ipc.durable.model import Conflict, NewMessage, Routing, State
from bkd.workers import sync_enqueue
from bkd.workers.store.postgres import PostgresStore
from bkd.workers.store.postgres_listener import Listener
from bkd.workers.store.protocol import Control, Filter, StoreAway, StoreError
from bkd.workers.store.transactional import aenqueue_in, enqueue_in

from ..contract.desk import Desk
from .postgres import emptied_url, fresh_url

PATIENCE = 30.0


@pytest.fixture
def url():
    return emptied_url()


@pytest.fixture
def desk(url):
    store = PostgresStore(url)
    store.open()
    yield Desk(store)
    store.close()


@pytest.fixture
def plain(url):
    """A client of another language: it knows SQL."""
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def listener(url):
    found = Listener(url)
    assert found.wait(0) == {"*"}
    yield found
    found.close()


def call(connection, arguments):
    return connection.execute(f"SELECT bkd.enqueue({arguments})").fetchone()[0]


def heard(listener, wanted):
    """What is heard until this was."""
    found, deadline = set(), time.monotonic() + PATIENCE
    while wanted not in found and time.monotonic() < deadline:
        found |= listener.wait(0.1)
    return found


def test_a_message_of_plain_sql_is_like_any_other(desk, plain):
    id = call(
        plain,
        """'a', '{"order": {"id": 7}}', payload => 'bytes', priority => 10, max_attempts => 3, notify => 'me',
        routing => '{"sender": "billing", "parent_id": 4}'""",
    )

    task = desk.claim_one()
    assert (task.id, json.loads(task.args), task.priority, task.max_attempts) == (id, {"order": {"id": 7}}, 10, 3)
    assert (task.notify, task.sender, task.parent_id, task.payload) == ("me", "billing", 4, 5)
    assert desk.store.payload(id) == b"bytes"
    assert desk.store.find(Filter(where=(("order.id", 7),)), 10)[0].guid == task.guid


def test_it_may_be_due_later_and_have_a_deadline(desk, plain):
    by_delay = call(plain, "'a', delay => '5 minutes'")
    by_moment = call(plain, "'a', due => now() + interval '1 hour', deadline => now() + interval '2 hours'")

    desk.now = desk.store.clock()
    assert desk.claim() == []
    assert 290_000 < desk.row(by_delay).due - desk.now <= 300_000
    assert 3_590_000 < desk.row(by_moment).due - desk.now <= 3_600_000
    assert 7_190_000 < desk.row(by_moment).deadline - desk.now <= 7_200_000


def test_all_rules_hold_in_plain_sql(desk, plain):
    first = call(plain, "'a', '{\"x\": 1, \"y\": 2}', key => 'k'")
    assert call(plain, "'a', '{\"y\": 2, \"x\": 1}', key => 'k'") == first
    assert desk.put("a", b'{"x":1,"y":2}', key="k").id == first
    living = call(plain, "'a', unique_key => 'u'")
    assert call(plain, "'a', unique_key => 'u'") == living
    refused = {
        "'a', '{\"x\": 2}', key => 'k'": "another message",
        "'a', unique_key => 'u', conflict => 'reject'": "has the unique key",
        "'a', conflict => 'perhaps'": "conflict is",
        "'a', on_deadline => 'perhaps'": "on_deadline is",
        "''": "needs a kind",
        "'a', to_jsonb(repeat('x', 70000))": "put what is large into the payload",
        "'a', payload => convert_to(repeat('x', 10485761), 'UTF8')": "pass a reference",
        "'a', key => repeat('k', 256)": "use a hash",
    }
    for arguments, words in refused.items():
        with pytest.raises(psycopg.errors.CheckViolation, match=words):
            call(plain, arguments)
    assert desk.store.count(Filter()) == 2


def test_who_is_to_enqueue_needs_the_schema_and_nothing_else(plain, url):
    plain.execute("DROP ROLE IF EXISTS clerk")
    plain.execute("CREATE ROLE clerk LOGIN")
    plain.execute("GRANT USAGE ON SCHEMA bkd TO clerk")
    try:
        with psycopg.connect(url.replace("bkd@", "clerk@"), autocommit=True) as clerk:
            assert call(clerk, "'a'") > 0
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                clerk.execute("SELECT * FROM bkd.message")
    finally:
        plain.execute("REVOKE USAGE ON SCHEMA bkd FROM clerk")
        plain.execute("DROP ROLE clerk")


def test_what_is_rolled_back_was_never_there(desk, url, listener):
    with psycopg.connect(url) as application:
        receipt = enqueue_in(application, NewMessage("a", b"1"))
        assert receipt.created
        assert desk.store.count(Filter()) == 0
        application.rollback()
        enqueue_in(application, NewMessage("b", b"2"))
        assert listener.wait(0) == set()
        application.commit()

    assert heard(listener, "b") == {"b"}
    assert [task.args for task in desk.claim()] == [b"2"]


def test_a_receipt_tells_what_became_of_it(desk, url):
    with psycopg.connect(url, row_factory=dict_row) as application:
        first = enqueue_in(application, NewMessage("a", unique="u", guid="g1", routing=Routing(tracking_id="t")))
        again = enqueue_in(application, NewMessage("a", guid="g1"))
        other = enqueue_in(application, NewMessage("a", unique="u", conflict=Conflict.REJECT))
        large = enqueue_in(application, NewMessage("a", b"x" * 70_000))

    assert (first.guid, first.created, first.state) == ("g1", True, State.QUEUED)
    assert (again.id, again.created, again.refused) == (first.id, False, "")
    assert (other.id, other.created) == (first.id, False)
    assert "unique key" in other.refused
    assert "payload" in large.refused
    assert desk.row(first.id).tracking_id == "t"


def test_a_store_with_a_schema_of_its_own_is_enqueued_into_by_its_name():
    url = fresh_url(prepared=False)
    stores = [PostgresStore(url), PostgresStore(f"{url}?schema=shop")]
    for store in stores:
        store.open()
    with psycopg.connect(url) as application:
        assert sync_enqueue("a", {"sku": 7}, connection=application, schema="shop").created

    assert [store.count(Filter()) for store in stores] == [0, 1]
    for store in stores:
        store.close()


def test_connections_that_are_awaited(desk, url):
    async def awaited():
        async with await psycopg.AsyncConnection.connect(url) as application:
            return await aenqueue_in(application, NewMessage("a", b"1"))

    assert asyncio.run(awaited()).created
    assert [task.args for task in desk.claim()] == [b"1"]


def test_connections_of_django(desk, url):
    django = pytest.importorskip("django")
    from django.conf import settings as project
    from django.db.backends.postgresql.base import DatabaseWrapper

    if not project.configured:
        project.configure(USE_TZ=True)
        django.setup()
    parts = psycopg.conninfo.conninfo_to_dict(url)
    settings = {"NAME": parts["dbname"], "USER": parts["user"], "HOST": parts["host"], "PORT": parts["port"]}
    defaults = {"PASSWORD": "", "OPTIONS": {}, "TIME_ZONE": None, "CONN_MAX_AGE": 0, "CONN_HEALTH_CHECKS": False}
    more = {"AUTOCOMMIT": True, "ATOMIC_REQUESTS": False}
    application = DatabaseWrapper(settings | defaults | more, "default")
    try:
        assert enqueue_in(application, NewMessage("a", b"2")).created
    finally:
        application.close()
    assert desk.claim_one().args == b"2"


def test_connections_of_asyncpg(desk, url):
    asyncpg = pytest.importorskip("asyncpg")

    async def awaited():
        application = await asyncpg.connect(url)
        async with application.transaction():
            receipt = await aenqueue_in(application, NewMessage("a", b"1", routing=Routing(sender="s")))
        await application.close()
        return receipt

    assert asyncio.run(awaited()).created
    assert desk.claim_one().sender == "s"


def test_connections_of_sqlalchemy(desk, url):
    sqlalchemy = pytest.importorskip("sqlalchemy")
    orm = pytest.importorskip("sqlalchemy.orm")
    engine = sqlalchemy.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as application:
        assert enqueue_in(application, NewMessage("a", b"1")).created
    with orm.Session(engine) as session:
        enqueue_in(session, NewMessage("a", b"2"))
        session.rollback()
        enqueue_in(session, NewMessage("a", b"3"))
        session.commit()
    engine.dispose()

    async def awaited():
        asynchronous = pytest.importorskip("sqlalchemy.ext.asyncio")
        for driver in ("psycopg", "asyncpg"):
            pytest.importorskip(driver)
            engine = asynchronous.create_async_engine(url.replace("postgresql:", f"postgresql+{driver}:"))
            async with engine.begin() as application:
                await aenqueue_in(application, NewMessage("a", b"4"))
            async with asynchronous.AsyncSession(engine) as session:
                await aenqueue_in(session, NewMessage("a", b"5"))
                await session.commit()
            await engine.dispose()

    asyncio.run(awaited())
    assert [task.args for task in desk.claim()] == [b"1", b"3", b"4", b"5", b"4", b"5"]


def test_what_is_no_connection_is_named(url):
    with pytest.raises(StoreError, match="no connection that is known"):
        enqueue_in(object(), NewMessage("a"))
    with psycopg.connect(url) as application, pytest.raises(StoreError, match="without await"):
        asyncio.run(aenqueue_in(application, NewMessage("a")))


def test_dispatchers_hear_of_work_and_of_words(desk, listener, plain):
    call(plain, "'a'")
    assert heard(listener, "a") == {"a"}
    task = desk.claim_one()
    desk.store.cancel([task.id], "me", desk.now)
    assert heard(listener, "*") == {"*"}
    desk.store.control(Control("a", paused=True))
    assert heard(listener, "*") == {"*"}
    desk.put("b")
    assert heard(listener, "b") == {"b"}
    assert listener.wait(0) == set()


def test_a_listener_whose_connection_ends_says_so_and_listens_again(desk, listener, plain):
    plain.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE query LIKE 'LISTEN%' AND datname = current_database()"
    )
    with pytest.raises(StoreAway):
        for _ in range(100):
            listener.wait(0.1)
    assert listener.wait(0) == {"*"}
    call(plain, "'a'")
    assert heard(listener, "a") == {"a"}
