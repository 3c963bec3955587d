"""What the store in a file promises beyond the contract: the file itself, speed that does not depend on size."""

import os
import re
import resource
import statistics
import time
from pathlib import Path

import apsw
import pytest

from bkd.ipc.durable.model import NewMessage, State
from bkd.workers.store import sqlitefile
from bkd.workers.store.indexes import indexes
from bkd.workers.store.migrations import Step, missing, refuse_old, steps
from bkd.workers.store.opening import opened
from bkd.workers.store.protocol import Demand, Filter, Lock, StoreAway, StoreError
from bkd.workers.store.sqlite import SqliteStore
from bkd.workers.store.statements import sql_files, statements

from .desk import Desk
from .stores import quick_folder

PLANES = (
    "ready|delayed|parked|lease|done|message|attempt|unique_key|idempotency|lock|output|payload|remote|item|deadline"
    "|notification|deed"
)
HOT = ("turn.sql", "enqueue.sql", "waiting.sql")
RETENTION = ("sweep.sql",)  # of the largest tables, every few seconds
SMALL = {"running", "drop_locks"}  # leases of a limited kind, and locks: there are as many as runs


@pytest.fixture
def folder():
    with quick_folder() as made:
        yield Path(made)


@pytest.fixture
def desk(folder):
    store = opened("sqlite:bkd.db", str(folder))
    store.open()
    yield Desk(store)
    store.close()


# -- the file


def test_what_is_committed_into_a_log_made_longer_is_there_after_a_crash(desk, folder, tmp_path):
    desk.store.enqueue([NewMessage("a")], desk.now)
    desk.store._db.file.lengthen_log(1_000_000)
    desk.store.enqueue([NewMessage("a")] * 3, desk.now)
    for file in folder.iterdir():  # as a dead process leaves it, except for what it had locked
        (tmp_path / file.name).write_bytes(file.read_bytes())
    after = SqliteStore(tmp_path / "bkd.db")
    after.open()

    assert os.stat(tmp_path / "bkd.db-wal").st_size >= 1_000_000
    assert (after.count(Filter()), after.check()) == (4, [])
    after.close()


def test_the_log_is_not_made_longer_where_little_is_free(desk, folder):
    before = os.stat(folder / "bkd.db-wal").st_size
    free = os.statvfs(folder)
    desk.store._db.file.lengthen_log(free.f_bavail * free.f_frsize // 10)

    assert os.stat(folder / "bkd.db-wal").st_size == before


def test_the_folder_is_made_for_its_owner_alone(folder):
    store = opened("sqlite:run/deep/bkd.db", str(folder))
    store.open()

    assert (folder / "run/deep").stat().st_mode & 0o777 == 0o700
    assert (folder / "run/deep/bkd.db").stat().st_mode & 0o777 == 0o600
    store.close()


@pytest.mark.parametrize(
    ("url", "path"),
    [("sqlite:run/x.db", "/srv/shop/run/x.db"), ("sqlite:/a/x.db", "/a/x.db"), ("sqlite:///a/x.db", "/a/x.db")],
)
def test_urls_of_files(url, path):
    assert opened(url, "/srv/shop")._db.file.path == Path(path)


@pytest.mark.parametrize("url", ["", "sqlite:", "mysql://x", "run/bkd.db"])
def test_other_urls_are_refused(url):
    with pytest.raises(StoreError, match=r"sqlite:run/bkd\.db"):
        opened(url, "/srv")


def test_one_process_at_a_time_has_the_file(desk, folder):
    other = SqliteStore(folder / "bkd.db")

    with pytest.raises(StoreAway, match=f"in use by process {os.getpid()}"):
        other.open()
    desk.store.close()
    other.open()
    other.close()


MOUNTS = """\
22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda rw
40 22 0:50 / /mnt/team\\040share rw - nfs4 server:/x rw
41 22 0:51 / /home rw - fuse.sshfs me@there: rw
42 41 0:52 / /home/local rw - xfs /dev/vdb rw
"""


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        ("/srv", "ext4"),
        ("/mnt/team share/bkd", "nfs4"),
        ("/home/me", "fuse.sshfs"),
        ("/home", "fuse.sshfs"),
        ("/homes", "ext4"),
        ("/home/local/run", "xfs"),
    ],
)
def test_the_file_system_of_a_folder_is_that_of_the_nearest_mount(place, kind):
    assert sqlitefile.file_system(place, MOUNTS) == kind


