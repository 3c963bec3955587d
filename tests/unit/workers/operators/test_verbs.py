"""The verbs of operators, over the store in memory."""

import asyncio
from typing import Any

import msgspec
import pytest

from bkd.ipc.durable.model import Attempt, NewMessage, Result, Settlement, State
from bkd.ipc.durable.policy import KindPolicy
from bkd.ipc.durable.wire import Answered, Ask, Said
from bkd.workers.operators.verbs import Operators
from bkd.workers.store.memory import MemoryStore
from bkd.workers.store.protocol import Demand, Turn

NOW = 1_760_000_000_000


class Desk:
    """Operators at a store with a node, an executor, and the kind `a`."""

    def __init__(self) -> None:
        self.store, self.now = MemoryStore(), NOW
        self.store.open()
        self.node = self.store.register("h1/x", NOW, NOW + 30_000).number
        self.holder = self.store.enlist(self.node, "jobs.1", 100, 1, NOW)
        self.store.declare(self.node, [KindPolicy("a", max_attempts=3)], NOW)
        self.said: list[Said] = []
        self.changes = 0

    def ask(self, verb: str, render: str = "json", **arguments: Any) -> Answered:
        operators = Operators(self._run, self._changed, self._put)
        return asyncio.run(operators.answer(Ask(1, verb, arguments, render, 0, "root"), self.said.append))

    def document(self, verb: str, **arguments: Any) -> Any:
        answered = self.ask(verb, **arguments)
        return msgspec.json.decode("".join(said.out for said in self.said) + answered.out)

    def add(self, *args: bytes, **more: Any) -> list[int]:
        return [r.id for r in self.store.enqueue([NewMessage("a", arg, **more) for arg in args], self.now)]

    def claim(self, number: int = 1) -> list[Any]:
        demands = [Demand(("a",), (self.holder,) * number)]
        return self.store.turn(Turn(self.now, self.node, demands=demands)).claimed[0]

    def end(self, task: Any, state: State, reason: str = "") -> None:
        result = Result.OK if state is State.SUCCEEDED else Result.ERROR
        fault = "" if result is Result.OK else "retryable"
        attempt = Attempt(task.id, task.fence, 1, 0, "jobs.1@h1", 100, self.now, self.now, result, fault, "E", "no")
        settlement = Settlement(task.id, task.fence, state, task.counters, reason=reason, attempt=attempt)
        self.store.turn(Turn(self.now, self.node, settled=[settlement]))

    def state(self, id: int) -> State:
        story = self.store.story(id)
        assert story is not None
        return story.row.state

    async def _run(self, function):
        return function(self.store, self.now)

    def _changed(self) -> None:
        self.changes += 1

    async def _put(self, messages):
        return self.store.enqueue(messages, self.now)


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_added_messages_are_there(desk):
    ids = desk.document("add", kind="a", items=[{"n": 1}, {"n": 2}], count=2)["ids"]
    assert len(ids) == 4
    listed = desk.document("list")["messages"]
    assert [one["args"] for one in listed] == [{"n": 1}, {"n": 1}, {"n": 2}, {"n": 2}]


def test_adding_many_says_how_far_it_is(desk):
    assert desk.ask("add", "text", kind="a", count=1200).code == 0
    assert [said.screen for said in desk.said] == ["500 of 1,200 stored\n", "1,000 of 1,200 stored\n"]


def test_a_key_with_a_count_would_store_one(desk):
    answered = desk.ask("add", kind="a", count=2, options={"key": "k"})
    assert answered.code == 2
    assert "--key with --count" in answered.err


def test_what_was_there_already_is_said(desk):
    desk.add(b"{}", key="k")
    answered = desk.ask("add", kind="a", items=[{}], options={"key": "k"})
    assert answered.code == 0
    assert "was there already (queued)" in answered.err


def test_arguments_over_the_limit_are_refused_and_nothing_is_stored(desk):
    answered = desk.ask("add", kind="a", items=["x" * 70_000])
    assert answered.code == 1
    assert "over the limit" in answered.err
    assert desk.document("list")["messages"] == []


def test_messages_are_found_by_an_argument(desk):
    desk.add(b'{"document_id":5000}', b'{"document_id":1}')
    listed = desk.document("list", selection={"where": [["document_id", 5000]]})["messages"]
    assert [one["args"] for one in listed] == [{"document_id": 5000}]


def test_a_long_list_says_that_there_is_more(desk):
    ids = desk.add(*[b"{}"] * 5)
    answered = desk.ask("list", "text", most=2)
    assert f"--after {ids[1]}" in answered.err
    assert desk.document("list", most=2, after=ids[1])["messages"][0]["id"] == ids[2]


@pytest.mark.parametrize("verb", ["retry", "cancel", "clone", "purge"])
def test_nothing_is_done_with_everything_by_accident(desk, verb):
    desk.add(b"{}", b"{}")
    assert "say which messages" in desk.ask(verb).err
    answered = desk.ask(verb, selection={"kinds": ["a"]})
    assert answered.code == 2
    assert "this means 2 messages: add --yes to do it, or --dry-run to see them" in answered.err
    assert desk.changes == 0


