"""What the journal says of commands."""

import pytest

from bkd.supervisor.audit import audited, outcome


@pytest.mark.parametrize(
    ("verb", "given", "told"),
    [
        ("restart", {"names": ["web", "jobs"], "hard": False}, ("restart", {"names": "web,jobs"})),
        ("restart", {"names": [], "hard": True}, ("restart", {"hard": "yes"})),
        ("scale", {"web": "+1"}, ("scale", {"web": "+1"})),
        ("send", {"op": "price:changed", "data": {"card": "4111"}}, ("send", {"op": "price:changed", "data": "…"})),
        ("message:add", {"kind": "mail", "items": [{"to": "x"}]}, ("message:add", {"kind": "mail"})),
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


@pytest.mark.parametrize(
    ("code", "out", "err", "told"),
    [
        (0, "17\n", "", "stored 17"),
        (0, '{"ids":[17],"created":1,"refused":[]}\n', "", "stored 17"),
        (0, '{"ids":[17],"created":0}', "bkd: 17 was there already\n", "stored 17; bkd: 17 was there already"),
        (0, "".join(f"{id}\n" for id in range(1, 1001)), "", "stored 1 to 1000 (1,000 messages)"),
        (3, '{"ids":[3,5]}', "bkd: too large\n", "stored 3, 5; bkd: too large"),
        (1, '{"ids":[]}', "bkd: too large\n", "bkd: too large"),
        (1, "", "", "exit code 1"),
        (0, "what is this", "", "done"),
    ],
)  # fmt: skip
def test_what_was_added_is_told_by_its_numbers(code, out, err, told):
    assert outcome("message:add", code, out, err) == told


def test_of_other_commands_the_journal_knows_the_rest():
    assert outcome("restart", 0, "17\n", "") == "done"
    assert outcome("restart", 1, "", "bkd: a\nbkd: b\n") == "bkd: b"
