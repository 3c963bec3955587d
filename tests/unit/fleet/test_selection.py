"""Which hosts a command is for."""

import pytest

from bkd.supervisor.bus.orders import GroupRow, HostRow
from bkd.supervisor.desk import UsageError
from bkd.supervisor.fleet.selection import STALE, Seen, Selector, select
from bkd.supervisor.fleet.verbs import VERBS, groups_of, here, touched


def inventory(text):
    """`h1:eu:web,jobs h2` -> hosts with their tags and groups."""
    found = {}
    for word in text.split():
        host, tag, groups = [*word.split(":"), "", ""][:3]
        rows = tuple(GroupRow(group, "web", 1, 1, 1) for group in groups.split(",") if group)
        found[host] = Seen(HostRow(host, tag, "1", groups=rows), 100.0)
    return found


FLEET = inventory("h3:eu:web h1:eu:web,jobs h2:us:jobs h10::web")


@pytest.mark.parametrize(
    ("selector", "hosts"),
    [
        (Selector(), "h1 h10 h2 h3"),
        (Selector(tag="eu"), "h1 h3"),
        (Selector(groups=("jobs",)), "h1 h2"),
        (Selector(groups=("jobs", "web")), "h1 h10 h2 h3"),
        (Selector(groups=("jobs", "nope")), "h1 h2"),
        (Selector(hosts=("h3", "h1")), "h1 h3"),
        (Selector(hosts=("h3", "h2"), groups=("web",)), "h3"),
        (Selector("eu", ("h1", "h2"), ("jobs",)), "h1"),
    ],
)
def test_hosts_that_fit_come_in_the_order_of_their_names(selector, hosts):
    assert select(FLEET, selector) == tuple(hosts.split())


@pytest.mark.parametrize(
    ("selector", "why"),
    [
        (Selector(hosts=("h1", "h9")), "no host h9; the bus knows h1 (tag eu), h10, h2 (tag us), h3 (tag eu)"),
        (Selector(tag="asia"), "no host with the tag asia; the bus knows"),
        (Selector(groups=("cache", "db")), "no host with the group cache or db; the bus knows"),
        (Selector("us", ("h1",)), "no host named h1 and with the tag us; the bus knows"),
    ],
)
def test_who_fits_nobody_is_told_who_there_is(selector, why):
    with pytest.raises(UsageError) as error:
        select(FLEET, selector)
    assert str(error.value).startswith(why)


def test_an_empty_inventory_has_nobody():
    with pytest.raises(UsageError, match="no host at all; the bus knows none"):
        select({}, Selector())


def test_a_selector_is_made_of_what_a_command_was_given():
    assert Selector.of({"tag": "eu", "hosts": ["h1"]}, ("web",)) == Selector("eu", ("h1",), ("web",))
    assert Selector.of({"tag": None, "hosts": None}) == Selector()


@pytest.mark.parametrize("about", [{"tag": 7}, {"hosts": "h1"}, {"hosts": [1]}, {"hosts": {"h1": 1}}])
def test_a_selector_takes_names_only(about):
    with pytest.raises(UsageError):
        Selector.of(about)


@pytest.mark.parametrize(("later", "silent"), [(0.0, False), (STALE, False), (STALE + 0.1, True), (-5.0, False)])
def test_a_host_is_silent_after_a_while(later, silent):
    assert FLEET["h1"].is_silent(100.0 + later) is silent


@pytest.mark.parametrize(
    ("verb", "arguments", "groups"),
    [
        ("restart", {"names": ["web", "jobs"]}, ("web", "jobs")),
        ("restart", {}, ()),
        ("restart", {"names": None}, ()),
        ("rollback", {"name": "web"}, ("web",)),
        ("scale", {"web": "4", "jobs": "+1"}, ("web", "jobs")),
        ("reload", {}, ()),
        ("stop", {}, ()),
        ("status", {"names": ["web.1"]}, ()),
    ],
)
def test_the_groups_that_a_command_names(verb, arguments, groups):
    assert verb in VERBS
    assert groups_of(verb, arguments) == groups


@pytest.mark.parametrize(
    ("verb", "arguments"),
    [
        ("restart", {"names": ["web.1"]}),
        ("restart", {"names": [7]}),
        ("restart", {"names": 7}),
        ("restart", {"names": "web"}),
        ("rollback", {}),
        ("rollback", {"name": "web.2"}),
        ("scale", {"web.1": "4"}),
    ],
)
def test_single_slots_and_what_is_no_name_are_not_for_the_fleet(verb, arguments):
    with pytest.raises(UsageError):
        groups_of(verb, arguments)


def test_a_rollout_holds_what_it_names_or_all_there_is():
    assert touched(("web",), list(FLEET.values())) == ("web",)
    assert touched((), list(FLEET.values())) == ("jobs", "web")
    assert touched((), []) == ()


def test_a_host_does_what_it_can_of_what_is_named():
    assert here("restart", {"names": ["web", "jobs"], "hard": True}, ["jobs"]) == {"names": ["jobs"], "hard": True}
    assert here("scale", {"web": "1", "jobs": "2"}, ["jobs"]) == {"jobs": "2"}
    assert here("scale", {"web": "1"}, ["jobs"]) == {"web": "1"}
    assert here("restart", {"names": ["web"]}, []) == {"names": ["web"]}
    assert here("restart", {}, ["web"]) == {}
