"""Another configuration while everything runs: settings that live, groups that come and go, what becomes of rolls."""

import pytest
from msgspec.structs import replace

from bkd.supervisor import actions, events
from bkd.supervisor.cluster import Origin, Stage
from bkd.supervisor.config.schema import GroupSection, PingSection
from bkd.supervisor.facts import GroupAdded, GroupRemoved, RollAborted, RollDone, Scaled

from .drive import Drive, command, kinds, rolling, settled, spawned, web


def configure(drive: Drive, *groups: GroupSection, ping: PingSection | None = None) -> list[actions.Action]:
    """The file says this now."""
    sections = {group.name: group for group in groups}
    origins = {name: Origin(replace(group, cwd="/real")) for name, group in sections.items()}
    return drive.happen(events.Reconfigured(sections, ping or drive.cluster.ping, origins))


def test_the_same_configuration_changes_nothing():
    drive = settled(web(count=2), command())
    before = drive.cluster.groups
    assert configure(drive, web(count=2), command()) == []
    assert drive.cluster.groups == before


# -- what lives


def test_a_live_setting_is_in_force_at_once_and_costs_no_worker():
    drive = settled(web(drain=25.0))
    assert configure(drive, web(drain=5.0)) == []
    drive.happen(events.Scaled("web", 0))
    drive.later(4.9)
    assert "Terminate" not in kinds(drive.taken)
    assert kinds(drive.later(0.2)) == ["Terminate"]


def test_what_a_process_was_started_with_stays_its_release_s_affair():
    drive = settled(web())
    assert configure(drive, web(env={"A": "1"}, bind=["127.0.0.1:9000"])) == []
    assert (drive.group().settings.env, drive.group().release.settings.env) == ({"A": "1"}, {})


def test_new_limits_of_heartbeats_are_in_force_and_nobody_is_blamed_for_the_past():
    drive = Drive(web()).up()
    drive.later(4)
    configure(drive, web(), ping=PingSection(interval=1.0, kill=2.0))
    assert "Condemn" not in kinds(drive.later(1.9))
    assert "Condemn" in kinds(drive.later(0.2))


def test_what_becomes_of_the_cluster_when_all_has_failed_can_be_changed():
    drive = settled(web())
    drive.dies("web.1", 78)
    done = drive.happen(events.Reconfigured({"web": web()}, drive.cluster.ping, {}, exit_when_failed=True))
    assert kinds(done) == ["Stop", "DropLoader", "Leave"]


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_a_new_count_scales(count):
    drive = settled(web(count=2))
    configure(drive, web(count=count))
    drive.obeys()
    assert drive.slot_names() == [f"web.{number}" for number in range(1, count + 1)]
    assert len(drive.told(Scaled)) == (count != 2)


def test_what_an_operator_had_scaled_is_as_in_the_file_again():
    drive = settled(web(count=2))
    drive.happen(events.Scaled("web", 5))
    configure(drive, web(count=2))
    assert drive.group().count == 2


# -- in the middle of a roll


@pytest.mark.parametrize("stage", [Stage.LOADING, Stage.CANARY, Stage.ROLLING, Stage.SETTLING])
def test_a_roll_goes_on_under_the_new_settings(stage):
    drive = rolling(stage)
    configure(drive, web(count=3, min_ready=0.0, max_surge=3, drain=1.0))
    drive.goes_well()
    drive.obeys()
    assert drive.releases() == [(2,)] * 3
    assert drive.group().outcome.done


def test_a_reload_that_is_taken_back_keeps_the_live_settings():
    drive = settled(web(count=2))
    configure(drive, web(count=2, env={"A": "1"}, drain=5.0))
    drive.asks()
    assert drive.group().releases[2].settings.env == {"A": "1"}
    drive.happen(events.LoaderFailed("web", 2, "KeyError: 'B'"))
    assert drive.told(RollAborted)
    assert (drive.group().release.settings.env, drive.group().settings.drain) == ({}, 5.0)


# -- groups that come


def test_a_new_group_is_loaded_and_started_from_its_resolved_folder():
    drive = settled(web())
    assert kinds(configure(drive, web(), web("api", count=2))) == ["LoadRelease"]
    assert spawned(drive.load("api")) == [("api.1", 1), ("api.2", 1)]
    assert drive.told(GroupAdded)[0].group == "api"
    assert drive.group("api").release.settings.cwd == "/real"
    assert drive.group("api").settings.cwd == "."


def test_a_new_group_of_programs_starts_at_once():
    drive = settled(web())
    assert spawned(configure(drive, web(), command())) == [("cache.1", 1)]


# -- groups that go


def test_a_group_that_goes_is_drained_and_then_forgotten():
    drive = settled(web(), web("api", count=2))
    assert kinds(configure(drive, web())) == ["Retire", "Retire", "Ask", "Ask"]
    assert drive.told(GroupRemoved)[0].group == "api"
    drive.dies("api.1", 0)
    assert "DropLoader" not in kinds(drive.taken)
    drive.dies("api.2", 0)
    assert kinds(drive.taken)[-4:].count("DropLoader") == 1
    assert "ForgetGroup" in kinds(drive.taken)
    assert list(drive.cluster.groups) == ["web"]
    assert drive.later(3600) == []


