"""What the table of `bkd status` says of the bus."""

import pytest

from bkd.supervisor.status import table

SHOP = {"app": "shop", "state": "running", "uptime": 5.0, "host": "h1", "keeper_pid": 1, "master_pid": 2}
BUS = {"url": "redis://h/0", "connected": True, "hosts": 2, "refused": {}}
AWAY = {"connected": False, "state": "away", "since": 60.0, "error": ""}


@pytest.mark.parametrize(
    ("bus", "line"),
    [
        ({}, "bus redis://h/0, 2 hosts"),
        ({"hosts": 1, "refused": {"forged": 1}}, "bus redis://h/0, 1 host, 1 message refused"),
        ({"refused": {"forged": 1, "clock": 2}}, "bus redis://h/0, 2 hosts, 3 messages refused"),
        (AWAY | {"refused": {"clock": 1}}, "bus redis://h/0 is away for 1m, 1 message refused"),
    ],
)
def test_the_line_of_the_bus(bus, line):
    status = SHOP | {"version": "1", "bus": BUS | bus, "groups": []}

    assert table(status).splitlines()[1] == line
