"""How a worker that measures talks with the benchmark: by files in the cluster's folder."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

from bkd.ipc import ipc

LOOK = 0.05
Figures = dict[str, list[float]]


async def obey(measure: Callable[[], Awaitable[Figures]]) -> None:
    """Measure when the benchmark has everything in place, tell the figures or what went wrong, and wait for the end."""
    while not Path("go").exists():
        await asyncio.sleep(LOOK)
    try:
        told = {"figures": await measure()}
    except Exception as error:  # noqa: BLE001 - the benchmark tells of it
        told = {"failed": f"{type(error).__name__}: {error}"}
    Path("told.new").write_text(json.dumps(told))
    Path("told.new").rename("told")
    await ipc.stopped()
