"""A foreign program that speaks sd_notify, and goes on saying that it is well."""

import os
import signal
import socket
import sys
import time


def say(text):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(text.encode(), os.environ["NOTIFY_SOCKET"])


signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
say("READY=1\nSTATUS=serving\n")
while True:
    time.sleep(1.0)
    try:
        say("WATCHDOG=1")
    except OSError as error:
        print("nobody listens:", error, flush=True)
