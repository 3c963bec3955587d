"""Names of events, seeds, and the rule `may`."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bkd.supervisor.ops import SEEDS, allowed, concerned, missing, refusal

GROUPS = ["web", "api", "jobs"]


@pytest.mark.parametrize("op", ["price:changed", "a:b", "user.7:login_failed", "x:y:z", "9-9:_", "a:" + "b" * 198])
def test_names_of_events(op):
    assert refusal(op) == ""


@pytest.mark.parametrize(
    ("op", "why"),
    [
        ("", "noun:verb"),
        ("price", "noun:verb"),
        (":changed", "noun:verb"),
        ("price:", "noun:verb"),
        ("price:chang ed", "noun:verb"),
        ("prix:changé", "noun:verb"),
        ("a:b\n", "noun:verb"),
        ("a:" + "b" * 199, "at most 200"),
        ("worker:drain", "bkd's own"),
        ("zygote:fork", "bkd's own"),
        ("command:run", "bkd's own"),
        ("shell:run", "bkd's own"),
        ("ipc:lru:del", "bkd's own"),
        ("api:ready", "a fact"),
        ("api:v2:ready", "a fact"),
        ("repl:init", "use bkd shell NAME"),
        ("repl:shutdown", "use bkd shell NAME"),
    ],
)
def test_names_that_are_refused(op, why):
    assert why in refusal(op)
    assert "\n" not in refusal(op)


@pytest.mark.parametrize(
    ("may", "verb", "groups", "answer"),
    [
        ([], "restart", ["web"], False),
        (["restart:web"], "restart", ["web"], True),
        (["restart:web"], "restart", ["web", "api"], False),
        (["restart:web", "restart:api"], "restart", ["web", "api"], True),
        (["restart:*"], "restart", ["web", "api"], True),
        (["restart"], "restart", ["web"], True),
        (["restart:web"], "rollback", ["web"], False),
        (["scale:*"], "scale", ["web"], True),
        (["reload"], "reload", [], True),
        (["reload:web"], "reload", [], False),
        (["restart:web"], "restart", [], False),
    ],
)
def test_may(may, verb, groups, answer):
    assert allowed(may, verb, groups) is answer
    assert (missing(may, verb, groups) == []) is answer


@given(st.sets(st.sampled_from([f"{verb}:{group}" for verb in ("restart", "scale") for group in GROUPS])))
def test_what_is_missing_is_what_makes_it_allowed(may):
    for verb in ("restart", "scale", "reload"):
        groups = GROUPS if verb != "reload" else []
        assert allowed([*may, *missing(may, verb, groups)], verb, groups)


@pytest.mark.parametrize(
    ("verb", "arguments", "groups"),
    [
        ("restart", {}, GROUPS),
        ("restart", {"names": []}, GROUPS),
        ("restart", {"names": ["web.2", "api"]}, ["web", "api"]),
        ("restart", {"names": "web"}, GROUPS),
        ("rollback", {"name": "web"}, ["web"]),
        ("rollback", {}, ["None"]),
        ("scale", {"web": "4", "jobs": "+1"}, ["web", "jobs"]),
        ("reload", {"dry_run": True}, []),
    ],
)
def test_what_a_command_concerns(verb, arguments, groups):
    assert concerned(verb, arguments, GROUPS) == groups


def test_seeds():
    kinds = {"web": "web", "admin": "web", "ticker": "python", "cache": "command", "jobs": "messages"}

    assert SEEDS["api:restart"].arguments(kinds)["names"] == ["web", "admin"]
    assert SEEDS["worker:restart"].arguments(kinds)["names"] == ["ticker", "jobs"]
    assert SEEDS["config:init"].verb == "reload"


def test_a_seed_for_nobody_says_so():
    seed = SEEDS["api:restart"]

    assert seed.lacks(seed.arguments({"cache": "command"})) == "there is no group of kind web"
    assert seed.lacks(seed.arguments({"web": "web"})) == ""
    assert SEEDS["config:init"].lacks(SEEDS["config:init"].arguments({})) == ""
