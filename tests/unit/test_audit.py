"""What the journal says of commands."""

import pytest

from bkd.supervisor.audit import audited


@pytest.mark.parametrize(
    ("verb", "given", "told"),
    [
        ("restart", {"names": ["web", "jobs"], "hard": False}, ("restart", {"names": "web,jobs"})),
        ("restart", {"names": [], "hard": True}, ("restart", {"hard": "yes"})),
        ("scale", {"web": "+1"}, ("scale", {"web": "+1"})),
        ("send", {"op": "price:changed", "data": {"card": "4111"}}, ("send", {"op": "price:changed", "data": "…"})),
        ("message:add", {"kind": "mail", "items": [{"to": "x"}]}, ("message:add", {"kind": "mail", "items": "…"})),
        (
            "message:cancel",
            {"selection": {"ids": ["11"], "states": [], "where": [["number", 21]]}, "dry_run": False},
            ("message:cancel", {"ids": "11", "where": "number=21"}),
        ),
        (
            "fleet",
            {"verb": "send", "arguments": {"op": "a:b", "data": "secret", "to": "all"}, "tag": "blue"},
            ("send --fleet", {"op": "a:b", "data": "…", "to": "all", "tag": "blue"}),
        ),
        ("fleet-look", {"verb": "status", "arguments": {}}, ("status --fleet", {})),
        (
            "fleet",
            {"verb": "restart", "arguments": "nonsense"},
            ("fleet", {"verb": "restart", "arguments": "nonsense"}),
        ),
    ],
)
def test_a_command_is_told_as_it_was_typed_without_data(verb, given, told):
    assert audited(verb, given) == told


def test_what_is_told_is_bounded():
    verb, arguments = audited("x" * 100, {f"name{number}": "y" * 1000 for number in range(100)})

    assert (len(verb), len(arguments), {len(value) for value in arguments.values()}) == (40, 20, {200})
