"""A program that knows nothing of bkd: tells whoever connects how many teapots are left, one fewer each time."""

import socketserver
import sys
from itertools import cycle

FULL = 200


class Clerk(socketserver.StreamRequestHandler):
    """Answers one connection."""

    stock = cycle(range(FULL, 0, -1))

    def handle(self):
        left = next(self.stock)
        if left == FULL:
            print(f"{FULL} teapots delivered")
        self.wfile.write(b"%d\n" % left)


class Warehouse(socketserver.TCPServer):
    """One customer after the other."""

    allow_reuse_address = True


with Warehouse(("127.0.0.1", int(sys.argv[1])), Clerk) as warehouse:
    warehouse.serve_forever()
