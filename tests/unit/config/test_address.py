import pytest

from bkd.supervisor.config.address import Inet, Inherited, Unix, absolute_address, clash, parse_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8000", Inet("127.0.0.1", 8000)),
        ("localhost:0", Inet("localhost", 0)),
        (":8000", Inet("", 8000)),
        ("[::1]:8000", Inet("::1", 8000)),
        ("[0:0::1]:65535", Inet("::1", 65535)),
        ("unix:run/web.sock", Unix("run/web.sock")),
        ("fd:web", Inherited("web")),
    ],
)
def test_addresses_are_read(text, address):
    assert parse_address(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "8000",
        "a:",
        "a:b",
        "a:65536",
        "a:-1",
        "::1:8000",
        "[::1:8000",
        "[x]:1",
        "unix:",
        "fd:",
        "a b:1",
        "http://a:1",
        "a:١",
    ],
)
def test_what_is_no_address_is_refused(text):
    with pytest.raises(ValueError):
        parse_address(text)


def test_paths_of_sockets_become_absolute():
    assert absolute_address("unix:run/a.sock", "/srv/app") == "unix:/srv/app/run/a.sock"
    assert absolute_address("unix:/run/a.sock", "/srv/app") == "unix:/run/a.sock"
    assert absolute_address(":80", "/srv/app") == ":80"


def test_every_interface_is_one_address_and_any_port_none():
    assert clash(Inet("", 80)) == clash(Inet("0.0.0.0", 80)) == clash(Inet("::", 80))
    assert clash(Inet("", 80)) != clash(Inet("", 81))
    assert clash(Inet("127.0.0.1", 0)) is None
    assert clash(Unix("/a/./b")) == clash(Unix("/a/b"))
