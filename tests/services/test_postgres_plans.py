"""How hot statements are carried out: through indexes, whatever PostgreSQL knows of the tables, and past dead rows."""

import re

import psycopg
import pytest
from psycopg import sql

from bkd.ipc.durable.model import NewMessage
from bkd.workers.store.postgres import PostgresStore
from bkd.workers.store.postgres_arrays import bodies, numbers, texts
from bkd.workers.store.postgres_link import TURNS, VERBS, Link, address
from bkd.workers.store.postgres_marks import Marks
from bkd.workers.store.postgres_numbered import numbered
from bkd.workers.store.postgres_settled import settled_columns
from bkd.workers.store.statements import statements

from ..contract.desk import Desk
from .postgres import discard, new_server

ROWS = 200_000
SQL = statements("postgres")
HOT = {"ready", "lease", "delayed", "message", "done", "attempt", "unique_key", "output", "lock"}
WHOLE = re.compile(r"Index(?: Only)? Scan using \w+ on (?!kind|node)\w+[^\n]*\n(?! *Index Cond)")

CROWD = f"""
INSERT INTO bkd.message (id, created, kind_id, priority, payload_size, max_attempts, deadline, guid, args)
SELECT n, 0, CASE WHEN n % 50 = 0 THEN 2 ELSE 1 END, CASE WHEN n % 1000 = 0 THEN 10 ELSE 50 END, 0, 0, 0, n::text, '1'
FROM generate_series(1, {ROWS}) AS g (n);
INSERT INTO bkd.ready SELECT id, id, kind_id, priority, 0, 0, 0, 0, 0, 0, 0, 0, 'queued'
FROM bkd.message WHERE id % 10 < 6;
INSERT INTO bkd.delayed SELECT id, 9000000000000 + id, kind_id, priority, 0, 0, 0, 0, 0, 0, 0, 0, 'queued'
FROM bkd.message WHERE id % 10 = 6;
INSERT INTO bkd.parked SELECT id, id, kind_id, priority, 0, 0, 0, 0, 0, 0, 0, 0, 'blocked', 'unique'
FROM bkd.message WHERE id % 10 = 7;
INSERT INTO bkd.unique_key SELECT kind_id, id::text, id, id - 1 FROM bkd.message WHERE id % 10 = 8;
INSERT INTO bkd.lease SELECT id, 1, 0, id, kind_id, priority, 1, 1, 1, 1, 0, 0, 0, 0, 0, false
FROM bkd.message WHERE id % 10 = 8;
INSERT INTO bkd.done SELECT id, id, 1, kind_id, 'succeeded', 1, 1, 0, 0, 0, 0, 0 FROM bkd.message WHERE id % 10 = 9;
SELECT setval('bkd.message_id', {ROWS});
"""

BELONGINGS = f"""
INSERT INTO bkd.attempt (message_id, fence, started, ended, number, stage, pid, worker, result)
SELECT id, 1, 0, 0, 1, 0, 1, '', 'ok' FROM generate_series(1, {ROWS}) AS g (id);
INSERT INTO bkd.idempotency SELECT '', id::text, id, '' FROM generate_series(1, {ROWS}) AS g (id);
INSERT INTO bkd.notification (message_id, addressee, subject, text, dedup, due)
SELECT id, '', '', '', id::text, 0 FROM generate_series(1, {ROWS}) AS g (id);
INSERT INTO bkd.deed (message_id, at, actor, verb) SELECT id, 0, '', '' FROM generate_series(1, {ROWS}) AS g (id);
INSERT INTO bkd.lock SELECT id::text, id, 1 FROM generate_series(1, {ROWS}) AS g (id);
ANALYZE;
"""
LARGE = {"message", "done", "attempt", "idempotency", "notification", "deed", "lock"}


@pytest.fixture(scope="module")
def crowded():
    """A store with many rows of which PostgreSQL knows nothing yet, and what its claims need."""
    server = new_server(autovacuum="off")
    store = PostgresStore(server.database())
    store.open()
    desk = Desk(store)
    with psycopg.connect(store._url, autocommit=True) as admin:
        admin.execute(CROWD)
        yield desk, admin
    store.close()
    discard(server)


