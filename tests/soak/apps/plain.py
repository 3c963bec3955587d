"""A WSGI application that says which code answers."""

import os
import time
from urllib.parse import parse_qs

import version


def app(environ, start_response):
    query = parse_qs(environ["QUERY_STRING"])
    time.sleep(float(query.get("seconds", ["0"])[0]))
    body = f"{version.VERSION} {os.getpid()}".encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
