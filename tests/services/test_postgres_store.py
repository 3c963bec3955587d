"""What only a store that many hosts share can show: they compete, die, come late, and the server goes away."""

import asyncio
import threading
import time

import psycopg
import pytest

from bkd.ipc.durable.model import NewMessage, Result, State
from bkd.ipc.durable.policy import KindPolicy
from bkd.workers.store.postgres import PostgresStore
from bkd.workers.store.protocol import Control, Demand, Filter, Lock, StoreAway, StoreError, Turn

from ..contract.desk import Desk
from .postgres import discard, emptied_url, fresh_url, new_server
from .proxy import Proxy

PATIENCE = 60.0


@pytest.fixture
def url():
    return emptied_url()


@pytest.fixture
def desks(url):
    """Two hosts at one store."""
    stores = [PostgresStore(url) for _ in range(2)]
    for store in stores:
        store.open()
    yield [Desk(store, name) for store, name in zip(stores, ("h1", "h2"), strict=True)]
    for store in stores:
        store.close()


@pytest.fixture
def lonely():
    """A server that the test may kill, and the url of a store on it."""
    server = new_server()
    yield server, server.database()
    discard(server)


def drain(desk, claims, together):
    """Claim and finish until nothing is left; what was claimed goes into `claims`."""
    together.wait(PATIENCE)
    settled = []
    while True:
        done = desk.turn(settled=settled, demands=[Demand(("a",), (desk.holder,) * 20)])
        claims += [(task.id, task.fence) for task in done.claimed[0]]
        settled = [desk.settlement(task) for task in done.claimed[0]]
        if not settled and not done.more:
            return


