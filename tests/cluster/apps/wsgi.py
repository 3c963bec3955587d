"""A WSGI application: `/pid` and `/sleep?3`."""

import os
import time


def app(environ, start_response):
    path, query = environ["PATH_INFO"], environ["QUERY_STRING"]
    if path == "/sleep":
        print("asked", flush=True)
        time.sleep(float(query))
    body = f"{'slept ' if path == '/sleep' else ''}{os.getpid()}".encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
