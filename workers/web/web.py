"""An application made ready in the zygote, and served in each worker forked from it."""

import asyncio
import logging
import signal
import socket
from collections.abc import Callable
from typing import Any

from a2wsgi import WSGIMiddleware
from uvicorn import Config

from ...ipc.message import WebWork
from ..supervision import Supervision
from .accept import true_listener
from .balance import Balance
from .interface import Interface, find, look, strict
from .protocol import Http
from .server import Server


def prepare(work: WebWork) -> "Web":
    """Called in the zygote, before any fork: import the application and load what every worker needs.

    Creates no loop, thread or socket. Raises AppError when the application cannot be used, and whatever its import
    raises.
    """
    app = find(work.app)
    interface = look(app, work.app)
    config = _wsgi(app) if interface is Interface.WSGI else _asgi(app, interface)
    _quiet_uvicorn()
    config.load()
    return Web(config, work)


def _asgi(app: Any, interface: Interface) -> Config:
    return _config(strict(app, interface), interface="asgi2" if interface is Interface.ASGI2 else "asgi3")


def _wsgi(app: Any) -> Config:
    return _config(strict(WSGIMiddleware(app), Interface.ASGI3), interface="asgi3", ws="none", lifespan="off")


def _config(app: Callable[..., Any], **options: Any) -> Config:
    return Config(app, http=Http, loop="uvloop", log_config=None, access_log=False, workers=1, **options)


def _quiet_uvicorn() -> None:
    """uvicorn tells of each start and stop, as bkd does. Levels the application has set are left alone, but its
    logging configuration may have disabled the logger that will say why a startup failed."""
    uvicorn = logging.getLogger("uvicorn.error")
    uvicorn.disabled = False
    if uvicorn.level == logging.NOTSET:
        uvicorn.setLevel(logging.WARNING)


class Web:
    """An application ready to be served; forking copies it."""

    def __init__(self, config: Config, work: WebWork) -> None:
        self.config = config
        self.work = work
        self._new_loop = config.get_loop_factory() or asyncio.new_event_loop

    def serve(self, listeners: list[socket.socket], supervision: Supervision, index: int = 0) -> int:
        """Called in the forked worker's main thread; takes the listeners over and returns the exit code.

        0: drained · 1: SIGTERM cut something off · 3: the application's startup failed, its reason is on stderr.
        `index` is this worker's place in the file `work.slots`. After a SIGTERM tasks and threads of the application
        may still run: the caller leaves by os._exit.
        """
        loop = self._new_loop()
        server = Server(self.config, loop, supervision, Balance.open(self.work.slots, index), self.work.lame_duck)
        code = loop.run_until_complete(server.run([true_listener(listener) for listener in listeners]))
        if not server.terminated:
            loop.close()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the exit code is settled
        return code
