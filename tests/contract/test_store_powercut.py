"""The power is cut at any moment: what was said to be stored is there, and the store holds together.

A layer between SQLite and the disk writes down what is written and what is known to have arrived. A cut leaves the
files as a disk may: all that was synchronised, and of the rest each write or not, the last one perhaps in part. Behind
the log there may be zeros, of which nobody knows whether they have arrived.
"""

import random
from pathlib import Path

import apsw
import pytest

from bkd.ipc.durable.model import NewMessage, State
from bkd.workers.store.protocol import Demand, Filter
from bkd.workers.store.sqlite import SqliteStore

from .desk import Desk
from .stores import quick_folder

CUTS = 30
LENGTHENED = 400_000
USUAL = "unix"


class Disk:
    """Everything that was done to the files of a database, in order: (file, what, …)."""

    def __init__(self):
        self.done = []

    def after_cut(self, moment, chance):
        """What the files hold when the power goes after so many operations."""
        past = self.done[:moment]
        files = {}
        for name in {entry[0] for entry in past}:
            ours = [entry for entry in past if entry[0] == name]
            synced = max((i for i, entry in enumerate(ours) if entry[1] in ("sync", "delete")), default=-1)
            arrived = [entry for i, entry in enumerate(ours) if i <= synced or chance.random() < 0.5]
            files[name] = _replayed(arrived, torn=bool(ours) and synced < len(ours) - 1 and chance.random() < 0.5)
            if name.endswith("-wal") and chance.random() < 0.7:
                files[name] = files[name].ljust(chance.randint(0, LENGTHENED), b"\0")
        return files


def _replayed(entries, torn):
    held = bytearray()
    for number, (_, what, *rest) in enumerate(entries):
        if what == "write":
            data, offset = rest
            data = data[: len(data) // 2] if torn and number == len(entries) - 1 else data
            held.extend(bytes(max(0, offset + len(data) - len(held))))
            held[offset : offset + len(data)] = data
        elif what in ("truncate", "delete"):
            del held[rest[0] :]
    return bytes(held)


class RecordedFile(apsw.VFSFile):
    def __init__(self, disk, name, flags):
        self.disk = disk
        self.name = Path(name.filename() if isinstance(name, apsw.URIFilename) else name or "temporary").name
        super().__init__(USUAL, name, flags)

    def xWrite(self, data, offset):
        super().xWrite(data, offset)
        self.disk.done.append((self.name, "write", bytes(data), offset))

    def xTruncate(self, size):
        super().xTruncate(size)
        self.disk.done.append((self.name, "truncate", size))

    def xSync(self, flags):
        super().xSync(flags)
        self.disk.done.append((self.name, "sync"))


class Recorded(apsw.VFS):
    def __init__(self, disk):
        self.disk = disk
        super().__init__("recorded", USUAL)

    def xOpen(self, name, flags):
        return RecordedFile(self.disk, name, flags)

    def xDelete(self, name, sync_folder):
        super().xDelete(name, sync_folder)
        self.disk.done.append((Path(name).name, "delete", 0))


@pytest.fixture
def disk():
    made = Disk()
    layer = Recorded(made)
    apsw.set_default_vfs("recorded")
    yield made
    apsw.set_default_vfs(USUAL)
    layer.unregister()


def test_what_was_stored_survives_a_cut_at_any_moment(disk, monkeypatch):
    monkeypatch.setattr("bkd.workers.store.sqlitedatabase.CHECKPOINT_PAGES", 20)
    chance = random.Random(7)
    with quick_folder() as folder:
        promises = work(disk, SqliteStore(Path(folder) / "bkd.db"), chance)
    first, last = promises[0][0], len(disk.done)
    for _ in range(CUTS):
        moment = chance.randint(first, last)
        with quick_folder() as folder:
            for name, held in disk.after_cut(moment, chance).items():
                (Path(folder) / name).write_bytes(held)
            kept = max((promise for promise in promises if promise[0] <= moment), key=lambda promise: promise[0])
            look(SqliteStore(Path(folder) / "bkd.db"), kept)


def work(disk, store, chance):
    """Use a store; what it has promised after each call: (operations done by then, messages, those that ended)."""
    store.open()
    desk, stored, ended, running = Desk(store), set(), set(), []
    promises = [(len(disk.done), set(), set())]
    for _ in range(60):
        made = [NewMessage("a", b'"%s"' % (b"x" * chance.randint(0, 900))) for _ in range(chance.randint(1, 9))]
        if chance.random() < 0.4:
            stored |= {receipt.id for receipt in store.enqueue(made, desk.now)}
        else:
            settled = [desk.settlement(task) for task in running]
            new = made if chance.random() < 0.4 else []
            turned = desk.turn(new=new, settled=settled, demands=[Demand(("a",), (desk.holder,) * 5)])
            stored |= {receipt.id for receipt in turned.receipts}
            ended |= {task.id for task in running}
            (running,) = turned.claimed
        promises.append((len(disk.done), set(stored), set(ended)))
    store.close()
    return promises


def look(store, promise):
    _, stored, ended = promise
    store.open()
    assert store.check() == []
    rows = store.find(Filter(), 10_000)
    assert {row.id for row in rows} >= stored
    assert {row.id for row in rows if row.state is State.SUCCEEDED} >= ended
    assert all(row.args.startswith(b'"') for row in rows)
    (receipt,) = store.enqueue([NewMessage("a")], store.clock())
    assert receipt.id > max((row.id for row in rows), default=0)
    store.close()
