"""A command takes effect at most once and always has a last word, wherever the master that obeys it dies; rollouts
take turns."""

import asyncio
import itertools

import pytest

from bkd.ipc.message import Finished
from bkd.supervisor.bus import rollout as rules
from bkd.supervisor.bus.rollout import State
from bkd.supervisor.fleet.executor import outcome
from bkd.supervisor.fleet.record import Records

from .world import NAMES, PATIENCE, ended, hurried, in_a_world, quiet, until, world

RESTART = {"names": ["web"]}
MOST_STEPS = 80


async def begun(made, hosts, *, by="h0", **more):
    """A rollout that some host has begun: its id and document are on the bus."""
    issuer = made.hosts[by]
    terminal, task = issuer.give("restart", RESTART, hosts=list(hosts), **more)
    await until(lambda: terminal.resume or terminal.code is not None)
    assert terminal.resume, terminal.err
    return terminal.resume["fleet"], terminal, task


async def document(host, id):
    return await host.plane.rollouts.permits.read(id)


async def states(host, id):
    return {turn.host: str(turn.state) for turn in (await document(host, id)).hosts}


# -- whenever the master dies


async def dying(made, number, give):
    """Whether the master was killed at this step; the command's id when its successor has come to its end."""
    _h0, h1 = await made.up("h0", "h1")
    h1.die_at(number)
    id = await give(made)
    await until(lambda: h1.dead or (ended(made.bus, id) and h1.record.taken[id].is_over))
    if not h1.dead:
        await quiet()
    if not h1.dead:
        return False, id, h1
    successor = h1.next_master()
    made.hosts["h1"] = successor
    await successor.up()
    await until(lambda: ended(made.bus, id))
    await quiet()
    return True, id, successor


def every_death(tmp_path, monkeypatch, give, check):
    """A world for each step at which the master can die, until it has none left to die at."""
    hurried(monkeypatch)

    async def once(number):
        async with asyncio.timeout(PATIENCE), world(tmp_path / str(number)) as made:
            died, id, host = await dying(made, number, give)
            check(made, id, host)
            return died

    for number in itertools.count(1):
        assert number < MOST_STEPS
        (tmp_path / str(number)).mkdir()
        if not asyncio.run(once(number)):
            return number
    raise AssertionError


def never_backwards(acks):
    return all(before.number < after.number for before, after in itertools.pairwise(acks))


async def give_scale(made):
    return made.bus.put("scale", {"web": "+1"}, ["h1"])


def test_a_command_that_is_obeyed_at_once_takes_effect_once_wherever_the_master_dies(tmp_path, monkeypatch):
    counts = set()

    def check(made, id, host):
        last = made.bus.acks(id)[-1]
        assert host.count in (2, 3)
        assert host.count == 3 or last.state == "failed", "what is said to be done was done"
        assert last.state in ("done", "failed")
        counts.add((host.count, last.state))

    assert every_death(tmp_path, monkeypatch, give_scale, check) > 8
    assert (3, "done") in counts


async def give_restart(made):
    id, _, _ = await begun(made, ["h1"])
    return id


def test_a_rollout_takes_effect_once_wherever_the_master_dies(tmp_path, monkeypatch):
    seen = set()

    def check(made, id, host):
        last = made.bus.acks(id)[-1]
        assert len(host.deeds.begun) <= 1
        assert last.state in ("done", "failed")
        assert last.state == "failed" or (len(host.deeds.begun), last.code) == (1, 0)
        seen.add((last.state, len(host.deeds.begun), len(host.deeds.awaited)))

    assert every_death(tmp_path, monkeypatch, give_restart, check) > 20
    assert {("done", 1, 0), ("done", 1, 1), ("failed", 0, 0)} <= seen


