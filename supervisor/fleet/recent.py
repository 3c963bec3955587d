"""What happened on this host lately, for whoever asks the whole fleet."""

import asyncio
import json
import time
from collections import deque
from pathlib import Path

from ...ipc.message import Finished
from .. import journal
from ..desk import Request, UsageError

MOST = 500
ROOM = 150_000  # characters: the newest that fit into one answer


class Recent:
    """The verb `events`: the newest lines of the journal, as JSON with the text for people."""

    def __init__(self, run_dir: str) -> None:
        self.folder = Path(run_dir)

    async def events(self, request: Request) -> Finished:
        """`since`: seconds back, None for all there is. Read beside the loop: a disk may make it wait."""
        since = request.arguments.get("since")
        if since is not None and not isinstance(since, int | float):
            raise UsageError("--since takes a duration")
        after = time.time() - since if since is not None else None
        return Finished(out=await asyncio.get_running_loop().run_in_executor(None, newest, self.folder, after))


def newest(folder: Path, after: float | None) -> str:
    """Lines of JSON, oldest first."""
    lines: deque[str] = deque(maxlen=MOST)
    for record in journal.read(folder, since=after):
        lines.append(json.dumps({**json.loads(record.line), "text": record.describe()}) + "\n")
    room = ROOM
    while lines and sum(map(len, lines)) > room:
        lines.popleft()
    return "".join(lines)