def test_a_group_without_workers_goes_at_once():
    drive = settled(web(), web("api"))
    drive.dies("api.1", 78)
    assert kinds(configure(drive, web())) == ["DropLoader", "ForgetGroup"]


def test_a_group_that_is_being_loaded_goes_too():
    drive = settled(web())
    configure(drive, web(), web("api"))
    assert kinds(configure(drive, web())) == ["DropLoader", "ForgetGroup"]
    before = drive.cluster
    drive.happen(events.LoaderReady("api", 1, 0.5), events.LoaderGone("api", 1, "signal 15"))
    assert drive.cluster.groups == before.groups


def test_held_slots_go_with_their_group():
    drive = settled(web(), web("api"))
    drive.happen(events.Held("api.1", True))
    configure(drive, web())
    drive.obeys()
    assert list(drive.cluster.groups) == ["web"]


@pytest.mark.parametrize("stage", [Stage.LOADING, Stage.CANARY, Stage.ROLLING, Stage.SETTLING])
def test_a_group_that_goes_takes_its_roll_with_it(stage):
    drive = rolling(stage)
    configure(drive, web("api"))
    outcome = drive.group().outcome if "web" in drive.cluster.groups else None
    assert outcome is None or (outcome.done, outcome.ticket) == (False, 1)
    started = len(spawned(drive.taken))
    drive.obeys()
    drive.later(60)
    assert "web" not in drive.cluster.groups
    assert not [slot for slot, _ in spawned(drive.taken)[started:] if slot.startswith("web")]


def test_a_group_that_goes_is_neither_scaled_nor_rolled_any_more():
    drive = settled(web(count=2), command())
    configure(drive, command())
    drive.happen(events.Scaled("web", 4))
    assert drive.group().count == 0
    drive.asks()
    drive.obeys()
    drive.later(60)
    assert list(drive.cluster.groups) == ["cache"]


def test_a_group_that_is_gone_may_come_again():
    drive = settled(web(count=2), command())
    configure(drive, command())
    drive.obeys()
    configure(drive, command(), web(count=2))
    drive.up(watched=False)
    assert drive.releases() == [(1,), (1,)]


def test_a_stop_while_a_group_goes():
    drive = settled(web(), command())
    configure(drive, command())
    drive.happen(events.StopAsked("bkd stop"))
    drive.obeys()
    assert kinds(drive.taken)[-1] == "Leave"
    assert drive.did(actions.Leave)[0].code == 0


def test_nobody_is_charged_when_a_group_goes():
    drive = settled(web(count=4), command())
    configure(drive, command())
    for slot in drive.slot_names():
        drive.dies(slot, 1)
    drive.later(60)
    assert list(drive.cluster.groups) == ["cache"]
    assert "OpenBreaker" not in kinds(drive.taken)


# -- whoever waits for a roll when everything ends


@pytest.mark.parametrize("stage", [Stage.LOADING, Stage.CANARY, Stage.ROLLING, Stage.SETTLING])
def test_a_stop_ends_the_roll_and_nothing_follows(stage):
    drive = rolling(stage)
    drive.happen(events.StopAsked("bkd stop"))
    assert drive.stage() is None
    assert (drive.group().outcome.done, drive.group().outcome.reason) == (False, "the cluster stops: bkd stop")
    started = len(spawned(drive.taken))
    drive.obeys()
    drive.later(60)
    assert len(spawned(drive.taken)) == started
    assert kinds(drive.taken)[-1] == "Leave"
    assert not drive.told(RollDone)


@pytest.mark.parametrize(
    "end", [events.StopAsked("bkd stop"), events.Reconfigured({"api": web("api")}, PingSection(), {})]
)
def test_who_is_queued_has_an_outcome_too_when_everything_ends(end):
    drive = rolling(Stage.ROLLING)
    drive.asks()
    drive.happen(end)
    assert (drive.group().queued, drive.group().asked) == (None, 2)
    assert drive.group().outcome.ticket == 2


def test_a_group_makes_way_when_the_one_that_takes_its_place_has_come():
    """It is drained only then, whoever asked for it and however long it takes."""
    drive = settled(web())
    drive.happen(events.Reconfigured({"api": web("api")}, PingSection(), {}, makes_way={"web": ("api",)}))
    drive.load("api")
    drive.later(60)
    assert not drive.group("web").leaving
    for slot in drive.group("api").slots:
        drive.ready(slot, watched=False)
    drive.later(2.9)
    assert not drive.group("web").leaving
    drive.later(0.1)
    assert drive.group("web").leaving
    drive.obeys()
    assert list(drive.cluster.groups) == ["api"]


def test_a_group_that_is_named_again_makes_no_way():
    drive = settled(web())
    drive.happen(events.Reconfigured({"api": web("api")}, PingSection(), {}, makes_way={"web": ("api",)}))
    drive.happen(events.Reconfigured({"web": web(), "api": web("api")}, PingSection(), {}))
    assert drive.group("web").makes_way == ()
