"""What `enqueue` was told is checked before it is put together with the messages of others."""

import uuid

import pytest

from bkd.ipc.durable.guid import new_guids
from bkd.ipc.durable.model import Routing
from bkd.ipc.errors import RefusedError
from bkd.workers.messages.draft import draft, drafts

GUID = "01a2049b-8ddb-77f7-b8a8-6d03f1a91b23"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"unique": 7}, "`$.unique`"),
        ({"key": 7}, "`$.key`"),
        ({"key": "\ud800"}, "surrogates not allowed"),
        ({"priority": "5"}, "`$.priority`"),
        ({"priority": 2**70}, "2**64"),
        ({"max_attempts": "3"}, "`$.max_attempts`"),
        ({"notify": None}, "`$.notify`"),
        ({"notify": "x" * 20_000}, "over the limit"),
        ({"payload": "text"}, "`$.payload`"),
        ({"guid": 7}, "`$.guid`"),
        ({"tracking_id": 7}, "`$.routing.tracking_id`"),
        ({"routing": Routing(tenant=7)}, "`$.routing.tenant`"),
    ],
)
def test_an_option_of_the_wrong_kind_is_refused_by_its_name(options, said):
    with pytest.raises(RefusedError) as refused:
        draft("a", {}, 0, options)

    assert said in str(refused.value)


def test_a_kind_that_cannot_be_is_refused():
    for kind in ("k" * 20_000, "\ud800", "", "invoice send", "a" * 101, "a\n"):
        with pytest.raises(RefusedError):
            draft(kind, {}, 0, {})


def test_a_guid_is_a_uuid_in_its_usual_form():
    assert draft("a", {}, 0, {"guid": GUID.upper().replace("-", "")}).guid == GUID
    with pytest.raises(RefusedError, match="'invoice-7' is no guid"):
        draft("a", {}, 0, {"guid": "invoice-7"})


def test_what_is_right_goes_through_as_it_is():
    drafted = draft("é", {"a": 1}, 0, {"unique": "u", "payload": b"x" * 1000, "routing": Routing(tenant="t")})

    assert (drafted.kind, drafted.args, drafted.unique, len(drafted.payload)) == ("é", b'{"a":1}', "u", 1000)


def test_many_are_drafted_as_each_would_be():
    some, options = [{"a": 1}, None, {"b": 2}], {"delay": "2s", "tracking_id": "t", "deadline": 60}
    one_by_one = [draft("a", args, 5, options | {"guid": GUID}) for args in some]

    assert drafts("a", some, 5, options | {"guid": GUID}) == one_by_one
    assert len({each.guid for each in drafts("a", some, 5, options)}) == 3
    assert drafts("a", [], 5, options) == []


def test_one_of_many_that_is_too_large_refuses_all():
    with pytest.raises(RefusedError, match="arguments of 70,002 bytes"):
        drafts("a", ["", "x" * 70_000], 0, {})


def test_guids_are_uuids_of_version_7_that_sort_as_they_were_made():
    guids = [guid for _ in range(3) for guid in new_guids(300)]
    parsed = [uuid.UUID(guid) for guid in guids]

    assert {(each.version, each.variant) for each in parsed} == {(7, uuid.RFC_4122)}
    assert [str(each) for each in parsed] == guids
    assert len(set(guids)) == 900
    assert guids[:300] == sorted(guids[:300])
