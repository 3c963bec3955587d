"""`bkd init`: a commented configuration and a tiny application that run as they are; units of systemd."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

from ..ipc.errors import BkdError
from . import unitfile
from .config.groups import known_user
from .config.load import load
from .places import FILE, find_config, folder_name

VERSION_LIMIT = 5.0
CONFIG = """\
# Start it with "bkd start", look at it with "bkd status", and after a change of the code "bkd restart".

[app]
name = "{name}"

# An ASGI or WSGI application. count = "auto" is one worker for each CPU.
[workers.web]
kind = "web"
app = "app:app"
bind = ["127.0.0.1:8000"]
count = 2

# An async function of yours, kept running.
[workers.ticker]
kind = "python"
target = "app:tick"

# Any program. Take the # away to keep one running beside the application.
# [workers.cache]
# kind = "command"
# command = ["memcached", "-l", "127.0.0.1"]
# ready = "tcp:127.0.0.1:11211"
"""

APP = '''\
"""A web application and a function that ticks, both kept running by bkd."""

import asyncio
import os


async def app(scope, receive, send):
    """Greets whoever asks; put your framework's application here instead."""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
    elif scope["type"] == "http":
        body = f"Hello from process {os.getpid()}\\n".encode()
        headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


async def lifespan(receive, send):
    """Open what every worker needs at startup, close it at shutdown."""
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


async def tick():
    """Runs for ever; when it fails, it is started again."""
    while True:
        print("tick", flush=True)
        await asyncio.sleep(10)
'''


class AlreadyThere(BkdError):
    """A file that would be written is there and stays as it is."""


class NotWritable(BkdError):
    """The folder does not take the files."""


def initialise(folder: str) -> list[str]:
    """Write `bkd.toml` and `app.py` into the folder, which is made if needed; their paths are returned.

    Raises AlreadyThere, before anything is written, and NotWritable.
    """
    home = Path(folder).absolute()
    contents = {home / FILE: CONFIG.format(name=folder_name(str(home))), home / "app.py": APP}
    for path in contents:
        if path.exists() or path.is_symlink():
            raise AlreadyThere(f"{path} is there already: move it away or choose another folder")
    try:
        home.mkdir(parents=True, exist_ok=True)
        for path, content in contents.items():
            with path.open("x", encoding="utf-8") as file:
                file.write(content)
    except OSError as error:
        raise NotWritable(f"{home} cannot be written ({error.strerror}): choose another folder") from error
    return [str(path) for path in contents]


class UnknownUser(BkdError):
    """The user that the service is to run as is none of this machine."""


def units(config: str | None, *, user: str, sockets: bool) -> str:
    """The text of the service of a configuration, or of its sockets. Raises BkdError when there can be none."""
    if user and not known_user(user):
        raise UnknownUser(f"--user {user}: no such user on this machine: make it first (useradd --system {user})")
    found = load(find_config(config, os.environ), os.environ, hostname=socket.gethostname())
    plan = unitfile.Plan(found, own_command(), systemd_version(), user)
    return unitfile.sockets(plan) if sockets else unitfile.service(plan)


def own_command() -> list[str]:
    """How this bkd is called by somebody who knows no PATH."""
    script = shutil.which("bkd", path=os.path.dirname(sys.executable))
    return [script] if script else [sys.executable, "-P", "-m", "bkd"]


def systemd_version() -> int:
    """Of this machine, 0 when it has none: then the units are such that every version takes them."""
    try:
        said = subprocess.run(
            ["systemctl", "--version"], capture_output=True, text=True, timeout=VERSION_LIMIT, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return 0
    number = said.stdout.split()[1:2]
    return int(number[0]) if number and number[0].isdigit() else 0
