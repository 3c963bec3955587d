"""The dispatcher as a process: how it is replaced, and how it ends."""

import asyncio
import sys
from asyncio.subprocess import DEVNULL, PIPE
from pathlib import Path

import pytest

from bkd.ipc.durable.model import NewMessage
from bkd.workers.dispatch.main import NO_STORE

from ..dispatching import Executor, Producer, child_executor, looped, never, ok

DISPATCHER = Path(__file__).parents[1] / "dispatcher_child.py"


pytestmark = pytest.mark.timeout(60)


async def dispatcher_child(path: Path, folder: Path, url: str = "sqlite:bkd.db"):
    """A dispatcher in a process of its own, ready."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, str(DISPATCHER), str(path), url, str(folder), stdin=PIPE, stdout=PIPE, stderr=DEVNULL
    )
    return child, (await child.stdout.readline()).decode().strip()


@looped
async def test_a_killed_dispatcher_is_replaced_and_nothing_runs_twice(path, tmp_path):
    first, said = await dispatcher_child(path, tmp_path)
    assert said == "ready"
    executor, producer = await child_executor(path), await Producer.connect(path)
    await executor.stdout.readline()
    await producer.put(NewMessage("a"))
    assert (await executor.stdout.readline()).startswith(b"run 1")

    first.kill()
    await first.wait()
    second, _ = await dispatcher_child(path, tmp_path)
    assert await executor.stdout.readline() == b"enlisted\n"
    producer = await Producer.connect(path)
    [receipt] = await producer.put(NewMessage("a"))

    assert await executor.stdout.readline() == b"run %d 1\n" % receipt.id
    for child in (second, executor):
        child.kill()
        await child.wait()


@looped
async def test_it_leaves_at_once_when_another_one_follows(path, tmp_path):
    first, _ = await dispatcher_child(path, tmp_path)
    executor = await Executor.connect(path)
    await executor.enlisted()

    first.stdin.write(b"drain\n")

    assert await first.wait() == 0
    await executor.until(lambda: executor.closed)


@looped
async def test_it_waits_for_its_executors_when_nobody_follows(path, tmp_path):
    child, _ = await dispatcher_child(path, tmp_path)
    executor, producer = await Executor.connect(path, handle=never), await Producer.connect(path)
    await producer.put(NewMessage("a"))
    await executor.until(lambda: executor.ran)
    [[task]] = executor.tasks.values()

    child.stdin.write(b"last\n")
    await producer.close()
    number = executor.end(ok(task))
    assert (await executor.stored(number)).stale == []
    await executor.close()

    assert await child.wait() == 0


@looped
async def test_sigterm_ends_it_whoever_is_there(path, tmp_path):
    child, _ = await dispatcher_child(path, tmp_path)
    executor = await Executor.connect(path)
    await executor.enlisted()

    child.terminate()

    assert (await child.stdout.readline(), await child.wait()) == (b"terminated\n", 0)


@looped
async def test_a_store_that_cannot_be_used_is_a_reason_in_one_line(path, tmp_path):
    (tmp_path / "bkd.db").write_text("this is no database, and it is long enough to be looked at" * 100)

    child, said = await dispatcher_child(path, tmp_path)

    assert said.startswith("failed ")
    assert await child.wait() == NO_STORE
