import pytest

from bkd.supervisor.config.readiness import (
    AfterReady,
    HttpReady,
    LogReady,
    NotifyReady,
    TcpReady,
    parse_readiness,
)


@pytest.mark.parametrize(
    ("text", "readiness"),
    [
        ("notify", NotifyReady()),
        ("tcp:127.0.0.1:11211", TcpReady("127.0.0.1", 11211)),
        ("tcp::80", TcpReady("127.0.0.1", 80)),
        ("tcp:[::1]:80", TcpReady("::1", 80)),
        ("http:http://127.0.0.1:80/up", HttpReady("http://127.0.0.1:80/up")),
        ("http://127.0.0.1:80/up", HttpReady("http://127.0.0.1:80/up")),
        ("http:https://a", HttpReady("https://a")),
        ("after:1s", AfterReady(1.0)),
        ("after:0s", AfterReady(0.0)),
    ],
)
def test_forms_are_read(text, readiness):
    assert parse_readiness(text) == readiness


def test_an_expression_comes_compiled():
    readiness = parse_readiness(r"log:ready on port (\d+)")
    assert isinstance(readiness, LogReady)
    assert readiness.pattern.search("ready on port 80")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tcp",
        "tcp:",
        "tcp:80",
        "tcp:a:0",
        "tcp:unix:x",
        "notify:",
        "http:",
        "http:x",
        "http://",
        "log:",
        "log:(",
        "after:",
        "after:5",
        "x:y",
    ],
)
def test_the_rest_is_refused(text):
    with pytest.raises(ValueError):
        parse_readiness(text)
