"""The application's own start and stop."""

import asyncio
import sys
from typing import Any

from uvicorn import Config
from uvicorn.lifespan.off import LifespanOff
from uvicorn.lifespan.on import LifespanOn, LifespanSendMessage


class Lifespan:
    """uvicorn's lifespan, stopped at most once whoever asks first."""

    def __init__(self, config: Config) -> None:
        self.started = False
        self._steps = LifespanOff(config) if config.lifespan == "off" else _Steps(config)
        self._stop: asyncio.Task[None] | None = None

    @property
    def state(self) -> dict[str, Any]:
        """What the application wants every request to see."""
        return self._steps.state

    @property
    def failure(self) -> tuple[str, str]:
        """Why the application cannot start, as it said itself: in a line, and the whole of it."""
        return self._steps.failure if isinstance(self._steps, _Steps) else ("", "")

    async def start(self) -> bool:
        """False when the application said that it cannot start."""
        await self._steps.startup()
        self.started = not self._steps.should_exit
        return self.started

    async def stop(self) -> None:
        """Let the application clean up. Cancelling the caller does not cancel the application."""
        if not self.started:
            return
        if self._stop is None:
            self._stop = asyncio.create_task(self._steps.shutdown())
        await asyncio.shield(self._stop)


class _Steps(LifespanOn):
    failure = ("", "")

    async def send(self, message: LifespanSendMessage) -> None:
        """uvicorn logs the whole message, which the application's logging may take elsewhere: the gist to stderr."""
        if message["type"] == "lifespan.startup.failed":
            lines = message.get("message", "").strip().splitlines() or ["it gave no reason"]
            reason = f"the application's startup failed: {lines[-1]}"
            self.failure = (reason, message.get("message", ""))
            sys.stderr.write(f"{reason}\n")
        await super().send(message)
