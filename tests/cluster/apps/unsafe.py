"""An application that leaves at import whatever does not belong into a fork."""

import asyncio
import random
import signal
import socket
import subprocess
import threading

from shop import app as app


def watch():
    threading.Event().wait()


listener = socket.create_server(("127.0.0.1", 0))
connection = socket.create_connection(listener.getsockname())
thread = threading.Thread(target=watch, name="watcher", daemon=True)
thread.start()
loop = asyncio.new_event_loop()
dice = random.Random(6)
child = subprocess.Popen(["sleep", "60"])
log = open("unsafe.log", "w")  # noqa: SIM115
signal.signal(signal.SIGUSR1, lambda _number, _frame: None)
