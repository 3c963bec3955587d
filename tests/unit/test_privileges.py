"""`user`, `group` and `umask` in numbers, what cannot be done, and files that belong to somebody else."""

import grp
import os
import pwd
import stat
from pathlib import Path

import msgspec
import pytest

from bkd.supervisor.balance import FEWEST, NOT_SERVING, Balance
from bkd.supervisor.config.load import load
from bkd.supervisor.config.schema import GroupSection
from bkd.supervisor.connection import Peer
from bkd.supervisor.identity import identify
from bkd.supervisor.privileges import Accounts, Credentials, PrivilegeError, changeable, faults, resolve
from bkd.supervisor.registry import Process, Registry
from bkd.supervisor.roles import Role
from bkd.supervisor.rotation import make, rotate
from bkd.supervisor.slotlog import provide

ROOT = pwd.getpwuid(0)
OTHER = next(user for user in pwd.getpwall() if user.pw_uid not in (0, os.geteuid()))
STRANGER = 4_000_000_001
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file away")


def group(**settings):
    return GroupSection("web", "web", app="shop:app", **settings)


def test_without_options_everything_is_bkds_own():
    credentials = resolve(group(), own=0)

    assert credentials == Credentials()
    assert credentials.order() == {}
    assert credentials.environment() == {}


def test_a_user_brings_his_groups_and_his_home():
    credentials = resolve(group(user=OTHER.pw_name, umask="027"), own=0)

    assert credentials.order() == {
        "uid": OTHER.pw_uid,
        "gid": OTHER.pw_gid,
        "groups": sorted(os.getgrouplist(OTHER.pw_name, OTHER.pw_gid)),
        "umask": 0o027,
        "user": f"user {OTHER.pw_name}",
    }
    assert credentials.environment() == {"HOME": OTHER.pw_dir, "USER": OTHER.pw_name, "LOGNAME": OTHER.pw_name}


def test_a_group_beside_a_user_is_his_primary_one():
    other = next(entry for entry in grp.getgrall() if entry.gr_gid not in (0, OTHER.pw_gid))

    credentials = resolve(group(user=OTHER.pw_name, group=other.gr_name), own=0)

    assert credentials.gid == other.gr_gid
    assert OTHER.pw_gid not in credentials.groups
    assert other.gr_gid in credentials.groups


def test_a_group_or_a_umask_alone_changes_nothing_else():
    other = grp.getgrall()[-1]

    assert resolve(group(group=other.gr_name), own=0).order() == {"gid": other.gr_gid, "user": "group or umask"}
    assert resolve(group(umask="077"), own=1000).order() == {"umask": 0o077, "user": "group or umask"}


def test_whoever_runs_bkd_needs_no_change():
    assert resolve(group(user=OTHER.pw_name), own=OTHER.pw_uid) == Credentials()
    assert resolve(group(user=ROOT.pw_name), own=0) == Credentials()


def test_a_number_that_nobody_has_needs_a_group():
    with pytest.raises(PrivilegeError, match="name its group"):
        resolve(group(user=str(STRANGER)), own=0)

    credentials = resolve(group(user=str(STRANGER), group=str(STRANGER)), own=0)

    assert (credentials.uid, credentials.gid, credentials.groups) == (STRANGER, STRANGER, (STRANGER,))
    assert credentials.home == "/"


@pytest.mark.parametrize("settings", [{"user": "no-such-user"}, {"group": "no-such-group"}, {"user": str(2**32 - 1)}])
def test_names_that_stand_for_nothing(settings):
    with pytest.raises(PrivilegeError, match="there is no"):
        resolve(group(**settings), own=0)


def test_an_account_is_looked_up_once(monkeypatch):
    accounts = Accounts()
    first = accounts.of(group(user=OTHER.pw_name))
    monkeypatch.setattr(pwd, "getpwnam", lambda name: pytest.fail("looked up again"))

    assert accounts.of(group(user=OTHER.pw_name)) is first


def test_only_root_can_become_somebody_else(tmp_path):
    (tmp_path / "bkd.toml").write_text(f'[workers.web]\nkind = "web"\napp = "shop:app"\nuser = "{OTHER.pw_name}"\n')
    config = load(str(tmp_path / "bkd.toml"), {}, hostname="h1")

    assert [str(fault) for fault in faults(config, own=STRANGER)] == [
        f"workers.web.user: expected bkd to be run as root or as {OTHER.pw_name}, found user {STRANGER}"
    ]
    assert faults(config, own=OTHER.pw_uid) == []


def test_a_group_needs_root_and_a_umask_does_not(tmp_path):
    other = next(entry for entry in grp.getgrall() if entry.gr_gid != os.getegid())
    (tmp_path / "bkd.toml").write_text(
        f'[workers.web]\nkind = "web"\napp = "shop:app"\ngroup = "{other.gr_name}"\numask = "027"\n'
        '[workers.cache]\nkind = "command"\ncommand = ["sleep", "1"]\numask = "027"\n'
    )
    config = load(str(tmp_path / "bkd.toml"), {}, hostname="h1")

    assert [fault.key for fault in faults(config, own=STRANGER)] == ["workers.web.group"]