def test_whoever_asked_hears_the_end_wherever_the_master_of_the_host_dies(tmp_path, monkeypatch):
    hurried(monkeypatch)

    async def once(number):
        async with asyncio.timeout(PATIENCE), world(tmp_path / str(number)) as made:
            h0, h1 = await made.up("h0", "h1")
            h1.die_at(number)
            terminal, task = h0.give("restart", RESTART, hosts=["h1"])
            await until(lambda: h1.dead or task.done())
            died = h1.dead
            if died:
                made.hosts["h1"] = await h1.next_master().up()
            await asyncio.wait_for(task, PATIENCE)
            done = len(h1.deeds.begun) == 1 and "1 of 1" in terminal.out
            assert terminal.code in ((0,) if done else (1, 3))  # 3: its next master was not there in time
            return died

    for number in itertools.count(1, 2):
        (tmp_path / str(number)).mkdir()
        if not asyncio.run(once(number)):
            break


@in_a_world
async def test_what_the_next_master_says_counts_after_what_the_last_one_said(made):
    _, h1 = await made.up("h0", "h1")
    h1.deeds.held.clear()
    id, terminal, task = await begun(made, ["h1"])
    await until(lambda: h1.record.taken and h1.record.taken[id].resume)
    for number in range(50):  # steps of a roll are not written down
        h1.plane.replies.say(h1.record.taken[id], "running", step=f"web {number}/50")
    await until(lambda: len(made.bus.acks(id)) > 50)
    h1.die()
    made.hosts["h1"] = await h1.next_master().up()
    h1.deeds.held.set()
    await until(lambda: ended(made.bus, id))
    assert never_backwards(made.bus.acks(id))
    await asyncio.wait_for(task, PATIENCE)
    assert terminal.code == 0


@in_a_world
async def test_an_interrupted_rollout_does_not_wait_for_the_lease(made):
    h0, h1 = await made.up("h0", "h1")
    h1.deeds.held.clear()
    h1.deeds.forgets = True
    id, terminal, task = await begun(made, ["h1"])
    await until(lambda: h1.deeds.begun)
    h1.die()
    made.hosts["h1"] = await h1.next_master().up()
    await asyncio.wait_for(task, PATIENCE)
    assert await states(h0, id) == {"h1": "failed"}
    assert terminal.code == 1
    assert "the master died in the middle of it" in terminal.err
    assert len(h1.deeds.begun) == 1


@in_a_world
async def test_what_is_over_is_not_begun_again_and_said_again_only_as_it_was(made):
    (h1,) = await made.up("h1")
    id = made.bus.put("scale", {"web": "+1"}, ["h1"])
    await until(lambda: ended(made.bus, id))
    await until(lambda: Records(str(h1.run_dir)).load().taken[id].is_over)
    before = made.bus.acks(id)
    h1.die()
    made.hosts["h1"] = successor = await h1.next_master().up()
    await quiet()
    assert set(made.bus.states(id)[len(before) :]) <= {"done"}
    assert (made.bus.acks(id)[-1], successor.count) == (before[-1], 3)


@in_a_world
async def test_what_a_finished_command_was_about_is_not_kept(made):
    (h1,) = await made.up("h1")
    id = made.bus.put("send", {"op": "a:b", "to": "web", "data": "secret"}, ["h1"])
    await until(lambda: ended(made.bus, id))
    await until(lambda: h1.record.taken[id].arguments == {})
    await until(lambda: b"secret" not in (h1.run_dir / "bus").read_bytes())


@in_a_world
async def test_a_disk_that_fills_before_it_begins_lets_nothing_begin(made):
    h0, h1, h2 = await made.up("h0", "h1", "h2")
    h1.deeds.held.clear()
    id, _, task = await begun(made, ["h1", "h2"])
    await until(lambda: h1.deeds.begun and id in h2.record.taken)
    records = h2.plane.executor.records
    records.replace = lambda data: setattr(records, "fault", "no space left on device")
    h1.deeds.held.set()
    await asyncio.wait_for(task, PATIENCE)
    assert h2.deeds.begun == []
    assert await states(h0, id) == {"h1": "done", "h2": "failed"}


