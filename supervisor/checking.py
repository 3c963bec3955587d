"""`bkd check`: the configuration, and every application imported in a process of its own that is thrown away."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from typing import IO, Any, NamedTuple

import click
import msgspec

from ..ipc.message import Load, Loaded, LoadFailed
from . import duties, readiness
from .config.faults import ConfigError
from .config.schema import Config, GroupSection
from .privileges import Credentials, resolve
from .setup import Options, read_config

TRIAL = "from bkd.workers.trial import main; main()"


class Finding(NamedTuple):
    """What was found about one group: `fault` is "" when it would start, `note` is worth knowing all the same."""

    group: str
    fault: str = ""
    note: str = ""
    trace: str = ""


def check(path: str, *, as_json: bool) -> int:
    """Print every fault and a line per group; returns the exit code: 0, 1 when an import fails, 2 for the file."""
    try:
        config = read_config(Options(fd=-1, config=path))
    except ConfigError as error:
        faults = [{"key": fault.key, "expected": fault.expected, "found": fault.found} for fault in error.faults]
        if as_json:
            click.echo(json.dumps({"config": path, "ok": False, "faults": faults, "groups": []}))
        else:
            click.echo(str(error), err=True)
        return 2
    findings = [examine(config, group) for group in config.workers.values()]
    _print(path, findings, as_json=as_json)
    return 1 if any(finding.fault for finding in findings) else 0


def examine(config: Config, group: GroupSection) -> Finding:
    """Would this group start?"""
    if not os.path.isdir(group.cwd):
        return Finding(group.name, f"cwd: {group.cwd} is no directory")
    if group.kind == "command":
        return _program(group)
    return _imported(config, group)


def _program(group: GroupSection) -> Finding:
    try:
        readiness.parse(group.ready)
    except ValueError as error:
        return Finding(group.name, f"ready = {group.ready!r}: {error}")
    program = group.command[0]
    folder = group.cwd if os.sep in program else None
    found = shutil.which(os.path.join(folder, program) if folder else program)
    return Finding(group.name) if found else Finding(group.name, f"{program}: no such program")


def _imported(config: Config, group: GroupSection) -> Finding:
    order = Load(config.app.name, group.name, 1, duties.trial(group), group.cwd, group.env)
    python = config.app.python or sys.executable
    with tempfile.TemporaryFile() as said:
        try:
            code, answer = _tried(python, msgspec.msgpack.encode(order), said, group)
        except subprocess.TimeoutExpired:
            return Finding(group.name, f"the import took longer than start_timeout ({group.start_timeout:g} s)")
        except OSError as error:
            return Finding(group.name, f"{python}: {error.strerror}")
        if answer:
            return _judged(group, answer)
        said.seek(0)
        last = said.read().decode(errors="replace").strip().splitlines()[-1:] or [""]
        return Finding(group.name, f"the process that imported it ended ({code}): {last[0]}")


def _tried(python: str, order: bytes, said: IO[bytes], group: GroupSection) -> tuple[int, bytes]:
    """Exit code and answer of the throw-away process. What it starts itself may outlive it and holds nothing up."""
    with tempfile.TemporaryFile() as answer:
        argv = [python, "-P", "-c", TRIAL, str(answer.fileno())]
        process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=said,
            stderr=said,
            pass_fds=[answer.fileno()],
            start_new_session=True,
            **_ownership(resolve(group)),
        )
        try:
            process.communicate(order, timeout=group.start_timeout)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        answer.seek(0)
        return process.returncode, answer.read()


def _ownership(credentials: Credentials) -> dict[str, Any]:
    """As whom the process is started: the user's own rights decide what it can import."""
    chosen: dict[str, Any] = {"umask": credentials.umask, "env": os.environ | credentials.environment()}
    if credentials.gid >= 0:
        chosen["group"] = credentials.gid
    if credentials.uid >= 0:
        chosen |= {"user": credentials.uid, "extra_groups": list(credentials.groups)}
    return chosen


def _judged(group: GroupSection, answer: bytes) -> Finding:
    failed = msgspec.msgpack.decode(answer, type=LoadFailed)
    if failed.reason:
        return Finding(group.name, failed.reason, trace=failed.trace)
    unsafe = ", ".join(sorted(set(msgspec.msgpack.decode(answer, type=Loaded).unsafe)))
    if unsafe and group.preload == "true":
        return Finding(group.name, f'preload = "true", but after the import there are {unsafe}')
    return Finding(group.name, note=f"preload is off: after the import there are {unsafe}" if unsafe else "")


def _print(path: str, findings: list[Finding], *, as_json: bool) -> None:
    if as_json:
        groups = [
            {"name": f.group, "ok": not f.fault, "fault": f.fault or None, "note": f.note or None} for f in findings
        ]
        click.echo(
            json.dumps({"config": path, "ok": not any(f.fault for f in findings), "faults": [], "groups": groups})
        )
        return
    for finding in findings:
        if finding.fault:
            click.echo(f"{finding.group}: {finding.fault}", err=True)
            if finding.trace:
                click.echo(finding.trace.rstrip(), err=True)
        else:
            click.echo(f"{finding.group}: ok{f' ({finding.note})' if finding.note else ''}")
