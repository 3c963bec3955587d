"""The client of the benchmarks: who answers on this port, and since when."""

import asyncio
import socket
import time
from collections.abc import Callable

from place import HOST

HOLD_MS = 20
"""A swept worker is kept busy this long, so that the next connection finds another one."""
PACE = 0.001
RETRY_REFUSED = 0.005


class NoAnswerError(RuntimeError):
    """Nobody, or too few, answered in the time allowed."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def request(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n".encode()


def _number_in(answer: bytes) -> int:
    """The number that is the body of an answer; ValueError when it is broken off or no 200."""
    head, _, body = answer.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise ValueError(f"not an answer: {head[:60]!r}")
    return int(body)


def ask_pid(port: int, timeout: float) -> int:
    """Pid of the worker that answers one GET on a connection of its own; OSError or ValueError when none does."""
    return _ask(port, "/pid", timeout)


def _ask(port: int, path: str, timeout: float) -> int:
    with socket.create_connection((HOST, port), timeout) as connection:
        connection.sendall(request(path))
        answer = b""
        while chunk := connection.recv(4096):
            answer += chunk
    return _number_in(answer)


def only_version(port: int, version: int, asks: int = 8) -> bool:
    """Whether so many requests, each on a connection of its own, are all answered by this version."""
    try:
        return all(_ask(port, "/version", timeout=1) == version for _ in range(asks))
    except (OSError, ValueError):
        return False


def replaced_after(port: int, old: int, since: float, limit: float, patience: float) -> float:
    """Seconds from `since` until another process than `old` has answered; infinite when `limit` is over.

    Asks at once and again after every failure; a request without answer is given up after `patience`
    seconds. Only after a refused connection there is a pause of half a millisecond, to leave the CPU to the peer.
    """
    while time.monotonic() - since < limit:
        try:
            if ask_pid(port, patience) != old:
                return time.monotonic() - since
        except ConnectionRefusedError:
            time.sleep(0.0005)
        except (OSError, ValueError):
            continue
    return float("inf")


def answering(port: int, count: int, lives: Callable[[], bool], limit: float = 60) -> dict[int, float]:
    """`{pid: monotonic time of its first answer}` of `count` workers; NoAnswerError when they are fewer after
    `limit` seconds, or the peer lives no more.

    Workers that have answered are kept busy for a moment. Only two requests more than workers seen
    are out at a time: a longer queue would end up with the first worker that boots, and delay the others.
    """
    seen = asyncio.run(_sweep(port, count, lives, time.monotonic() + limit))
    if len(seen) < count:
        raise NoAnswerError(f"{len(seen)} of {count} workers answered")
    return seen


async def _sweep(port: int, count: int, lives: Callable[[], bool], deadline: float) -> dict[int, float]:
    seen: dict[int, float] = {}
    out: set[asyncio.Task[None]] = set()
    while len(seen) < count and time.monotonic() < deadline and lives():
        if len(out) < len(seen) + 2:
            task = asyncio.create_task(_visit(port, seen))
            out.add(task)
            task.add_done_callback(out.discard)
        await asyncio.sleep(PACE)
    for task in out:
        task.cancel()
    await asyncio.gather(*out, return_exceptions=True)
    return seen


async def _visit(port: int, seen: dict[int, float]) -> None:
    try:
        async with asyncio.timeout(5):
            pid = await ask_pid_async(port, f"/pid?ms={HOLD_MS}")
        seen.setdefault(pid, time.monotonic())
    except OSError:  # not listening yet, or given up: TimeoutError is one
        await asyncio.sleep(RETRY_REFUSED)
    except ValueError:
        await asyncio.sleep(RETRY_REFUSED)


async def ask_pid_async(port: int, path: str) -> int:
    """As `ask_pid`, for a path of one's own."""
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        writer.write(request(path))
        return _number_in(await reader.read(-1))
    finally:
        writer.close()


async def kept_pids(port: int, count: int) -> list[int]:
    """The pids behind `count` kept connections, opened together."""
    pairs = await asyncio.gather(*(asyncio.open_connection(HOST, port) for _ in range(count)))
    try:
        for _, writer in pairs:
            writer.write(b"GET /pid HTTP/1.1\r\nHost: bench\r\n\r\n")
        return list(await asyncio.gather(*(_kept_answer(reader) for reader, _ in pairs)))
    finally:
        for _, writer in pairs:
            writer.close()


async def _kept_answer(reader: asyncio.StreamReader) -> int:
    async with asyncio.timeout(10):
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        return int(await reader.readexactly(length))