@in_a_world
async def test_how_a_command_ends_here_is_what_is_said(made):
    (_h1,) = await made.up("h1")
    failing = made.bus.put("rollback", {"name": "web"}, ["h1"])
    unknown = made.bus.put("scale", {"nope": "1"}, ["h1"])
    await until(lambda: ended(made.bus, unknown) and ended(made.bus, failing))
    assert made.bus.acks(unknown)[-1].state == "refused"
    assert "no group nope" in made.bus.acks(unknown)[-1].reason
    assert (made.bus.acks(failing)[-1].state, made.bus.acks(failing)[-1].reason) == (
        "failed",
        "the rollout is not known any more",
    )


@pytest.mark.parametrize(
    ("verb", "finished", "expected"),
    [
        ("restart", Finished(0), ("done", "")),
        ("restart", Finished(1, err="bkd: web: no module\n"), ("failed", "web: no module")),
        ("restart", Finished(1, err="a\nbkd: b\n"), ("failed", "b")),
        ("restart", Finished(4), ("failed", "exit code 4")),
        ("restart", Finished(2, err="bkd: no group nope\n"), ("refused", "no group nope")),
        ("restart", Finished(3, err="bkd: partly\n"), ("failed", "partly")),
        ("stop", Finished(3, err="bkd: had to be killed: web.1\n"), ("done", "had to be killed: web.1")),
        ("stop", Finished(0, err="bkd: a note\n"), ("done", "")),
        ("scale", Finished(1, err="x" * 900), ("failed", "x" * 500)),
    ],
)
def test_the_state_of_a_host_by_how_the_command_ended(verb, finished, expected):
    assert outcome(verb, finished) == expected


# -- in turn


@in_a_world
async def test_hosts_take_turns_in_the_order_of_their_names(made):
    h0, *hosts = await made.up("h0", "h1", "h2", "h3")
    for host in hosts:
        host.deeds.held.clear()
    id, terminal, task = await begun(made, ["h3", "h1", "h2"])
    for at_work in range(3):
        await until(lambda at_work=at_work: hosts[at_work].deeds.begun)
        await until(lambda: all(id in host.record.taken for host in hosts))
        await asyncio.sleep(0.03)  # several looks of those who wait
        assert [len(host.deeds.begun) for host in hosts] == [1] * (at_work + 1) + [0] * (2 - at_work)
        hosts[at_work].deeds.held.set()
    await asyncio.wait_for(task, PATIENCE)
    assert terminal.code == 0
    assert await states(h0, id) == {"h1": "done", "h2": "done", "h3": "done"}


@in_a_world
async def test_a_batch_is_at_it_together(made):
    _h0, *hosts = await made.up("h0", "h1", "h2", "h3")
    for host in hosts:
        host.deeds.held.clear()
    _, _, task = await begun(made, ["h1", "h2", "h3"], batch="2")
    await until(lambda: hosts[0].deeds.begun and hosts[1].deeds.begun)
    await asyncio.sleep(0.03)
    assert not hosts[2].deeds.begun
    for host in hosts:
        host.deeds.held.set()
    await asyncio.wait_for(task, PATIENCE)
    assert hosts[2].deeds.begun


@in_a_world
async def test_hosts_that_begin_and_end_at_the_same_moment_do_not_overwrite_each_other(made):
    h0, *hosts = await made.up("h0", "h1", "h2", "h3", "h4")
    names = [host.name for host in hosts]
    id, terminal, task = await begun(made, names, batch="4")
    await asyncio.wait_for(task, PATIENCE)
    rollout = await document(h0, id)
    assert (terminal.code, [len(host.deeds.begun) for host in hosts]) == (0, [1, 1, 1, 1])
    assert [(turn.state, turn.fence) for turn in rollout.hosts if turn.state != "done" or not turn.fence] == []
    assert len({turn.fence for turn in rollout.hosts}) == 4


