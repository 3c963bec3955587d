"""A program that owns its port: `program.py PORT` answers with the version in `version.py` and its pid. It takes its
time to end."""

import os
import signal
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import version


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        body = f"{version.VERSION} {os.getpid()}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def end(_number, _frame):
    time.sleep(0.7)
    os._exit(0)


signal.signal(signal.SIGTERM, end)
HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
