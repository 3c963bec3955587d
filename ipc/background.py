"""An event loop in a thread of its own, for processes without a main loop: plain functions, scripts, threads."""

import asyncio
import threading


class Background:
    """Started when it is first needed; a daemon thread, so that no process waits for it at its end."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """Runs, or is about to; the same one until `stop`. Raises RuntimeError when no thread can be started."""
        if self._loop is None:
            loop = asyncio.SelectorEventLoop()
            self._thread = threading.Thread(target=_run, args=[loop], name="bkd-ipc", daemon=True)
            self._thread.start()
            self._loop = loop
        return self._loop

    def stop(self, limit: float) -> None:
        """Cancel its tasks and end it; called in another thread, waits up to `limit` seconds."""
        if self._loop is not None and self._thread is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(limit)
        self._loop = self._thread = None


def _run(loop: asyncio.AbstractEventLoop) -> None:
    """Runs in the thread."""
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.get_loop().run_forever()