def test_network_file_systems_are_refused(folder, monkeypatch):
    mounts = folder / "mountinfo"
    mounts.write_text(f"22 1 254:1 / / rw - ext4 /dev/vda rw\n40 22 0:50 / {folder} rw - nfs4 server:/x rw\n")
    monkeypatch.setattr(sqlitefile, "MOUNTS", mounts)

    with pytest.raises(StoreError, match=r"network file system \(nfs4\).*postgresql://"):
        opened("sqlite:bkd.db", str(folder)).open()
    assert not (folder / "bkd.db").exists()


def test_a_place_that_cannot_be_is_told_in_a_line(folder):
    (folder / "file").touch()

    with pytest.raises(StoreError, match=r"cannot be used as a store: .*\[store\] url"):
        opened("sqlite:file/bkd.db", str(folder)).open()


def test_other_databases_are_not_touched(folder):
    other = apsw.Connection(str(folder / "bkd.db"))
    other.execute("CREATE TABLE theirs (x)")
    other.close()

    with pytest.raises(StoreError, match="something else"):
        opened("sqlite:bkd.db", str(folder)).open()


def test_what_is_no_database_is_refused(folder):
    (folder / "bkd.db").write_bytes(b"no database" * 1_000)

    with pytest.raises(StoreError, match="cannot be used"):
        opened("sqlite:bkd.db", str(folder)).open()


def test_a_file_that_is_gone_is_not_made_anew(desk, folder):
    desk.put()
    for file in folder.glob("bkd.db*"):
        file.rename(file.with_name(f"moved-{file.name}"))

    with pytest.raises(StoreAway, match="is gone"):
        desk.store.renew(desk.node.number, desk.now, desk.now + 1)
    with pytest.raises(StoreAway, match="is gone"):
        desk.put()
    assert not (folder / "bkd.db").exists()
    for file in folder.glob("moved-*"):
        file.rename(file.with_name(file.name.removeprefix("moved-")))
    assert len(desk.claim()) == 1


def test_a_full_disk_is_away_and_nothing_is_lost(desk):
    kept = desk.put()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        with pytest.raises(StoreAway):
            desk.store.enqueue([NewMessage("a", b"x" * 60_000)] * 50, desk.now)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert [row.id for row in desk.store.find(Filter(), 9)] == [kept.id]
    assert [task.id for task in desk.claim()] == [kept.id]
    assert desk.store.check() == []


def test_a_run_that_was_not_written_down_is_missed(desk, folder):
    desk.put()
    task = desk.claim_one()
    desk.end(task)
    assert desk.store.check() == []
    other = apsw.Connection(str(folder / "bkd.db"))
    other.execute("DELETE FROM attempt")
    other.close()

    assert desk.store.check() == [f"message {task.id} has run 1 times, of which 0 are written down"]


def test_locks_of_nobody_are_missed_and_dropped(desk, folder):
    desk.put(), desk.put()
    running, ended = desk.claim()
    desk.turn(locks=[Lock(running.id, running.fence, "mine"), Lock(ended.id, ended.fence, "freed")])
    desk.end(ended)
    assert desk.store.check() == []
    of = {"done": (ended.id, ended.fence), "gone": (4711, 1), "later": (running.id, running.fence + 1)}
    other = apsw.Connection(str(folder / "bkd.db"))
    other.executemany("INSERT INTO lock (key, message_id, fence) VALUES (?, ?, ?)", [(key, *of[key]) for key in of])
    other.close()

    assert desk.store.check() == [
        f"nobody has the lock {key} (of message {id}, fence {fence}): start the cluster, which drops it"
        for key, (id, fence) in of.items()
    ]
    desk.store.sweep(desk.now, 10)
    assert desk.store.check() == []
    assert desk.store.story(running.id).locks == ["mine"]


