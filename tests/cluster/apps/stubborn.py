"""A program that hears no SIGTERM, with a child, a grandchild, and a descendant in a session of its own that hear none
either. Prints all their pids."""

import os
import signal
import time

for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
if os.fork() == 0 and os.fork() == 0 and os.fork() == 0:
    os.setsid()
os.write(1, f"pid {os.getpid()}\n".encode())
time.sleep(600)