def parameters(desk):
    """Of every hot statement, as turns of 200 have them."""
    leased = [*range(8, 2008, 10)]
    tasks = [desk.settlement(task) for task in desk.claim(200)]
    known = Marks().known([1, 2])
    leases = {"id": numbers(leased), "fence": numbers(1 for _ in leased)}
    now = {"now": desk.now}
    claim = {"kinds": "{1,2}", "want": 200, "holders": numbers([1] * 200), "node": desk.node.number} | now
    claim |= {"mark_kinds": known.kinds, "mark_priorities": known.priorities, "mark_dues": known.dues}
    guids = texts(f"new-{nth}" for nth in range(200))
    store = dict.fromkeys(("payload", "max_attempts", "deadline", "notify", "routing"), "{}")
    store |= {"kind_id": numbers([1] * 200), "args": bodies([b"1"] * 200), "priority": numbers([50] * 200)}
    store |= {"due": numbers([desk.now] * 200), "guid": guids, "on_deadline": texts(["expire"] * 200)} | now
    return {
        "settle": settled_columns(tasks) | now | {"keyed": leases["id"]},
        "release_unique": {"ids": leases["id"]} | now,
        "keep_stages": leases | {"stage": numbers(0 for _ in leased), "body": bodies(b"1" for _ in leased)},
        "grant_locks": leases | {"key": texts(str(id) for id in leased)},
        "begin": leases,
        "note_progress": leases | {"word": bodies(b"1" for _ in leased)},
        "promote": {"kinds": "{1,2}", "marks": "{0,0}", "most": 1000} | now,
        "claim": claim | {"aged": False},
        "claim aged": claim | {"aged": True},
        "claim_kind": claim | {"kind": 1, "priority": -(2**31), "due": 0},
        "claim_kind marked": claim | {"kind": 1, "priority": 50, "due": ROWS // 2},
        "store": store,
        "store_due": store,
        "cancels": {"node": desk.node.number},
        "renew_node": {"node": desk.node.number, "until": desk.now + 30_000} | now,
    }


def plan(link, name, values, options=""):
    """How a statement would be carried out, with this connection's settings, which plan it once for all values; nothing
    is changed."""
    statement = numbered(SQL[name.split()[0]])
    given = sql.SQL(", ").join([sql.Literal(values[name]) for name in statement.names])
    with link.session() as db, db.transaction(force_rollback=True):
        db.execute(f"PREPARE explained AS {statement.text}")
        rows = db.execute(sql.SQL("EXPLAIN {} EXECUTE explained ({})").format(sql.SQL(options), given)).fetchall()
        db.execute("DEALLOCATE explained")
    return "\n".join(row for (row,) in rows)


@pytest.mark.parametrize("analyzed", [False, True])
def test_hot_statements_scan_no_table(crowded, analyzed):
    desk, admin = crowded
    if analyzed:
        admin.execute("ANALYZE")
    link = Link(address(desk.store._url), TURNS)
    plans = {name: plan(link, name, values) for name, values in parameters(desk).items()}
    link.close()

    scanned = {name: set(re.findall(r"Seq Scan on (\w+)", text)) & HOT for name, text in plans.items()}
    joined = {name: re.findall(r"(?:Hash|Merge) Join", text) for name, text in plans.items()}
    whole = {name: WHOLE.findall(text) for name, text in plans.items()}
    assert {name: tables for name, tables in scanned.items() if tables} == {}
    assert {name: joins for name, joins in joined.items() if joins} == {}
    assert {name: scans for name, scans in whole.items() if scans} == {}


def touched(text):
    """Pages that were looked at."""
    found = re.search(r"Buffers: shared(?: hit=(\d+))?(?: read=(\d+))?", text)
    return sum(int(pages or 0) for pages in found.groups())


@pytest.mark.parametrize("name", ["claim", "claim_kind", "claim_kind marked"])
def test_a_claim_looks_at_what_it_takes(crowded, name):
    desk, _ = crowded
    link = Link(address(desk.store._url), TURNS)
    claim = plan(link, name, parameters(desk)[name], "(ANALYZE, BUFFERS)")
    link.close()

    assert touched(claim) < 200 * 40


def begin_at(marks):
    known = marks.known([1])
    return {"mark_kinds": known.kinds, "mark_priorities": known.priorities, "mark_dues": known.dues}


def test_claims_stay_usable_while_an_old_snapshot_is_open(crowded):
    desk, admin = crowded
    link, marks = Link(address(desk.store._url), TURNS), Marks()
    with psycopg.connect(desk.store._url, application_name="report") as reader:
        reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        reader.execute("SELECT count(*) FROM bkd.kind")
        desk.store.enqueue([NewMessage("a", priority=1) for _ in range(6_000)], desk.now)
        for _ in range(12):
            desk.now += 2_000
            desk.turn(settled=[desk.settlement(task) for task in desk.claim(500)])
        desk.store.enqueue([NewMessage("a", priority=1) for _ in range(300)], desk.now)
        values = parameters(desk)["claim"] | {"want": 1, "kinds": "{1}", "aged": False}
        from_head = touched(plan(link, "claim", values | begin_at(marks), "(ANALYZE, BUFFERS)"))
        values |= {"kind": 1, "priority": 1, "due": 0}
        kind_from_head = touched(plan(link, "claim_kind", values, "(ANALYZE, BUFFERS)"))
        kind_from_mark = touched(plan(link, "claim_kind", values | {"due": desk.now}, "(ANALYZE, BUFFERS)"))
        marks.claimed([(1, 1, desk.now)])
        from_mark = touched(plan(link, "claim", values | begin_at(marks), "(ANALYZE, BUFFERS)"))
        guard = [text for (text,) in admin.execute(SQL["old_snapshots"], {"seconds": 0}).fetchall()]
        pid = reader.info.backend_pid
    link.close()

    assert from_mark * 4 < from_head
    assert kind_from_mark * 4 < kind_from_head
    assert [text for text in guard if f"process {pid} (report of bkd" in text]


def test_retention_finds_what_it_removes_by_an_index(crowded):
    desk, admin = crowded
    admin.execute(BELONGINGS)
    link = Link(address(desk.store._url), VERBS)
    kept = {"kinds": "{1,1,2,2}", "states": "{succeeded,dead_letter,succeeded,dead_letter}", "limit": 200}
    plans = {
        "outlived": plan(link, "outlived", kept | {"sinces": numbers([ROWS // 2] * 4)}),
        "delete_ended": plan(link, "delete_ended", {"ids": numbers(range(9, 2009, 10))}),
    }
    link.close()

    scanned = {name: set(re.findall(r"Seq Scan on (\w+)", text)) & LARGE for name, text in plans.items()}
    whole = {name: WHOLE.findall(text) for name, text in plans.items()}
    assert scanned == {"outlived": set(), "delete_ended": set()}
    assert whole == {"outlived": [], "delete_ended": []}
    assert "Sort" not in plans["outlived"]