def test_a_turn_that_fails_has_changed_nothing(desk, folder):
    first, second, _ = desk.put(), desk.put(), desk.put()
    (task,) = desk.claim(1)
    other = apsw.Connection(str(folder / "bkd.db"))
    other.execute("DELETE FROM message WHERE id = ?", (second.id,))
    other.close()

    with pytest.raises(StoreError, match="bkd store check"):
        desk.turn(settled=[desk.settlement(task)], demands=[Demand(("a",), (desk.holder,) * 9)])
    assert desk.state(first.id) is State.RUNNING
    assert any(str(second.id) in line for line in desk.store.check())


def test_a_number_that_is_too_large_is_an_error_and_no_more(desk):
    with pytest.raises(StoreError, match="larger"):
        desk.store.story(1 << 80)
    assert desk.put().created


# -- the schema


def test_a_store_of_a_newer_version_is_refused(desk, folder):
    desk.store.close()
    other = apsw.Connection(str(folder / "bkd.db"))
    other.execute("INSERT INTO schema_step (name, at) VALUES ('9999_future', 1)")
    other.close()

    for use in (SqliteStore(folder / "bkd.db").open, SqliteStore(folder / "bkd.db").migrate):
        with pytest.raises(StoreError, match=r"newer bkd .*9999_future"):
            use()


def test_a_new_store_is_migrated_by_being_opened_and_can_be_migrated_without(folder):
    store = SqliteStore(folder / "bkd.db")

    assert store.migrate() == [step.name for step in steps("sqlite")]
    assert store.migrate() == []
    store.open()
    store.close()


def made_indexes(folder):
    """What the schema has besides what comes with its tables, in the order in which it was made."""
    connection = apsw.Connection(str(folder / "bkd.db"))
    found = connection.execute(
        "SELECT name, sql FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL"
    ).fetchall()
    connection.close()
    return found


def test_indexes_that_were_dropped_are_missed_and_made_again(desk, folder):
    made = made_indexes(folder)
    names = [name for name, _ in made]
    desk.put(key="k")
    other = apsw.Connection(str(folder / "bkd.db"))
    for name in names:
        other.execute(f"DROP INDEX {name}")
    other.close()

    assert "done_kept" in names
    assert desk.store.check() == [
        f"the index {name} is gone: run `bkd store migrate`, which makes it again" for name in names
    ]
    assert desk.store.migrate() == [f"index {name}" for name in names]
    assert (made_indexes(folder), desk.store.check(), desk.store.migrate()) == (made, [], [])
    assert not desk.put(key="k").created


def test_indexes_are_those_that_the_steps_leave():
    first = Step(
        "0001_first", "CREATE TABLE t (a, b);\nCREATE INDEX t_a ON t (a);\nCREATE UNIQUE INDEX t_b\n  ON t (b);\n"
    )
    second = Step("0002_second", "DROP INDEX t_a;\nCREATE INDEX t_ab ON t (a, b) WHERE a > 0;\n")

    assert [index.name for index in indexes([first])] == ["t_a", "t_b"]
    assert indexes([first, second]) == [
        ("t_b", "CREATE UNIQUE INDEX t_b\n  ON t (b)"),
        ("t_ab", "CREATE INDEX t_ab ON t (a, b) WHERE a > 0"),
    ]


def test_steps_that_are_missing_are_named():
    known = [Step("0001_first", ""), Step("0002_second", "")]

    assert missing(known, []) == known
    assert missing(known, ["0001_first"]) == known[1:]
    refuse_old(known, ["0001_first", "0002_second"])
    with pytest.raises(StoreError, match=r"0002_second.*bkd store migrate"):
        refuse_old(known, ["0001_first"])


def test_every_statement_says_what_it_is_for():
    for file in sql_files("sqlite"):
        text = file.read_text("utf-8")
        assert len(re.findall(r"^-- name: \w+\n-- [A-Z].*\.$", text, re.MULTILINE)) == text.count(";\n"), file.name


# -- speed