def test_a_folder_is_changeable_by_whoever_can_replace_one_above_it(tmp_path):
    inner = tmp_path / "theirs" / "run"
    inner.mkdir(parents=True)
    stranger = Credentials(STRANGER, STRANGER, (STRANGER,))
    assert changeable(str(inner), stranger) == ""
    assert changeable(str(inner), stranger._replace(uid=os.geteuid())) == str(inner)

    inner.parent.chmod(0o777)
    assert changeable(str(inner), stranger) == str(inner.parent)
    inner.parent.chmod(0o1777)
    assert changeable(str(inner), stranger) == ""
    inner.parent.chmod(0o775)
    assert changeable(str(inner), stranger) == ""
    assert changeable(str(inner), stranger._replace(groups=(inner.parent.stat().st_gid,))) == str(inner.parent)


def test_the_master_outlives_a_page_that_others_have_made_shorter(tmp_path):
    balance = Balance(str(tmp_path))
    page = Path(balance.page("web", 2, fresh=True))
    seat = balance.take("web")
    assert page.stat().st_size == FEWEST
    page.write_bytes(bytes(FEWEST))

    balance.gone("web", seat)
    assert page.read_bytes()[seat] == NOT_SERVING
    os.truncate(page, 0)

    balance.free("web", seat)
    assert balance.take("web") == seat
    balance.gone("web", FEWEST + 1)


@needs_root
def test_each_user_has_a_page_of_his_own(tmp_path):
    balance = Balance(str(tmp_path))
    pages = [Path(balance.page("web", 2, fresh=True, uid=uid)) for uid in (-1, OTHER.pw_uid)]
    for page in pages:
        page.write_bytes(bytes(FEWEST))
    Balance(str(tmp_path)).hold("web", 3)

    balance.gone("web", 3)

    assert [page.stat().st_uid for page in pages] == [0, OTHER.pw_uid]
    assert [page.read_bytes()[3] for page in pages] == [NOT_SERVING, NOT_SERVING]


@needs_root
def test_a_log_is_made_for_its_writer_and_not_given_from_one_to_another(tmp_path):
    log = tmp_path / "web.1.log"
    provide(str(log), OTHER.pw_uid, 5)
    log.write_text("of the other\n")
    log.chmod(0o666)

    provide(str(log), OTHER.pw_uid, 5)
    assert log.read_text() == "of the other\n"
    provide(str(log), STRANGER, 5)

    assert (log.stat().st_uid, stat.S_IMODE(log.stat().st_mode), log.read_text()) == (STRANGER, 0o640, "")
    assert (tmp_path / "web.1.log.1").read_text() == "of the other\n"
    assert (tmp_path / "web.1.log.1").stat().st_uid == OTHER.pw_uid
    provide(str(log), -1, 5)
    assert not log.exists()


@needs_root
@pytest.mark.parametrize("reopens", [True, False])
def test_what_root_makes_of_a_log_has_the_rights_of_its_owner_and_no_more(tmp_path, reopens):
    log = tmp_path / "web.1.log"
    make(log, OTHER.pw_uid, OTHER.pw_gid)
    log.write_bytes(b"x" * 50_000)
    log.chmod(0o6777)

    while rotate(log, limit=4096, keep=3, reopen=(lambda: None) if reopens else None):
        pass

    made = log if reopens else tmp_path / "web.1.log.1"
    assert (made.stat().st_uid, made.stat().st_gid) == (OTHER.pw_uid, OTHER.pw_gid)
    assert stat.S_IMODE(made.stat().st_mode) == 0o666


def test_no_link_is_followed_when_a_log_is_made(tmp_path):
    target, log = tmp_path / "target", tmp_path / "web.1.log"
    log.symlink_to(target)

    make(log, os.geteuid(), -1)

    assert not target.exists()


def test_who_has_no_role_must_belong_to_a_worker_of_his_user(monkeypatch):
    """A mark in an environment can be copied; this process carries one."""
    registry = Registry()
    process = Process(1, "web", "web.1", 1, group(), uid=STRANGER)
    registry.add(process)
    me = os.getpid()
    monkeypatch.setattr("bkd.supervisor.identity._marked", lambda pid, registry: process)

    assert identify(Peer(me, OTHER.pw_uid, 0), Role.NOBODY, registry) is None
    assert identify(Peer(me, STRANGER, 0), Role.NOBODY, registry).name == "web.1"
    assert identify(Peer(me, os.geteuid(), 0), Role.OWNER, registry).name == "web.1"


def test_records_of_a_master_that_knew_no_users_are_read():
    from bkd.supervisor.memory import LoaderRecord

    assert (
        msgspec.convert(
            {"group": "web", "release": 1, "token": "t", "pid": 1, "start": 1, "loaded": True}, LoaderRecord
        ).uid
        == -1
    )