@in_a_world
async def test_the_first_failure_skips_the_others(made):
    h0, *hosts = await made.up("h0", "h1", "h2", "h3")
    hosts[0].deeds.fails = "no module named shop"
    id, terminal, task = await begun(made, ["h1", "h2", "h3"])
    await asyncio.wait_for(task, PATIENCE)
    assert await states(h0, id) == {"h1": "failed", "h2": "skipped", "h3": "skipped"}
    assert terminal.code == 1
    assert "no module named shop" in terminal.err
    await until(lambda: made.bus.states(id, "h3")[-1:] == ["skipped"])
    assert not hosts[1].deeds.begun and not hosts[2].deeds.begun


@in_a_world
async def test_failures_that_are_allowed_skip_nobody(made):
    h0, *hosts = await made.up("h0", "h1", "h2")
    hosts[0].deeds.fails = "no module named shop"
    id, _, task = await begun(made, ["h1", "h2"], max_fail=1)
    await asyncio.wait_for(task, PATIENCE)
    assert await states(h0, id) == {"h1": "failed", "h2": "done"}


@in_a_world
async def test_a_lost_lease_is_said(made):
    h0, h1 = await made.up("h0", "h1")
    h1.deeds.held.clear()
    id, terminal, task = await begun(made, ["h1"])
    await until(lambda: h1.deeds.begun)
    made.later(rules.LEASE + 1)
    await until(task.done)
    assert terminal.code == 1
    assert rules.LAPSED in terminal.err
    h1.deeds.held.set()
    ack = await until(lambda: ended(made.bus, id))
    assert rules.LAPSED in ack.reason
    assert await states(h0, id) == {"h1": "failed"}


@in_a_world
async def test_a_host_that_is_gone_in_the_middle_of_it_ends_by_the_clock(made):
    h0, h1 = await made.up("h0", "h1")
    h1.deeds.held.clear()
    _, terminal, task = await begun(made, ["h1"])
    await until(lambda: h1.deeds.begun)
    h1.die()
    made.later(rules.LEASE + 1)
    await until(lambda: terminal.resume and h0.plane.issuing._bells)
    made.later(2)
    await asyncio.wait_for(task, PATIENCE)
    assert (terminal.code, rules.LAPSED in terminal.err) == (1, True)


@in_a_world
async def test_a_lease_is_renewed_while_the_host_is_at_work(made):
    before, rules.RENEWAL = rules.RENEWAL, 0.01
    try:
        h0, h1 = await made.up("h0", "h1")
        h1.deeds.held.clear()
        id, _, task = await begun(made, ["h1"])
        await until(lambda: h1.deeds.begun)
        for _ in range(3):
            version = (await document(h0, id)).version
            made.later(rules.LEASE - 5)
            while (await document(h0, id)).version < version + 2:
                await asyncio.sleep(0.005)
        h1.deeds.held.set()
        await asyncio.wait_for(task, PATIENCE)
        assert await states(h0, id) == {"h1": "done"}
    finally:
        rules.RENEWAL = before


@in_a_world
async def test_a_rollout_that_is_gone_before_the_turn_came_begins_nothing(made):
    h0, h1, h2 = await made.up("h0", "h1", "h2")
    h1.deeds.held.clear()
    id, terminal, task = await begun(made, ["h1", "h2"])
    await until(lambda: h1.deeds.begun and id in h2.record.taken)
    h0.driver._values.pop(NAMES.permit(id))
    ack = await until(lambda: ended(made.bus, id, "h2"))
    assert (ack.state, ack.reason) == ("failed", rules.UNKNOWN)
    h1.deeds.held.set()
    ack = await until(lambda: ended(made.bus, id, "h1"))
    assert (ack.state, ack.reason) == ("done", rules.UNKNOWN)
    await asyncio.wait_for(task, PATIENCE)
    assert (terminal.code, h2.deeds.begun) == (1, [])