@pytest.mark.parametrize("analysed", [False, True])
def test_no_hot_statement_looks_through_a_table(desk, folder, analysed):
    found = plans_of(HOT, desk, folder, analysed)

    assert scans_in(found) == {}
    assert not any("TEMP B-TREE FOR ORDER BY" in line for line in found["offer"] + found["offer_of_level"])


@pytest.mark.parametrize("analysed", [False, True])
def test_retention_finds_what_it_removes_by_an_index(desk, folder, analysed):
    found = plans_of(RETENTION, desk, folder, analysed)

    assert scans_in(found) == {}
    assert not any("TEMP B-TREE FOR ORDER BY" in line for line in found["outlived"])


def plans_of(files, desk, folder, analysed):
    """How the statements of these files are carried out in a store where much waits and much has ended."""
    many = [NewMessage("ab"[i % 50 == 0], priority=i % 3, delay=i % 2, key=f"k{i}") for i in range(2_000)]
    desk.store.enqueue(many, desk.now)
    desk.turn(settled=[desk.settlement(task) for task in desk.claim(500)])
    connection = apsw.Connection(str(folder / "bkd.db"))
    if analysed:
        connection.execute("ANALYZE")
    wanted = {name for file in sql_files("sqlite") if file.name in files for name in names_in(file)} - SMALL
    found = {name: plan(connection, sql) for name, sql in statements("sqlite").items() if name in wanted}
    connection.close()
    return found


def scans_in(plans):
    scans = {
        name: [line for line in lines if re.search(rf"^SCAN ({PLANES}|[a-z])\b", line)] for name, lines in plans.items()
    }
    return {name: lines for name, lines in scans.items() if lines}


def names_in(file):
    return re.findall(r"^-- name: (\w+)$", file.read_text("utf-8"), re.MULTILINE)


def plan(connection, sql):
    """The lines of a plan; tables of arguments may be looked through."""
    count = len(re.findall(r"\?(?!\d)", sql)) or len(set(re.findall(r"\?\d", sql)))
    values = {"id": None, "now": None} if ":" in sql else (None,) * count
    lines = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", values)]
    return [line for line in lines if "carray" not in line and "asked" not in line]


def test_a_turn_takes_as_many_steps_whatever_waits(desk):
    few = steps_of_a_turn(desk)
    desk.store.enqueue([NewMessage("ab"[i % 2], priority=i % 5) for i in range(10_000)], desk.now)
    many = steps_of_a_turn(desk)

    assert many < few * 1.3


def steps_of_a_turn(desk):
    """Instructions of SQLite's machine that a turn takes: 50 runs end, 50 begin."""
    desk.store.enqueue([NewMessage("ab"[i % 2], priority=i % 5) for i in range(200)], desk.now)
    settled = [desk.settlement(task) for task in desk.claim(50)]
    taken = []
    connection = desk.store._db._writer
    connection.trace_v2(
        apsw.SQLITE_TRACE_PROFILE, lambda event: taken.append(event["stmt_status"]["SQLITE_STMTSTATUS_VM_STEP"])
    )
    desk.turn(settled=settled, demands=[Demand(("a", "b"), (desk.holder,) * 50)])
    connection.trace_v2(0, None)
    assert sum(taken) > 50
    return sum(taken)


@pytest.mark.slow
def test_claims_are_as_quick_with_two_hundred_thousand_waiting(desk):
    desk.store.enqueue([NewMessage("a")] * 10_000, desk.now)
    few = seconds_of_a_turn(desk)
    for _ in range(20):
        desk.store.enqueue([NewMessage("a")] * 10_000, desk.now)
    many = seconds_of_a_turn(desk)

    assert many < few * 2.5


def seconds_of_a_turn(desk):
    taken, tasks = [], desk.claim(200)
    for _ in range(15):
        begun = time.perf_counter()
        turned = desk.turn(
            settled=[desk.settlement(task) for task in tasks], demands=[Demand(("a",), (desk.holder,) * 200)]
        )
        taken.append(time.perf_counter() - begun)
        (tasks,) = turned.claimed
    return statistics.median(taken)
