"""What answers at a unix socket as the master would: welcomes, echoes, and does what a test tells it to."""

import contextlib
import os
import socket
import threading

from bkd.ipc.frames import FrameReader, frame
from bkd.ipc.message import Hello, Refused, Welcome, body, decode, encode
from bkd.ipc.parcel import Parcel, pack, read

PATIENCE = 30.0


def echo(standin, parcel):
    """Calls get their data back, except those that are never answered."""
    if parcel.id and parcel.op != "never":
        standin.tell(Parcel("reply", parcel.data, re=parcel.id))


class Standin:
    """Serves until it is closed; each connection in a thread. `heard` are all parcels but the hellos."""

    def __init__(self, folder, answer=echo, *, refusal="", silent=False):
        self.path = os.path.join(folder, "control.sock")
        self.answer, self.refusal, self.silent = answer, refusal, silent
        self.heard, self.hellos, self._peers = [], [], []
        self._changed = threading.Condition()
        self._threads = []
        self._open()

    def _open(self):
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self.path)
        self._listener.listen()
        self._start(self._accept, self._listener)

    def _start(self, function, sock):
        self._threads.append(threading.Thread(target=function, args=[sock]))
        self._threads[-1].start()

    def _accept(self, listener):
        with contextlib.suppress(OSError):
            while True:
                self._start(self._serve, listener.accept()[0])

    def _serve(self, sock):
        reader = FrameReader()
        with contextlib.suppress(OSError), sock:
            while data := sock.recv(1 << 16):
                for payload in reader.feed(data):
                    self._take(sock, payload)

    def _take(self, sock, payload):
        envelope = decode(payload)
        self._peers = [*(peer for peer in self._peers if peer is not sock), sock]
        if envelope.op == Hello.op:
            self.hellos.append(body(envelope, Hello))
            if not self.silent:
                sock.sendall(frame(encode(Refused(self.refusal) if self.refusal else Welcome())))
            return
        parcel = read(payload)
        with self._changed:
            self.heard.append(parcel)
            self._changed.notify_all()
        self.answer(self, parcel)

    # -- for the test

    def until(self, condition):
        """Wait for what has been heard to be so."""
        with self._changed:
            assert self._changed.wait_for(condition, PATIENCE), self.heard
        return self.heard

    def tell(self, parcel):
        """To the last one who said something."""
        self.tell_bytes(pack(parcel))

    def tell_bytes(self, data):
        self._peers[-1].sendall(data)

    def cut(self):
        """End all connections; the next ones are welcomed."""
        peers, self._peers = self._peers, []
        for sock in peers:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def vanish(self):
        """As if there had never been a cluster."""
        os.unlink(self.path)
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def come_back(self):
        """Serve again."""
        self._open()

    def close(self):
        """End the threads."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(PATIENCE)