@in_a_world
async def test_an_older_document_that_is_played_back_lets_nobody_begin(made):
    h0, h1, h2 = await made.up("h0", "h1", "h2")
    h1.deeds.held.clear()
    id, _, _task = await begun(made, ["h1", "h2"])
    await until(lambda: h1.deeds.begun and "h2" in {t.host for t in h2.plane.rollouts.permits._seen[id].hosts})
    old = h0.driver._values[NAMES.permit(id)]
    h1.deeds.held.set()
    await until(lambda: h2.deeds.begun)
    h0.driver._values[NAMES.permit(id)] = old
    with pytest.raises(Exception, match="older state"):
        await document(h2, id)


@in_a_world
async def test_a_turn_that_comes_while_the_bus_is_away_is_taken_afterwards(made):
    _h0, h1, h2 = await made.up("h0", "h1", "h2")
    h1.deeds.held.clear()
    id, terminal, task = await begun(made, ["h1", "h2"])
    await until(lambda: h1.deeds.begun and id in h2.record.taken)
    h2.driver.why = "cut off"
    h1.deeds.held.set()
    await until(lambda: ended(made.bus, id, "h1"))
    await asyncio.sleep(0.05)
    assert not h2.deeds.begun
    h2.driver.why = ""
    await asyncio.wait_for(task, PATIENCE)
    assert (terminal.code, len(h2.deeds.begun)) == (0, 1)


@in_a_world
async def test_an_end_that_falls_into_a_time_without_a_bus_is_written_afterwards(made):
    h0, h1 = await made.up("h0", "h1")
    h1.deeds.held.clear()
    id, _, task = await begun(made, ["h1"])
    await until(lambda: h1.deeds.begun)
    h1.driver.why = "cut off"
    h1.deeds.held.set()
    await asyncio.sleep(0.05)
    assert await states(h0, id) == {"h1": "running"}
    h1.driver.why = ""
    await until(lambda: ended(made.bus, id))
    await asyncio.wait_for(task, PATIENCE)
    assert await states(h0, id) == {"h1": "done"}


@in_a_world
async def test_a_list_of_rollouts_that_cannot_be_read_undoes_no_success(made):
    h0, h1 = await made.up("h0", "h1")
    h1.deeds.held.clear()
    id, terminal, task = await begun(made, ["h1"])
    await until(lambda: h1.deeds.begun)
    h0.driver._values[NAMES.index] = b"rubbish"
    h1.deeds.held.set()
    await asyncio.wait_for(task, PATIENCE)
    assert (terminal.code, made.bus.acks(id)[-1].state) == (0, "done")


@in_a_world
async def test_an_end_frees_the_groups_for_the_next_rollout(made):
    h0, h1 = await made.up("h0", "h1")
    _, _, task = await begun(made, ["h1"])
    await asyncio.wait_for(task, PATIENCE)
    assert [row.state for row in await h0.plane.rollouts.rows()] == ["done"]
    _, terminal, task = await begun(made, ["h1"])
    await asyncio.wait_for(task, PATIENCE)
    assert (terminal.code, len(h1.deeds.begun)) == (0, 2)


@in_a_world
async def test_a_rollout_ends_the_host_that_no_longer_can(made):
    """A host in the list whose master is gone is passed over, and the others have their turns."""
    h0, h1, _ = await made.up("h0", "h1", "h2")
    h1.die()
    id, terminal, task = await begun(made, ["h1", "h2"])
    while (await states(h0, id))["h2"] != "accepted":
        await asyncio.sleep(0.005)
    made.later(rules.PATIENCE + 1)
    await asyncio.wait_for(task, PATIENCE)
    assert await states(h0, id) == {"h1": str(State.UNREACHABLE), "h2": "done"}
    assert terminal.code == 3
