"""A TCP proxy that does to connections what networks do: cut them, delay them, swallow what they carry."""

import asyncio
from contextlib import suppress

CHUNK = 1 << 16
HEAD = 4096


class Gate:
    """One direction of one connection: what comes waits until it is open, and then for `delay` seconds."""

    def __init__(self):
        self.delay = 0.0
        self.head = b""
        self.open = asyncio.Event()
        self.open.set()

    async def pump(self, reader, writer):
        with suppress(OSError):
            while data := await reader.read(CHUNK):
                self.head = (self.head + data)[:HEAD]
                await asyncio.sleep(self.delay)
                await self.open.wait()
                writer.write(data)
                await writer.drain()


class Connection:
    """`up` is the direction to the server, `down` the one back."""

    def __init__(self, near, far):
        self.up, self.down = Gate(), Gate()
        self._ends = near, far

    @property
    def listens(self):
        """Whether it has subscribed to something."""
        return b"SUBSCRIBE" in self.up.head

    async def carry(self):
        (near_in, near_out), (far_in, far_out) = self._ends
        ways = [
            asyncio.ensure_future(self.up.pump(near_in, far_out)),
            asyncio.ensure_future(self.down.pump(far_in, near_out)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            self.cut()

    def cut(self):
        for _, writer in self._ends:
            writer.transport.abort()


class Proxy:
    """Listens on the loopback, on `port`, in front of a server on another. `attempts` are the times of connections."""

    def __init__(self, target):
        self.port, self.attempts, self.connections = 0, [], []
        self.refusing = False
        self._target = target
        self._swallowing = set()
        self._tasks = set()

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_error):
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader, writer):
        self.attempts.append(asyncio.get_running_loop().time())
        if self.refusing:
            writer.transport.abort()
            return
        connection = Connection((reader, writer), await asyncio.open_connection("127.0.0.1", self._target))
        self.connections.append(connection)
        self._swallow(connection, self._swallowing)
        task = asyncio.current_task()
        self._tasks.add(task)
        try:
            await connection.carry()
        finally:
            self._tasks.discard(task)
            self.connections.remove(connection)

    def swallow(self, *directions):
        """From now on nothing goes up or down any more, as these words say, on whatever connection; none: all flows."""
        self._swallowing = set(directions)
        for connection in self.connections:
            self._swallow(connection, self._swallowing)

    @staticmethod
    def _swallow(connection, directions):
        for name in ("up", "down"):
            gate = getattr(connection, name)
            (gate.open.clear if name in directions else gate.open.set)()

    def delay(self, seconds):
        """What is on its way takes so much longer, in each direction."""
        for connection in self.connections:
            connection.up.delay = connection.down.delay = seconds

    def cut(self):
        """Every connection ends at once."""
        for connection in list(self.connections):
            connection.cut()
