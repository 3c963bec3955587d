import asyncio
import os
import runpy

import pytest

from bkd.supervisor.config.load import load
from bkd.supervisor.initialise import AlreadyThere, NotWritable, initialise


async def answers(app, scope, *messages):
    """What the application sends when it receives these."""
    inbox, outbox = list(messages), []

    async def receive():
        return inbox.pop(0)

    async def send(message):
        outbox.append(message)

    await app(scope, receive, send)
    return outbox


def test_it_writes_what_runs_as_it_is(tmp_path):
    folder = tmp_path / "my shop"
    written = initialise(str(folder))
    assert written == [str(folder / "bkd.toml"), str(folder / "app.py")]
    config = load(written[0], {}, hostname="h1")
    assert config.app.name == "my-shop"
    assert {name: group.kind for name, group in config.workers.items()} == {"web": "web", "ticker": "python"}


def test_the_commented_group_is_right_too(tmp_path):
    path = tmp_path / "bkd.toml"
    initialise(str(tmp_path))
    head, mark, tail = path.read_text().partition("# [workers.cache]")
    path.write_text(head + mark.removeprefix("# ") + tail.replace("\n# ", "\n"))
    assert load(str(path), {}, hostname="h1").workers["cache"].ready == "tcp:127.0.0.1:11211"


def test_the_application_answers(tmp_path):
    names = runpy.run_path(initialise(str(tmp_path))[1])
    sent = asyncio.run(answers(names["app"], {"type": "http"}))
    assert sent[0]["status"] == 200
    assert sent[1]["body"] == f"Hello from process {os.getpid()}\n".encode()
    started = asyncio.run(answers(names["app"], {"type": "lifespan"}, "startup", "shutdown"))
    assert [message["type"] for message in started] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


def test_the_function_ticks(tmp_path, capsys):
    names = runpy.run_path(initialise(str(tmp_path))[1])

    async def once():
        task = asyncio.create_task(names["tick"]())
        await asyncio.sleep(0)
        task.cancel()

    asyncio.run(once())
    assert capsys.readouterr().out == "tick\n"


@pytest.mark.parametrize("name", ["bkd.toml", "app.py"])
def test_nothing_is_overwritten(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(AlreadyThere, match=f"^{tmp_path}/{name} is there already: move it away"):
        initialise(str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_a_folder_that_cannot_be_is_said(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotWritable, match=r"cannot be written .*: choose another folder"):
        initialise(str(tmp_path / "file" / "below"))
