"""A program of another language, as far as bkd can tell: speaks the wire with the client of docs/wire.md."""

import os
import subprocess
import sys
import time

from bkd_wire import Bkd, pack, struct

heard = []


def outcome(answer):
    try:
        return {"value": answer()}
    except RuntimeError as error:
        return {"error": str(error)}


def flood(envelope):
    payload = pack(envelope)
    frames = (struct.pack("<I", len(payload)) + payload) * 100
    while True:
        bkd.socket.sendall(frames)


def on(envelope):
    op, data = envelope["op"], envelope["data"]
    if op == "do:call":
        return outcome(lambda: bkd.call(**data))
    if op == "do:send":
        return bkd.send(**data)
    if op == "do:flood":
        flood(data)
    if op == "do:sleep":
        time.sleep(data)
    if op == "do:child":
        program = "from bkd_wire import Bkd; Bkd().call(':prog', 'child:spoke')"
        return subprocess.run([sys.executable, "-c", program], check=False).returncode
    if op == "do:mute-child":
        program = "from bkd_wire import Bkd; bkd = Bkd(); print(flush=True); import time; time.sleep(1000)"
        child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
        child.stdout.readline()
        return child.pid
    if op == "what:heard":
        return heard
    if op == "who:am":
        return [os.environ["BKD_SLOT"], os.getpid()]
    heard.append([op, envelope["by"], data])
    return None


bkd = Bkd(on)
print("connected", flush=True)
bkd.serve()