def test_one_message_is_said_in_the_singular(desk):
    desk.add(b"{}")
    chosen = {"selection": {"kinds": ["a"]}}
    assert "this means 1 message: add --yes to do it, or --dry-run to see it" in desk.ask("cancel", **chosen).err
    assert "cancel would look at 1 message\n" in desk.ask("cancel", "text", **chosen, dry_run=True).out


def test_a_dry_run_shows_and_changes_nothing(desk):
    ids = desk.add(b"{}", b"{}")
    told = desk.document("cancel", selection={"kinds": ["a"]}, dry_run=True)
    assert told == {"verb": "cancel", "dry_run": True, "matched": 2, "ids": ids}
    assert desk.state(ids[0]) is State.QUEUED


def test_waiting_messages_are_cancelled(desk):
    ids = desk.add(b"{}", b"{}")
    assert desk.document("cancel", selection={"kinds": ["a"]}, yes=True)["ids"] == ids
    assert desk.state(ids[1]) is State.CANCELLED
    assert desk.changes


def test_a_running_message_that_does_not_end_is_named(desk):
    (id,) = desk.add(b"{}")
    desk.claim()
    answered = desk.ask("cancel", selection={"ids": [str(id)]}, timeout=0.0)
    assert answered.code == 3
    assert f"still running: {id}" in answered.err


def test_dead_letters_are_run_again(desk):
    (id,) = desk.add(b"{}")
    desk.end(desk.claim()[0], State.DEAD_LETTER, "exhausted")
    assert desk.document("retry", selection={"states": ["dead_letter"]}, yes=True)["ids"] == [id]
    assert desk.state(id) is State.QUEUED


def test_retrying_what_has_succeeded_is_an_error(desk):
    (id,) = desk.add(b"{}")
    desk.end(desk.claim()[0], State.SUCCEEDED)
    answered = desk.ask("retry", selection={"ids": [str(id)]})
    assert answered.code == 1
    assert "nothing to retry" in answered.err


def test_an_unknown_message_is_an_error(desk):
    assert desk.ask("retry", selection={"ids": ["99"]}).code == 1
    assert "no message 99" in desk.ask("show", selection={"ids": ["99"]}).err


def test_clones_have_their_original_as_parent(desk):
    (id,) = desk.add(b'{"n":1}')
    (new,) = desk.document("clone", selection={"ids": [str(id)]})["created"]
    shown = desk.document("show", selection={"ids": [str(new)]})
    assert shown["parent_id"] == id
    assert shown["args"] == {"n": 1}


def test_a_guid_names_a_message_as_well(desk):
    (id,) = desk.add(b"{}")
    guid = desk.document("show", selection={"ids": [str(id)]})["guid"]
    assert desk.document("why", selection={"ids": [guid]})["id"] == id


def test_purging_leaves_the_living(desk):
    dead, living = desk.add(b"{}", b"{}")
    desk.end(desk.claim()[0], State.DEAD_LETTER, "exhausted")
    assert desk.document("purge", selection={"kinds": ["a"]}, yes=True)["ids"] == [dead]
    assert [one["id"] for one in desk.document("list")["messages"]] == [living]


def test_a_paused_kind_is_not_claimed_until_it_is_resumed(desk):
    desk.add(b"{}")
    desk.ask("pause", kinds=["a"], reason="deploy")
    assert desk.claim() == []
    assert desk.document("stats")["kinds"][0]["paused"] is True
    desk.ask("resume", kinds=["a"])
    assert len(desk.claim()) == 1


def test_pausing_a_kind_nobody_knows_is_noted_and_said(desk):
    answered = desk.ask("pause", kinds=["b"])
    assert answered.code == 0
    assert "kind b was ever seen" in answered.err


def test_a_limit_bounds_what_runs(desk):
    desk.add(b"{}", b"{}", b"{}")
    desk.ask("limit", kinds=["a"], most=2)
    assert len(desk.claim(3)) == 2


def test_history_is_told(desk):
    (id,) = desk.add(b"{}")
    desk.end(desk.claim()[0], State.DEAD_LETTER, "exhausted")
    desk.ask("retry", selection={"ids": [str(id)]})
    shown = desk.document("show", selection={"ids": [str(id)]})
    assert [one["outcome"] for one in shown["history"]] == ["error"]
    assert shown["history"][0]["error"] == {"class": "retryable", "code": "E", "text": "no", "stack": ""}
    assert [(one["actor"], one["verb"]) for one in shown["actions"]] == [("root", "retry")]


def test_long_answers_come_in_pieces(desk):
    desk.add(*[b'"' + b"x" * 60_000 + b'"'] * 5)
    listed = desk.document("list")
    assert len(listed["messages"]) == 5
    assert max(len(said.out) for said in desk.said) <= 64 * 1024


def test_a_verb_of_another_version_is_an_error(desk):
    answered = desk.ask("dance")
    assert answered.code == 2
    assert "no 'dance'" in answered.err
