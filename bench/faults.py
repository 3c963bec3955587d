"""Ten ways a new version can be bad. Each is a few lines appended to the application, for Python and for Node.

`{port}` is a port that somebody else listens on.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """`reason`: pattern of what an operator must be told. `hangs`: nothing happens, so only a deadline notices it."""

    python: str
    node: str
    reason: str
    hangs: bool = False

    def told(self, text: str) -> bool:
        return re.search(self.reason, text, re.IGNORECASE) is not None


LATE = r"time[ds]?[ -]?out|not ready|did not (start|become|get)|within \d|start_timeout|deadline"
SIGNALLED = r"SIGSEGV|segfault|segmentation|signal:? ?11\b|-11\b"

FAULTS = {
    "syntax error": Fault("def broken(:", "function broken( {", "SyntaxError"),
    "exception at import": Fault(
        'raise RuntimeError("no such setting")', 'throw new Error("no such setting")', "no such setting"
    ),
    "exit at import": Fault(
        'import sys\nsys.exit("no licence")', 'console.error("no licence"); process.exit(1)', "no licence"
    ),
    "killed by a thread": Fault(
        "import threading\nthreading.Timer(0.2, os._exit, (7,)).start()",
        "setTimeout(() => process.exit(7), 200)",
        r"(exit|code|status)\D{0,20}\b7\b",
    ),
    "never ready": Fault(
        "async def startup():\n    await asyncio.Event().wait()",
        "startup = () => new Promise(() => {})",
        LATE,
        hangs=True,
    ),
    "dies 2 s after ready": Fault(
        "async def startup():\n    asyncio.get_running_loop().call_later(2, os._exit, 9)",
        "startup = async () => setTimeout(() => process.exit(9), 2000)",
        r"(exit|code|status)\D{0,20}\b9\b",
    ),
    "startup raises": Fault(
        'async def startup():\n    raise RuntimeError("no database")',
        'startup = async () => { throw new Error("no database") }',
        "no database",
    ),
    "port is taken": Fault(
        "import socket\nasync def startup():\n    socket.create_server(('127.0.0.1', {port}))",
        'startup = () => new Promise((done) => http.createServer().listen({port}, "127.0.0.1", done))',
        "in use|EADDRINUSE",
    ),
    "endless loop at import": Fault("while True:\n    pass", "for (;;);", LATE, hangs=True),
    "segfault at import": Fault(
        "import ctypes\nctypes.string_at(0)", 'process.kill(process.pid, "SIGSEGV")', SIGNALLED
    ),
}
