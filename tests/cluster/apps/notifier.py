"""A foreign program that speaks sd_notify, as its manual page describes it; waits for the file `open` before READY."""

import os
import socket
import time

while not os.path.exists("open"):
    time.sleep(0.02)
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
    sock.sendto(b"READY=1\nSTATUS=serving\n", os.environ["NOTIFY_SOCKET"])
time.sleep(600)
