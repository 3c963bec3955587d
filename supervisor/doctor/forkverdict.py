"""Whether an application may be forked, from what was seen of it. Pure."""

from typing import NamedTuple

from ...ipc.quantity import counted
from ...ipc.stacks import Frame
from ..fact import signal_name, span, volume
from ..forensics import culprit
from . import risks
from .finding import Finding
from .seen import Inside, Memory, Outside, Seen, Socket

SET_IN_WORKERS = ("SIGTERM", "SIGINT")
MOVE = "start it in the application's startup, not at import"
KINDS = {
    "read": ("degraded", "workers share the position in it: open it in the application's startup"),
    "write": ("degraded", "workers write over each other: open it for appending, or in the application's startup"),
    "append": ("ok", "lines of workers come one after the other"),
    "pipe": ("degraded", "workers share it"),
    "eventpoll": ("degraded", "workers share what the kernel watches for it: of an event loop made at import"),
    "io_uring": ("degraded", "workers share it: of an event loop made at import"),
}
CONSEQUENCES = {
    "auto": 'bkd will start workers by exec (preload = "auto")',
    "true": "the group does not load (preload = true)",
    "false": "workers are started by exec in any case (preload = false)",
}
UNNOTICED = "set preload = false, for bkd does not see this by itself"


class Judgement(NamedTuple):
    """`topics`: what was found, where `missing` forbids a fork; `reasons`: those, in a few words each."""

    topics: list[tuple[str, list[Finding]]]
    reasons: list[str]
    verdict: str


def judge(seen: Seen, *, cwd: str, preload: str) -> Judgement:
    """Places are told from the folder `cwd`; `preload` is the setting of the group, "auto" for what belongs to none."""
    inside, outside = seen.inside, seen.outside
    topics = [
        ("import", _times(seen)),
        ("threads", [*_threads(inside, cwd), *_native(inside, outside)]),
        ("descriptors", [*(_socket(one, cwd) for one in inside.sockets), *_files(inside, outside, cwd)]),
        ("processes", _children(inside, outside, cwd)),
        ("signals", [_handler(number, name) for number, name in sorted(inside.handlers.items())]),
        (
            "libraries",
            [*_cuda(inside), *risks.findings(inside, outside, _place(inside.loops[0], cwd) if inside.loops else "")],
        ),
        ("memory", [*_trouble(seen.trouble), *_memory(seen.memory)]),
    ]
    topics = [(topic, findings) for topic, findings in topics if findings]
    reasons = [_reason(topic, finding) for topic, findings in topics for finding in findings if _forbids(finding)]
    reasons = list(dict.fromkeys(reasons or inside.unsafe))
    return Judgement(topics, reasons, _verdict(reasons, inside, preload))


def _verdict(reasons: list[str], inside: Inside, preload: str) -> str:
    if not reasons:
        return "safe to fork"
    return f"not safe: {', '.join(reasons)}: {CONSEQUENCES[preload] if inside.unsafe else UNNOTICED}"


def _forbids(finding: Finding) -> bool:
    return finding.state == "missing"


def _reason(topic: str, finding: Finding) -> str:
    return f"thread {finding.name}" if topic == "threads" else finding.found.partition(",")[0]


def _times(seen: Seen) -> list[Finding]:
    whole = Finding("all of it", "ok", span(seen.inside.seconds))
    each = [
        Finding(one.name, "ok", f"{span(one.seconds)} in {counted(one.modules, 'module')}") for one in seen.packages
    ]
    return [whole, *each]


def _threads(inside: Inside, cwd: str) -> list[Finding]:
    found = []
    for thread in inside.threads:
        frame = culprit.culprit(thread.stack, cwd)
        parts = [
            *([f"started at {_place(thread.place, cwd)}"] if thread.place else []),
            *([f"is at {culprit.called(frame, cwd)}"] if frame else []),
        ]
        found.append(Finding(thread.name, "missing", ", ".join(parts) or "a thread", f"not in a fork; {MOVE}"))
    return found


def _native(inside: Inside, outside: Outside) -> list[Finding]:
    """Threads that Python does not know: not those that the interpreter had before."""
    known = {thread.tid for thread in inside.threads}
    return [
        Finding(name, "missing", "started by C code", "not in a fork; see the libraries below")
        for tid, name in outside.threads.items()
        if tid not in known
    ]


def _socket(one: Socket, cwd: str) -> Finding:
    name, at = f"descriptor {one.fd}", f", {_place(one.place, cwd)}" if one.place else ""
    if one.stream and one.peer:
        means = "workers would talk over one connection: connect in the application's startup"
        return Finding(name, "missing", f"connection to {one.peer}{at}", means)
    if one.stream and one.peer is not None:
        return Finding(name, "missing", f"a pair of sockets{at}", "of an event loop, or of what talks to itself")
    if one.listens:
        means = "workers share it; bkd listens for them: bind"
        return Finding(name, "degraded", f"listens on {one.here}{at}", means)
    if one.peer:
        return Finding(name, "degraded", f"sends to {one.peer}{at}", "workers share it; what is answered goes to any")
    return Finding(name, "ok", f"a socket, not connected{at}")


def _files(inside: Inside, outside: Outside, cwd: str) -> list[Finding]:
    found = []
    for one in outside.opened:
        state, means = KINDS.get(one.kind, ("ok", ""))
        place = inside.files.get(one.what, "")
        at = f", opened at {_place(place, cwd)}" if place else ""
        what = f"{one.kind}: {_place(one.what, cwd)}" if one.what.startswith("/") else one.kind
        found.append(Finding(f"descriptor {one.fd}", "degraded" if state == "degraded" else "ok", what + at, means))
    return found


def _children(inside: Inside, outside: Outside, cwd: str) -> list[Finding]:
    at = f", started at {_place(inside.processes[-1], cwd)}" if inside.processes else ""
    means = f"a child of the loader, not of any worker; {MOVE}"
    return [Finding(f"process {child.pid}", "degraded", child.command + at, means) for child in outside.children]


def _handler(number: int, name: str) -> Finding:
    means = "bkd sets it anew in workers" if signal_name(number) in SET_IN_WORKERS else "workers inherit it"
    return Finding(signal_name(number), "ok", name, means)


def _cuda(inside: Inside) -> list[Finding]:
    return [Finding("torch", "missing", "CUDA is in use", "does not survive a fork")] if inside.cuda else []


def _trouble(why: str) -> list[Finding]:
    return (
        [Finding("fork", "missing", f"forking failed: {why}", "hooks of os.register_at_fork run in each fork")]
        if why
        else []
    )


def _memory(memory: Memory | None) -> list[Finding]:
    if memory is None:
        return []
    shared = memory.idle.rss - memory.idle.private
    return [
        Finding("loader", "ok", volume(memory.alone.rss)),
        Finding("a forked worker", "ok", f"shares {volume(shared)}, {volume(memory.idle.private)} of its own"),
        Finding("a collection in it", "ok", f"{volume(memory.collected)} more of its own"),
        Finding("without a freeze", "ok", f"{volume(memory.collected_loose)} more; bkd freezes what was imported"),
    ]


def _place(place: str, cwd: str) -> str:
    """`file:line`, as short as elsewhere."""
    file, _colon, line = place.rpartition(":")
    if line.isdigit() and file:
        return culprit.place(Frame(file, int(line), ""), cwd)
    return place.removeprefix(f"{cwd}/")
