"""`bkd message add` from one end to the other: payloads, options, a terminal, and what the journal says of it."""

import json
import os
import pty

import pytest

from ..cluster import until
from .project import JOBS

SHOW = """
from bkd.workers import Context, handler


@handler("shown")
async def shown(context: Context) -> list[object]:
    return [len(await context.payload()), context.tracking, context.parent, str(context.expires)]
"""


@pytest.fixture(scope="module")
def cluster(shared_project):
    cluster = shared_project(jobs=JOBS | {"handlers": ["shown"]})
    (cluster.folder / "shown.py").write_text(SHOW)
    cluster.start()
    return cluster


@pytest.mark.parametrize("size", [5, 3_000_000])
def test_a_payload_comes_from_a_file(cluster, size):
    (cluster.folder / "blob").write_bytes(os.urandom(size))
    words = ["--tracking-id", "t", "--parent-id", "3", "--deadline", "2035-01-01T00:00+01:00", "--on-deadline", "alert"]

    [id] = cluster.message("add", "shown", "--payload", "blob", *words, "--due", "2026-01-01T00:00Z")["ids"]

    assert cluster.end(id)["result"] == [size, "t", 3, "2034-12-31 23:00:00+00:00"]
    [told] = until(lambda: [one for one in cluster.events("command") if one["outcome"] == f"stored {id}"])
    assert (told["verb"], told["arguments"]) == ("message:add", {"kind": "shown"})
    assert not [one for one in cluster.events("command") if one["verb"] == "message:payload"]


def test_without_a_cluster_as_well(project):
    cluster = project(jobs=JOBS)
    (cluster.folder / "blob").write_bytes(bytes(600_000))

    [id] = cluster.message("add", "note", "--payload", "blob", "--unique", "u")["ids"]
    refused = cluster.bkd("message", "add", "note", "--unique", "u", "--conflict", "reject")

    assert (refused.returncode, "lives and has the unique key 'u'" in refused.stderr) == (1, True)
    assert cluster.bkd("message", "show", str(id)).stdout.count("600,000 bytes") == 1


def test_what_is_wrong_is_said_in_one_line_with_the_command_to_ask(cluster):
    done = cluster.bkd("message", "add", "shown", '{"x": 99999999999999999999}')

    assert done.returncode == 2
    assert done.stderr == (
        "bkd: the arguments are no JSON: 99999999999999999999 has more than 64 bits: send it as text "
        "(see bkd message add --help)\n"
    )


def test_a_terminal_is_not_flooded_with_numbers(cluster):
    ours, theirs = pty.openpty()
    process = cluster.popen("message", "add", "nobody", "--count", "3000", stdout=theirs, stderr=theirs, stdin=theirs)
    os.close(theirs)
    said = b""
    while process.poll() is None or b"stored:" not in said:
        try:
            said += os.read(ours, 65536)
        except OSError:
            break
    os.close(ours)

    assert process.wait(30) == 0
    assert said.count(b"\n") < 20
    assert b"3,000 messages stored: " in said
    assert len(json.loads(cluster.bkd("message", "add", "nobody", "--count", "2000", "--json").stdout)["ids"]) == 2000
