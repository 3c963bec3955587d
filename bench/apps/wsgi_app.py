"""The same application for WSGI."""

from asgi_app import answer


def app(environ, start_response):
    body = answer(environ["PATH_INFO"], environ["QUERY_STRING"])
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
