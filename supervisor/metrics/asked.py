"""The head of a request: what of HTTP/1.1 a scrape needs. Pure."""

import re
from typing import NamedTuple

LONGEST = 8 << 10
METHODS = ("GET", "HEAD")

_LINE = re.compile(rb"([A-Z]{1,20}) (/[!-~]*) HTTP/1\.[01]")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n\0]*)")


class Asked(NamedTuple):
    """A request. `path` is without what stands behind a question mark, `accept` what the client takes."""

    method: str
    path: str
    accept: str


def parse(head: bytes) -> Asked:
    """Everything up to the empty line; raises ValueError when it is no HTTP/1.x."""
    first, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    line = _LINE.fullmatch(first)
    if line is None:
        raise ValueError("the first line is no request of HTTP/1.1")
    accept = []
    for text in lines:
        header = _HEADER.fullmatch(text)
        if header is None:
            raise ValueError("a header has no name")
        if header[1].lower() == b"accept":
            accept.append(header[2].decode("latin-1"))
    return Asked(line[1].decode(), line[2].decode().partition("?")[0], ",".join(accept))


def takes_openmetrics(accept: str) -> bool:
    """Whether the client names OpenMetrics 1.0 among what it takes, and does not refuse it with `q=0`."""
    for kind in accept.lower().split(","):
        name, *parameters = (part.strip().replace(" ", "") for part in kind.split(";"))
        if name == "application/openmetrics-text" and not {"q=0", "q=0.0"} & set(parameters):
            return any(text in ("version=1.0.0", 'version="1.0.0"') for text in parameters) or not any(
                text.startswith("version=") for text in parameters
            )
    return False