def test_two_hosts_compete_and_every_message_runs_once(desks):
    desks[0].store.enqueue([NewMessage("a", priority=nth % 3) for nth in range(400)], desks[0].now)
    claims, together = ([], []), threading.Barrier(2)
    threads = [
        threading.Thread(target=drain, args=(desk, mine, together)) for desk, mine in zip(desks, claims, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    for desk in desks:
        drain(desk, claims[0], threading.Barrier(1))

    assert sorted(claims[0] + claims[1]) == [
        (id, 1) for id in range(min(claims[0] + claims[1])[0], max(claims[0] + claims[1])[0] + 1)
    ]
    assert desks[0].store.count(Filter(states=(State.SUCCEEDED,))) == 400
    assert desks[0].store.check() == []


def test_what_a_dead_host_held_is_taken_over_and_its_late_word_is_recorded(desks):
    near, far = desks
    far.put()
    task = far.claim_one()
    near.now += 31_000
    near.store.renew(near.node.number, near.now, near.now + 30_000)

    (orphan,) = near.store.orphans(near.now, 10)
    assert (orphan.id, orphan.fence, orphan.slot, orphan.node) == (task.id, task.fence, "jobs.1", "h2")
    assert far.store.renew(far.node.number, near.now, near.now + 30_000).known is False

    lost = near.end(task, State.RETRY_SCHEDULED, result=Result.LOST, due=near.now)
    assert lost.stale == []
    again = near.claim_one()
    assert (again.id, again.fence, again.counters.runs) == (task.id, 2, 2)

    late = far.end(task, State.SUCCEEDED, body=b'"late"')
    assert [(held.id, held.fence) for held in late.stale] == [(task.id, 1)]
    assert near.state(task.id) is State.RUNNING
    (attempt,) = near.store.story(task.id).attempts
    assert attempt.result == Result.LOST
    assert attempt.late.startswith("ok came late")
    assert far.claim() == []


def test_a_host_that_is_ahead_of_the_clock_declares_nobody_dead(desks):
    near, far = desks
    now = near.store.clock()
    for desk in desks:
        desk.store.renew(desk.node.number, now, now + 30_000)
    far.put()
    far.claim_one()

    assert near.store.orphans(now + 3_600_000, 10) == []
    assert far.store.renew(far.node.number, now, now + 30_000).known is True


def test_a_limit_holds_over_all_hosts(desks):
    near = desks[0]
    near.store.control(Control("a", max_running=5, by="me", at=near.now))
    near.store.enqueue([NewMessage("a") for _ in range(40)], near.now)
    most, together = [], threading.Barrier(2)

    def work(desk):
        together.wait(PATIENCE)
        for _ in range(15):
            tasks = desk.claim()
            most.append(desk.store.count(Filter(states=(State.RUNNING,))))
            desk.turn(settled=[desk.settlement(task) for task in tasks])

    threads = [threading.Thread(target=work, args=(desk,)) for desk in desks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)

    assert max(most) <= 5
    assert near.store.count(Filter(states=(State.SUCCEEDED,))) == 40


def test_a_limit_counts_what_ran_before_it_was_set(desks):
    near, far = desks
    near.store.enqueue([NewMessage("a") for _ in range(9)], near.now)
    assert len(near.claim(4)) == 4
    far.store.declare(far.node.number, [KindPolicy("a", max_running=6), KindPolicy("b")], far.now)

    assert len(far.claim()) == 2
    assert near.claim() == []


def test_a_lock_is_one_hosts_and_free_when_its_lease_is_gone(desks):
    near, far = desks
    near.store.enqueue([NewMessage("a") for _ in range(2)], near.now)
    (mine,), (yours,) = near.claim(1), far.claim(1)

    assert len(near.turn(locks=[Lock(mine.id, mine.fence, "k")]).granted) == 1
    assert far.turn(locks=[Lock(yours.id, yours.fence, "k")]).granted == []
    near.end(mine, State.RETRY_SCHEDULED, result=Result.LOST, due=near.now + 60_000)
    assert len(far.turn(locks=[Lock(yours.id, yours.fence, "k")]).granted) == 1


def test_two_asking_for_one_lock_at_once_do_not_both_get_it(desks):
    near, far = desks
    for nth in range(15):
        near.store.enqueue([NewMessage("a") for _ in range(2)], near.now)
        tasks, granted, together = [near.claim(1)[0], far.claim(1)[0]], [], threading.Barrier(2)

        def ask(desk, task, key=f"k{nth}", granted=granted, together=together):
            together.wait(PATIENCE)
            granted += desk.turn(locks=[Lock(task.id, task.fence, key)]).granted

        threads = [threading.Thread(target=ask, args=pair) for pair in zip(desks, tasks, strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert len(granted) == 1


def test_killed_in_the_midst_of_turns_it_loses_nothing(lonely):
    server, url = lonely
    store = PostgresStore(url)
    store.open()
    desk = Desk(store)
    store.enqueue([NewMessage("a") for _ in range(600)], desk.now)
    ended, stop = set(), threading.Event()
    away = []

    def dispatcher():
        settled = []
        while not stop.is_set():
            turn = Turn(desk.now, desk.node.number, settled=settled, demands=[Demand(("a",), (desk.holder,) * 5)])
            try:
                done = store.turn(turn)
            except StoreAway as error:
                away.append(error)
                time.sleep(0.02)
                continue
            ended.update(one.id for one in settled)
            settled = [desk.settlement(task) for task in done.claimed[0]]
            if len(ended) == 600:
                return

    thread = threading.Thread(target=dispatcher)
    thread.start()
    try:
        for share in (100, 300):
            deadline = time.monotonic() + PATIENCE
            while len(ended) < share and time.monotonic() < deadline:
                time.sleep(0.002)
            server.kill()
            server.start()
        thread.join(PATIENCE)
    finally:
        stop.set()
        thread.join(PATIENCE)

    assert away
    assert store.count(Filter(states=(State.SUCCEEDED,))) == 600
    assert store.count(Filter(runs_over=1)) <= 10  # claimed, and the answer lost: two turns of five
    assert store.leases(desk.node.number) == []
    assert store.check() == []
    store.close()


def test_what_was_claimed_by_a_turn_whose_answer_was_lost_waits_again():
    url = fresh_url()

    async def story():
        with psycopg.connect(url, autocommit=True) as witness:
            port = witness.info.port
            async with Proxy(port) as proxy:
                store = PostgresStore(url.replace(f":{port}/", f":{proxy.port}/"))
                await asyncio.to_thread(store.open)
                desk = await asyncio.to_thread(Desk, store)
                await asyncio.to_thread(desk.put)
                mine = await asyncio.to_thread(desk.claim_one)
                await asyncio.to_thread(desk.put)
                proxy.swallow("down")
                turn = asyncio.ensure_future(asyncio.to_thread(desk.claim))
                async with asyncio.timeout(PATIENCE):
                    while witness.execute("SELECT count(*) FROM bkd.lease").fetchone() != (2,):
                        await asyncio.sleep(0.01)
                proxy.cut()
                with pytest.raises(StoreAway):
                    await turn
                proxy.swallow()
                (again,) = await asyncio.to_thread(desk.claim)
                held = await asyncio.to_thread(store.leases, desk.node.number)
                await asyncio.to_thread(store.close)
        return mine, again, held

    mine, again, held = asyncio.run(story())
    assert (again.fence, again.counters.runs, again.counters.attempts) == (2, 1, 1)
    assert {lease.id for lease in held} == {mine.id, again.id}


def test_while_the_server_is_away_it_says_so_and_then_works_again(lonely):
    server, url = lonely
    store = PostgresStore(url)
    store.open()
    desk = Desk(store)
    server.stop()

    with pytest.raises(StoreAway):
        desk.put()
    with pytest.raises(StoreAway):
        store.clock()
    server.start()
    assert desk.put().created
    store.close()


def test_what_a_person_must_mend_is_said_in_a_line(url):
    wrong = {
        url.rpartition("/")[0] + "/nowhere": "does not exist",
        url.replace("bkd@", "stranger@"): "does not exist",
        url + "?schema=Robert'); DROP": "schema",
    }
    for address, words in wrong.items():
        with pytest.raises(StoreError) as caught:
            PostgresStore(address).open()
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)


def test_schemas_are_stores_of_their_own():
    url = fresh_url(prepared=False)
    stores = [PostgresStore(f"{url}?schema={name}") for name in ("one", "two")]
    for store in stores:
        store.open()
    Desk(stores[0]).put()

    assert [store.count(Filter()) for store in stores] == [1, 0]
    for store in stores:
        store.close()


def test_hosts_that_open_a_new_store_at_once_make_its_tables_once():
    url = fresh_url(prepared=False)
    stores = [PostgresStore(url) for _ in range(4)]
    faults = []

    def opening(store):
        try:
            store.open()
        except StoreError as error:
            faults.append(error)

    threads = [threading.Thread(target=opening, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)

    assert faults == []
    assert stores[0].migrate() == []
    assert stores[0].check() == []
    for store in stores:
        store.close()


def test_a_run_that_was_not_written_down_is_missed():
    url = fresh_url(prepared=False)
    store = PostgresStore(url)
    store.open()
    desk = Desk(store)
    desk.put()
    task = desk.claim_one()
    desk.end(task)
    assert store.check() == []
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute("DELETE FROM bkd.attempt")

    assert store.check() == [f"message {task.id} has run 1 times, of which 0 are written down"]
    store.close()


def test_locks_of_nobody_are_missed_and_dropped():
    url = fresh_url()
    store = PostgresStore(url)
    store.open()
    desk = Desk(store)
    desk.put(), desk.put()
    running, ended = desk.claim()
    desk.turn(locks=[Lock(running.id, running.fence, "mine"), Lock(ended.id, ended.fence, "of an end")])
    desk.end(ended)
    assert store.check() == []
    of = {"gone": (4711, 1), "later": (running.id, running.fence + 1)}
    with psycopg.connect(url, autocommit=True) as admin:
        for key, lease in of.items():
            admin.execute("INSERT INTO bkd.lock (key, message_id, fence) VALUES (%s, %s, %s)", (key, *lease))

        assert sorted(store.check()) == [
            f"nobody has the lock {key} (of message {id}, fence {fence}): start the cluster, which drops it"
            for key, (id, fence) in of.items()
        ]
        store.sweep(desk.now, 10)
        assert store.check() == []
        assert admin.execute("SELECT key FROM bkd.lock").fetchall() == [("mine",)]
    store.close()


def test_no_more_locks_than_that_are_dropped_at_a_time():
    url = fresh_url()
    store = PostgresStore(url)
    store.open()
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute("INSERT INTO bkd.lock (key, message_id, fence) SELECT g, g, 1 FROM generate_series(1, 25) g")
    now = store.clock()
    assert [store.sweep(now, 2).unlocked for _ in range(3)] == [20, 5, 0]
    store.close()


def made_indexes(admin):
    """What the schema has besides what comes with its tables, by name."""
    return dict(
        admin.execute(
            "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'bkd'"
            " AND NOT EXISTS (SELECT 1 FROM pg_constraint WHERE conindid = format('bkd.%I', indexname)::regclass)"
        ).fetchall()
    )


def test_indexes_that_were_dropped_are_missed_and_made_again():
    url = fresh_url()
    store = PostgresStore(url)
    store.open()
    with psycopg.connect(url, autocommit=True) as admin:
        made = made_indexes(admin)
        for name in made.keys() - {"deed_message"}:
            admin.execute(f"DROP INDEX bkd.{name}")
        admin.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'bkd.deed_message'::regclass")

        assert {"done_kind", "deed_message"} < made.keys()
        assert sorted(store.check()) == [
            f"the index {name} is gone: run `bkd store migrate`, which makes it again" for name in sorted(made)
        ]
        assert sorted(store.migrate()) == [f"index {name}" for name in sorted(made)]
        assert (made_indexes(admin), store.check(), store.migrate()) == (made, [], [])
    store.close()


def test_a_schema_of_another_version_is_refused():
    url = fresh_url()
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute("INSERT INTO bkd.schema_step (name, at) VALUES ('9999_future', 0)")
    with pytest.raises(StoreError, match="newer"):
        PostgresStore(url).open()
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute("DELETE FROM bkd.schema_step WHERE name >= '0002'")
    with pytest.raises(StoreError, match="bkd store migrate"):
        PostgresStore(url).open()
