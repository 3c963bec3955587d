"""The verbs of operators, over a store. Each asks the store in small steps, so that messages go on meanwhile."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol, TypeVar

import msgspec

from ...ipc.durable.model import NewMessage, Receipt
from ...ipc.durable.policy import KindPolicy
from ...ipc.durable.wire import Answered, Ask, Said
from ...ipc.errors import BkdError
from ...ipc.quantity import counted
from ..messages.draft import draft
from ..store.protocol import Control, Filter, Row, Store, Story, Tally
from . import documents, pages
from .explain import Surroundings, explain
from .questions import Add, Bulk, Look, Part, Switch
from .selection import Usage, filter_of
from .uploads import Uploads

PAGE = 500
PIECE = 64 * 1024  # characters
MOST_LISTED = 1000
MOST_AT_ONCE = 16 << 20  # bytes of payloads in a transaction
LOOK_AGAIN = 0.05
USAGE, FAILED, PARTLY = 2, 1, 3
Say = Callable[[Said], None]
T = TypeVar("T")


class Run(Protocol):
    """Runs a function of the store and of the present moment (ms of UTC) where the store may be used."""

    def __call__(self, function: Callable[[Store, int], T], /) -> Awaitable[T]: ...


class Put(Protocol):
    """Stores messages as a producer does."""

    def __call__(self, messages: list[NewMessage], /) -> Awaitable[list[Receipt]]: ...


class Request:
    """One question with where its answer goes."""

    def __init__(self, ask: Ask, say: Say) -> None:
        self.ask, self._say = ask, say
        self.json = ask.render == "json"

    def arguments(self, kind: type[T]) -> T:
        """Decoded; raises Usage."""
        try:
            return msgspec.convert(self.ask.arguments, kind)
        except msgspec.ValidationError as error:
            raise Usage(f"{self.ask.verb}: {error}") from error

    def progress(self, text: str) -> None:
        """A line that replaces the last one."""
        if not self.json:
            self._say(Said(self.ask.number, screen=f"{text}\n"))

    def answer(self, document: Any, text: str, code: int = 0, err: str = "") -> Answered:
        """The end: the document or the text."""
        out = msgspec.json.encode(document).decode() + "\n" if self.json else pages.harmless(text)
        while len(out) > PIECE:
            self._say(Said(self.ask.number, out[:PIECE]))
            out = out[PIECE:]
        return Answered(self.ask.number, code, out, err)


class Operators:
    """Answers what operators ask. `changed` is called when something may run, or is to end, that was not before."""

    def __init__(self, run: Run, changed: Callable[[], None], put: Put) -> None:
        self._run, self._changed, self._put = run, changed, put
        self._uploads = Uploads(time.monotonic)
        self._verbs: dict[str, Callable[[Request], Awaitable[Answered]]] = {
            "list": self._list,
            "show": self._show,
            "why": self._why,
            "stats": self._stats,
            "loops": self._loops,
            "add": self._add,
            "payload": self._payload,
            "retry": self._retry,
            "cancel": self._cancel,
            "clone": self._clone,
            "purge": self._purge,
            "pause": self._pause,
            "resume": self._resume,
            "limit": self._limit,
            "check": self._check,
            "migrate": self._migrate,
        }

    async def answer(self, ask: Ask, say: Say) -> Answered:
        """The end of a verb; what it has to say before goes to `say`. Raises nothing but what is a fault of bkd."""
        try:
            verb = self._verbs.get(ask.verb)
            if verb is None:
                raise Usage(f"this dispatcher knows no {ask.verb[:40]!r}: is it of another version?")
            return await verb(Request(ask, say))
        except (Usage, TypeError, ValueError) as error:
            return Answered(ask.number, USAGE, err=f"bkd: {error}\n")
        except BkdError as error:
            return Answered(ask.number, FAILED, err=f"bkd: {error}\n")

    # -- looking

    async def _list(self, request: Request) -> Answered:
        rows, policies, now, more = await self._rows(request)
        document = {"messages": [documents.message(row, policies, now) for row in rows], "more": more}
        text = pages.listing(rows, policies, now, request.ask.width)
        err = f"bkd: there are more; `--after {rows[-1].id}` goes on, `--most N` shows more\n" if more else ""
        return request.answer(document, text, err=err)

    async def _loops(self, request: Request) -> Answered:
        rows, policies, now, more = await self._rows(request)
        document = {"messages": [documents.message(row, policies, now) for row in rows], "more": more}
        return request.answer(document, pages.loops(rows, policies, now, request.ask.width))

    async def _rows(self, request: Request) -> tuple[list[Row], dict[str, KindPolicy], int, bool]:
        look = request.arguments(Look)
        chosen, most = filter_of(look.selection), max(1, min(look.most, MOST_LISTED))

        def find(store: Store, now: int) -> tuple[list[Row], dict[str, KindPolicy], int]:
            return store.find(chosen, most + 1, look.after), store.policies(), now

        rows, policies, now = await self._run(find)
        return rows[:most], policies, now, len(rows) > most

    async def _show(self, request: Request) -> Answered:
        story, around = await self._story(request)
        lines = explain(story, around)
        document = {**documents.story(story, around.policies, around.now), "why": lines}
        return request.answer(document, pages.page(story, lines, around.policies, around.now))

    async def _why(self, request: Request) -> Answered:
        story, around = await self._story(request)
        lines, row = explain(story, around), story.row
        document = {"id": row.id, "kind": row.kind, "state": row.state, "reason": row.reason or None, "why": lines}
        return request.answer(document, pages.why(row.id, row.kind, row.state, lines))

    async def _story(self, request: Request) -> tuple[Story, Surroundings]:
        selection = request.arguments(Look).selection
        if len(selection.ids) != 1:
            raise Usage("say which message: its number, or its guid")
        chosen = filter_of(selection)

        def look(store: Store, now: int) -> tuple[Story, Surroundings]:
            rows = store.find(chosen, 1)
            story = store.story(rows[0].id) if rows else None
            if story is None:
                raise BkdError(f"there is no message {selection.ids[0]}; `bkd message list` shows some")
            kind = story.row.kind
            tally = next((tally for tally in store.stats(now) if tally.kind == kind), None)
            control = next((control for control in store.controls() if control.kind == kind), None)
            return story, Surroundings(store.policies(), now, tally, control)

        return await self._run(look)

    async def _stats(self, request: Request) -> Answered:
        def look(store: Store, now: int) -> tuple[list[Tally], dict[str, Control], int]:
            return store.stats(now), {control.kind: control for control in store.controls()}, now

        tallies, controls, now = await self._run(look)
        document = {"kinds": [documents.tally(tally, controls.get(tally.kind)) for tally in tallies]}
        return request.answer(document, pages.stats(tallies, controls, now, request.ask.width))

    # -- adding

    async def _add(self, request: Request) -> Answered:
        add = request.arguments(Add)
        options = add.options.options()
        if payload := self._uploads.whole(add.upload) if add.upload else add.payload:
            options["payload"] = payload
        receipts: list[Receipt] = []
        items = add.items or [None]
        total = len(items) * add.count
        if total > 1 and options.get("key"):
            raise Usage("--key with --count, or with several lines, would store one message: leave one of them out")
        args = (item for item in items for _ in range(add.count))
        batch: list[NewMessage] = []
        most = max(1, min(PAGE, MOST_AT_ONCE // (len(payload) or 1)))
        for item in args:
            batch.append(draft(add.kind, item, time.time_ns() // 1_000_000, options))
            if len(batch) >= most:
                receipts += await self._put(batch)
                batch = []
                request.progress(f"{len(receipts):,} of {total:,} stored")
        if batch:
            receipts += await self._put(batch)
        return _added(request, receipts)

    async def _payload(self, request: Request) -> Answered:
        part = request.arguments(Part)
        return request.answer({"size": self._uploads.extend(part.upload, part.data)}, "")

    # -- changing

    async def _retry(self, request: Request) -> Answered:
        return await self._in_bulk(request, lambda store, ids, actor, now: store.retry(ids, actor, now))

    async def _purge(self, request: Request) -> Answered:
        return await self._in_bulk(request, lambda store, ids, actor, now: store.purge(ids, actor, now))

    async def _clone(self, request: Request) -> Answered:
        made: list[int] = []

        def clone(store: Store, ids: list[int], actor: str, now: int) -> list[int]:
            receipts = store.clone(ids, actor, now)
            made.extend(receipt.id for receipt in receipts)
            return [id for id, receipt in zip(ids, receipts, strict=True) if receipt.id]

        return await self._in_bulk(request, clone, made)

    async def _cancel(self, request: Request) -> Answered:
        running: list[int] = []

        def cancel(store: Store, ids: list[int], actor: str, now: int) -> list[int]:
            waiting, marked = store.cancel(ids, actor, now)
            running.extend(marked)
            return [*waiting, *marked]

        return await self._in_bulk(request, cancel, confirm=lambda: self._ended(running, request))

    async def _ended(self, ids: list[int], request: Request) -> list[int]:
        """Those of the running ones that have not ended when the time is over."""
        left = set(ids)
        deadline = time.monotonic() + request.arguments(Bulk).timeout
        while left:
            some = sorted(left)[:PAGE]
            ended = await self._run(lambda store, now, some=some: store.ended(some))  # type: ignore[misc]
            left -= {row.id for row in ended}
            if not left or time.monotonic() > deadline:
                break
            request.progress(f"{len(left):,} of {len(ids):,} still running")
            await asyncio.sleep(LOOK_AGAIN)
        return sorted(left)

    async def _in_bulk(
        self,
        request: Request,
        act: Callable[[Store, list[int], str, int], list[int]],
        made: list[int] | None = None,
        confirm: Callable[[], Awaitable[list[int]]] | None = None,
    ) -> Answered:
        bulk, verb = request.arguments(Bulk), request.ask.verb
        chosen = await self._meant(bulk, verb)
        if bulk.dry_run:
            return await self._dry(request, chosen, verb)
        seen, done = 0, []
        async for ids in self._pages(chosen):
            done += await self._run(lambda store, now, ids=ids: act(store, ids, request.ask.actor, now))  # type: ignore[misc]
            seen += len(ids)
            self._changed()
            request.progress(f"{verb}: {seen:,} seen, {len(done):,} done")
        left = await confirm() if confirm is not None else []
        return _changed(request, seen, done, left, made)

    async def _meant(self, bulk: Bulk, verb: str) -> Filter:
        if bulk.selection.is_everything:
            raise Usage(f"say which messages: bkd message {verb} ID…, or --kind, --state, --where …")
        chosen = filter_of(bulk.selection)
        if not bulk.selection.ids and not (bulk.yes or bulk.dry_run):
            number = await self._run(lambda store, now: store.count(chosen))
            them = "it" if number == 1 else "them"
            raise Usage(f"this means {counted(number, 'message')}: add --yes to do it, or --dry-run to see {them}")
        return chosen

    async def _dry(self, request: Request, chosen: Filter, verb: str) -> Answered:
        def look(store: Store, now: int) -> tuple[int, list[Row], dict[str, KindPolicy], int]:
            return store.count(chosen), store.find(chosen, 20), store.policies(), now

        number, rows, policies, now = await self._run(look)
        document = {"verb": verb, "dry_run": True, "matched": number, "ids": [row.id for row in rows]}
        shown = pages.listing(rows, policies, now, request.ask.width)
        more = f"… and {number - len(rows):,} more\n" if number > len(rows) else ""
        return request.answer(document, f"{shown}{more}{verb} would look at {counted(number, 'message')}\n")

    async def _pages(self, chosen: Filter) -> AsyncIterator[list[int]]:
        after = 0
        while True:
            rows = await self._run(lambda store, now, after=after: store.find(chosen, PAGE, after))  # type: ignore[misc]
            if not rows:
                return
            after = rows[-1].id
            yield [row.id for row in rows]

    # -- kinds

    async def _pause(self, request: Request) -> Answered:
        return await self._switch(
            request, lambda old, new: msgspec.structs.replace(old, paused=True, reason=new.reason)
        )

    async def _resume(self, request: Request) -> Answered:
        return await self._switch(request, lambda old, new: msgspec.structs.replace(old, paused=False, reason=""))

    async def _limit(self, request: Request) -> Answered:
        return await self._switch(request, lambda old, new: msgspec.structs.replace(old, max_running=new.most))

    async def _switch(self, request: Request, change: Callable[[Control, Switch], Control]) -> Answered:
        switch = request.arguments(Switch)
        if not switch.kinds:
            raise Usage(f"say which kinds: bkd message {request.ask.verb} KIND…; `bkd message stats` shows them")

        def write(store: Store, now: int) -> list[str]:
            present = {control.kind: control for control in store.controls()}
            known = {tally.kind for tally in store.stats(now)} | set(store.policies()) | set(present)
            for kind in switch.kinds:
                control = change(present.get(kind, Control(kind)), switch)
                store.control(msgspec.structs.replace(control, by=request.ask.actor, at=now))
            return [kind for kind in switch.kinds if kind not in known]

        unknown = await self._run(write)
        self._changed()
        err = "".join(
            f"bkd: no message of the kind {kind} was ever seen; it is noted all the same\n" for kind in unknown
        )
        done = {"pause": "paused", "resume": "resumed", "limit": f"at most {switch.most or 'any number'} at once"}
        text = "".join(f"{kind}: {done[request.ask.verb]}\n" for kind in switch.kinds)
        return request.answer({"verb": request.ask.verb, "kinds": switch.kinds}, text, err=err)

    # -- the store itself

    async def _check(self, request: Request) -> Answered:
        faults = await self._run(lambda store, now: store.check())
        text = "".join(f"{fault}\n" for fault in faults) or "the store is as it should be\n"
        return request.answer({"ok": not faults, "faults": faults}, text, FAILED if faults else 0)

    async def _migrate(self, request: Request) -> Answered:
        steps = await self._run(lambda store, now: store.migrate())
        text = "".join(f"{step}\n" for step in steps) or "nothing to do: the store is up to date\n"
        return request.answer({"steps": steps}, text)


def _added(request: Request, receipts: list[Receipt]) -> Answered:
    refused = [receipt for receipt in receipts if receipt.refused]
    taken = [receipt for receipt in receipts if not receipt.refused]
    document = {
        "ids": [receipt.id for receipt in taken],
        "created": sum(receipt.created for receipt in taken),
        "refused": [receipt.refused for receipt in refused],
    }
    err = "".join(f"bkd: {reason}\n" for reason in dict.fromkeys(receipt.refused for receipt in refused))
    err += "".join(f"bkd: {r.id} was there already ({r.state})\n" for r in taken[:20] if not r.created)
    code = (PARTLY if taken else FAILED) if refused else 0
    return request.answer(document, "".join(f"{receipt.id}\n" for receipt in taken), code, err)


def _changed(request: Request, seen: int, done: list[int], left: list[int], made: list[int] | None) -> Answered:
    verb, code = request.ask.verb, 0
    err = ""
    if left:
        code, err = PARTLY, f"bkd: asked to end, but still running: {', '.join(map(str, left[:20]))}\n"
    elif not seen:
        code, err = FAILED, "bkd: there is no such message; `bkd message list` shows some\n"
    elif not done:
        code, err = (
            FAILED,
            f"bkd: there is nothing to {verb} about them; see `bkd message why ID`\n",
        )
    document = {"verb": verb, "dry_run": False, "matched": seen, "done": len(done), "ids": done[:MOST_LISTED]}
    document |= {"still_running": left} if verb == "cancel" else {}
    document |= {"created": made[:MOST_LISTED]} if made is not None else {}
    text = "".join(f"{id}\n" for id in made) if made is not None else f"{verb}: {len(done):,} of {seen:,}\n"
    return request.answer(document, text, code, err)
