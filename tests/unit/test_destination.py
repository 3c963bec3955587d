"""`to` of a message."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bkd.ipc.errors import RefusedError
from bkd.supervisor.destination import Destination, Reach, parse


@pytest.mark.parametrize(
    ("to", "meant"),
    [
        ("server", Destination(Reach.MASTER, "server")),
        ("web", Destination(Reach.GROUP, "web")),
        ("web.2", Destination(Reach.SLOT, "web.2")),
        ("my-jobs_2.10", Destination(Reach.SLOT, "my-jobs_2.10")),
        (":web", Destination(Reach.ROLE, "web")),
        (":web:blue", Destination(Reach.ROLE, "web", "blue")),
        (":all", Destination(Reach.ROLE, "all")),
        ("shop:web", Destination(Reach.ROLE, "web")),
        ("shop:web:blue", Destination(Reach.ROLE, "web", "blue")),
        (":server", Destination(Reach.ROLE, "server")),
    ],
)
def test_who_is_meant(to, meant):
    assert parse(to, "shop") == meant


def test_the_group_of_a_slot():
    assert parse("web.2", "shop").group == "web"
    assert parse("web", "shop").group == "web"


@pytest.mark.parametrize(
    "to", ["", ".", "web.", "web.0", "web.x", "Web", "web 2", ":", "::", "other:web", ":web:a:b", "x" * 500]
)
def test_nobody_is_meant(to):
    with pytest.raises(RefusedError) as refused:
        parse(to, "shop")
    assert "\n" not in str(refused.value)


@given(st.text(max_size=40))
def test_whatever_is_said_is_understood_or_refused(to):
    try:
        assert parse(to, "shop").name
    except RefusedError as refused:
        assert len(str(refused)) < 200
