import os
import stat

import pytest

from bkd.ipc.stacks import Frame
from bkd.supervisor.doctor import (
    clocks,
    controlgroup,
    examine,
    finding,
    folders,
    importtimes,
    interpreter,
    kernel,
    procview,
    resources,
    risks,
    sight,
    subject,
    surroundings,
)
from bkd.supervisor.doctor.finding import Finding
from bkd.supervisor.doctor.forksafety import NoSuchApp, target
from bkd.supervisor.doctor.forkverdict import judge
from bkd.supervisor.doctor.seen import Child, Inside, Memory, Opened, Outside, Package, Seen, Sizes, Socket, Started

MB = 1 << 20
MOUNTS = """\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
23 22 0:21 / /proc rw - proc proc rw
24 22 0:22 / /run rw,nosuid shared:5 - tmpfs tmpfs rw,size=4k
25 22 0:44 / /srv/my\\040shop rw - nfs4 files:/shop rw
26 25 0:45 / /srv/my\\040shop rw - overlay overlay rw
"""
STATUS = "Name:\tbkd\nCapEff:\t{held:016x}\nNoNewPrivs:\t{nnp}\nSeccomp:\t{seccomp}\nSeccomp_filters:\t1\n"


@pytest.mark.parametrize(
    ("release", "state", "means"),
    [
        ("6.18.44", "ok", ""),
        ("5.10.0-33-amd64", "ok", "5.14 brings cgroup.kill"),
        ("6.8.0-generic", "ok", "6.15 brings how"),
        ("5.4.0", "missing", "5.10"),
        ("4.19.112+", "missing", "5.10"),
        ("odd", "degraded", "no version"),
    ],
)
def test_kernel_versions(release, state, means):
    found = kernel.version(release)

    assert (found.state, found.found) == (state, release)
    assert means in found.means


def test_what_the_kernel_measures():
    assert kernel.run_delay("781900 254987 2\n").state == "ok"
    assert [kernel.run_delay(text).state for text in ("0 0 0\n", None)] == ["degraded", "degraded"]
    told = kernel.pressure({"cpu": "some avg10=1.50 avg60=0.08 avg300=1.68 total=1\nfull avg10=0.00", "io": None})
    assert (told.state, told.found) == ("ok", "cpu 1.50 % of the last 10 s")
    assert kernel.pressure({"cpu": None}).state == "degraded"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("0::/system.slice/shop.service\n", "version 2, /system.slice/shop.service"),
        ("5:cpu,cpuacct:/\n4:memory:/docker/1f\n0::/\n", "version 1, /docker/1f"),
    ],
)
def test_control_groups(tmp_path, text, found):
    assert controlgroup.hierarchy(text, tmp_path) == Finding("cgroup", "ok", found)
    assert controlgroup.hierarchy(text, None).state == "degraded"


def test_no_control_groups():
    assert controlgroup.hierarchy(None, None).found == "none"
    assert controlgroup.oom_kills(None).state == "degraded"
    assert controlgroup.oom_kills(3).found == "counted, 3 so far"


@pytest.mark.parametrize(
    ("writable", "kill", "state", "word"),
    [(True, True, "ok", "delegated"), (True, False, "degraded", "cgroup.kill"), (False, True, "degraded", "not del")],
)
def test_delegation(writable, kill, state, word):
    found = controlgroup.delegation(writable=writable, kill=kill)

    assert found.state == state
    assert found.found.startswith(word) or word in found.found


def test_memory_limits():
    assert controlgroup.memory(None, None).found == "none but the machine's"
    assert controlgroup.memory(100 * MB, 512 * MB) == Finding("memory limit", "ok", "512 MB, 20% in use")
    assert controlgroup.memory(500 * MB, 512 * MB).state == "degraded"
    assert controlgroup.memory(None, 512 * MB).found == "512 MB"


def test_processors():
    assert controlgroup.cpus(2, 8).found == '2 of the machine\'s 8 (affinity and cpu.max): count = "auto" is 2'
    assert controlgroup.cpus(2, 2).found == '2: count = "auto" is 2'


def test_what_is_hidden_of_workers():
    assert sight.workers({}, "1").state == "ok"
    denied = sight.workers({"syscall": "Operation not permitted"}, "1\n")
    assert denied.state == "degraded"
    assert "ptrace_scope = 0" in denied.means
    assert "yama" not in sight.workers({"syscall": "Operation not permitted"}, None).means
    assert "max_memory" in sight.workers({"smaps_rollup": "Permission denied"}, "0").means
    assert sight.workers(dict.fromkeys(sight.WITHOUT, "gone"), "0").found == "cannot be read"


@pytest.mark.parametrize(
    ("limit", "pattern", "found"),
    [
        (0, "core\n", "none (ulimit -c 0)"),
        (-1, "/var/crash/%e.%p\n", "written as /var/crash/%e.%p"),
        (0, "|/usr/lib/systemd/systemd-coredump %P %u\n", "written to /usr/lib/systemd/systemd-coredump"),
        (0, None, "none (ulimit -c 0)"),
    ],
)
def test_core_dumps(limit, pattern, found):
    assert sight.core_dumps(limit, pattern).found == found


@pytest.mark.parametrize(
    ("soft", "hard", "state"),
    [(1024, 4096, "degraded"), (65536, 65536, "ok"), (50, 50, "missing"), (-1, -1, "ok"), (1024, -1, "degraded")],
)
def test_open_files(soft, hard, state):
    assert resources.files(76, soft, hard).state == state


def test_processes():
    assert resources.processes(10, 5, None, privileged=False).state == "missing"
    assert resources.processes(10, 5, None, privileged=True).state == "ok"
    assert resources.processes(10, -1, 7, privileged=True).state == "missing"
    assert resources.processes(10, -1, None, privileged=False).found.startswith("no limit")


def test_sockets_and_memory():
    assert resources.backlog("128\n").means.endswith("net.core.somaxconn=2048")
    assert [resources.backlog(text).state for text in ("4096\n", None)] == ["ok", "ok"]
    assert resources.migration(None).state == "ok"
    assert resources.huge_pages("[always] madvise never\n").state == "degraded"
    assert resources.huge_pages("always [madvise] never\n") == Finding("huge pages", "ok", "madvise")
    assert resources.huge_pages(None).found == "none"
    assert resources.overcommit("2\n").state == "degraded"
    assert resources.overcommit("0\n").state == "ok"


def test_swap():
    assert resources.swap("SwapTotal:   1048576 kB\nSwapFree:    1048576 kB\n").state == "ok"
    used = resources.swap("SwapCached: 0 kB\nSwapTotal:   1048576 kB\nSwapFree:    524288 kB\n")
    assert (used.state, used.found) == ("degraded", "512 MB of 1 GB in use")
    assert resources.swap(None).found == "none"


def test_clocks():
    assert clocks.source("tsc", 50e-9) == Finding("clock source", "ok", "tsc, 50 ns to ask")
    assert clocks.source("acpi_pm", 3e-6).state == "degraded"
    assert clocks.slept(0.0).found == "never since the start of the machine"
    assert clocks.slept(8000.0).found == "2.2 h since the start of the machine"
    assert clocks.synchronised(0, 0x2001, bus=True).found == "synchronised"
    assert clocks.synchronised(5, 0x40, bus=False).state == "ok"
    assert clocks.synchronised(5, 0x40, bus=True).state == "degraded"
    assert clocks.synchronised(-1, 0, bus=True).state == "ok"


def test_time_zones():
    assert clocks.zone("Europe/Nowhere", clocked=True).state == "degraded"
    assert clocks.zone("Europe/Nowhere", clocked=False).state == "ok"
    assert clocks.zone("CET-1CEST", clocked=True).state == "ok"
    assert clocks.zone(None, clocked=True).state == "ok"


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/home/me", "ext4"), ("/run/bkd/shop", "tmpfs"), ("/runner", "ext4"), ("/srv/my shop/run", "overlay")],
)
def test_file_systems(path, kind):
    assert folders.kind_of(path, MOUNTS) == kind


def test_folders():
    roomy = folders.Space("tmpfs", 400 * MB, None)
    assert folders.judged("x", "/run/shop", roomy, 100 * MB) == Finding("x", "ok", "/run/shop: tmpfs, 400 MB free")
    assert folders.judged("x", "/run/shop", roomy, 500 * MB).state == "degraded"
    assert "network" in folders.judged("x", "/mnt", folders.Space("nfs4", 400 * MB, 10**6), 1).means
    assert folders.judged("x", "/mnt", folders.Space("ext4", 400 * MB, 12), 1).found.endswith("12 inodes")
    assert folders.judged("x", "/mnt", folders.Space("ext4", 400 * MB, 1), 1).found.endswith("1 inode")
    assert folders.watches("8191\n").state == "degraded"
    assert folders.watches("65536\n").state == "ok"


def test_places_for_the_run_directory(tmp_path):
    assert folders.objection(str(tmp_path / "new" / "run")) == ""
    assert "too long" in folders.objection(f"/{'x' * 120}")


def test_surroundings():
    assert surroundings.init("systemd", systemd=True, container=False).found == "systemd"
    assert "sh is process 1" in surroundings.init("sh", systemd=False, container=True).found
    assert "Type=notify" in surroundings.notified("/run/systemd/notify").means
    assert surroundings.notified(None).state == "ok"
    assert surroundings.journal(there=True).found == "journald"
    assert surroundings.host_name("localhost", bus=True).state == "degraded"
    assert surroundings.host_name("0123456789ab", bus=True).state == "degraded"
    assert surroundings.host_name("h1", bus=True).state == "ok"
    assert surroundings.host_name("localhost", bus=False).state == "ok"
    assert [surroundings.text(name).state for name in ("utf-8", "UTF8", "ascii")] == ["ok", "ok", "degraded"]


def test_rights():
    every = surroundings.rights(0, STATUS.format(held=(1 << 41) - 1, nnp=0, seccomp=2)).found
    none = surroundings.rights(1000, STATUS.format(held=0, nnp=1, seccomp=0)).found
    some = surroundings.rights(0, STATUS.format(held=1 << 19, nnp=0, seccomp=0)).found

    assert every == "root, all capabilities that matter, a seccomp filter"
    assert none == "user 1000, capabilities: none, no seccomp, no new privileges"
    assert "capabilities: SYS_PTRACE," in some


def test_interpreters():
    assert interpreter.python((3, 13, 1), False, "free-threaded, the GIL is off").found.endswith("the GIL is off")
    assert interpreter.python((3, 12, 0), True, "").state == "degraded"
    assert interpreter.python((3, 10, 9), False, "").state == "missing"


def test_what_a_configuration_asks_for(tmp_path):
    nothing = subject.Subject()
    assert (nothing.workers, nothing.files, nothing.processes) == (1, 67, 6)
    assert subject.configuration(nothing).found == "none here"

    some = configured(tmp_path)
    assert (some.workers, some.clocked, some.has_bus) == (7, True, False)
    assert some.room == subject.LEAST_ROOM + 7 * 6 * 10 * MB
    assert subject.configuration(some).found.endswith("2 groups, 7 workers")

    (tmp_path / "bkd.toml").write_text("[workers.web]\nkind = 'wbe'\n")
    assert subject.configuration(subject.find(str(tmp_path / "bkd.toml"))).state == "degraded"


def test_every_probe_has_a_name_of_its_own():
    probes = [name for _topic, some in examine.probes(subject.Subject()) for name in some]

    assert len(probes) == len(set(probes))


def test_the_table_is_aligned_and_ends_with_what_is_wrong():
    found = [("kernel", [Finding("a", "ok", "works"), Finding("long", "missing", "none", "do this")])]

    assert finding.table(found).splitlines() == [
        "kernel",
        "  ok  a     works",
        "  !!  long  none; do this",
        "",
        "  !!  long  none; do this",
        "",
        "1 ok, 0 bkd does without, 1 missing",
    ]


IMPORTED = """\
import time: self [us] | cumulative | imported package
import time:       100 |        100 |   msgspec
bkd: the import begins
import time:       300 |        300 |   shop.models
connecting …
import time:    500000 |     500300 |     sqlalchemy.orm
import time:    250000 |     250000 | sqlalchemy
bkd: the import is over
import time:       900 |        900 |   late
"""


def test_import_times_go_by_package():
    assert importtimes.slowest(IMPORTED) == [Package("sqlalchemy", 0.75, 2), Package("shop", 0.0003, 1)]
    assert importtimes.printed(IMPORTED) == ["connecting …"]
    assert importtimes.slowest("") == []
    assert importtimes.printed("import time: 1 | 1 | site\nNo module named bkd\n") == ["No module named bkd"]


def test_what_proc_tells():
    maps = (
        "7f00-7f01 r-xp 00000000 fe:00 1 /usr/lib/libm.so.6\n7f02 r-xp 0 fe:00 1 /v/lib/_x.cpython-311.so\n7f03 rw-p\n"
    )
    assert procview.libraries(maps) == ["libm.so.6"]
    text = (
        "55d0-7ffc ---p 00000000 00:00 0 [rollup]\nRss: 100 kB\nPss: 60 kB\nPrivate_Clean: 8 kB\nPrivate_Dirty: 12 kB\n"
    )
    assert procview.sizes(text) == Sizes(102400, 61440, 20480)
    assert procview.sizes("") is None


@pytest.mark.parametrize(
    ("mode", "target", "flags", "kind"),
    [
        (stat.S_IFREG, "/srv/log", os.O_WRONLY | os.O_APPEND, "append"),
        (stat.S_IFREG, "/srv/log", os.O_RDWR, "write"),
        (stat.S_IFREG, "/srv/data", 0, "read"),
        (stat.S_IFIFO, "pipe:[1]", 0, "pipe"),
        (stat.S_IFCHR, "/dev/urandom", 0, "device"),
        (0, "anon_inode:[eventpoll]", 2, "eventpoll"),
        (0, "anon_inode:inotify", 0, "inotify"),
    ],
)
def test_kinds_of_descriptors(mode, target, flags, kind):
    assert procview.kind(mode, target, f"pos:\t0\nflags:\t{flags:07o}\nmnt_id:\t1\n") == kind


def verdict_on(outside=None, memory=None, preload="auto", trouble="", **inside):
    seen = Seen(Inside(seconds=1.0, **inside), outside or Outside(), [], memory, trouble)
    return judge(seen, cwd="/srv/shop", preload=preload)


def one(judgement, topic):
    return dict(judgement.topics)[topic][0]


def test_nothing_left_behind_is_safe():
    memory = Memory(Sizes(40 * MB, 40 * MB, 40 * MB), Sizes(30 * MB, 9 * MB, 2 * MB), MB, 12 * MB)
    judgement = verdict_on(memory=memory)

    assert (judgement.verdict, judgement.reasons) == ("safe to fork", [])
    assert [line.found for line in dict(judgement.topics)["memory"]] == [
        "40 MB",
        "shares 28 MB, 2 MB of its own",
        "1 MB more of its own",
        "12 MB more; bkd freezes what was imported",
    ]


@pytest.mark.parametrize(
    ("preload", "words"), [("auto", "start workers by exec"), ("true", "does not load"), ("false", "in any case")]
)
def test_a_thread_forbids_a_fork(preload, words):
    thread = Started("poller", 12, "/srv/shop/shop/db.py:9", [Frame("/srv/shop/shop/db.py", 3, "poll")])
    judgement = verdict_on(threads=[thread], unsafe=["thread poller"], preload=preload)

    assert judgement.reasons == ["thread poller"]
    assert judgement.verdict.startswith("not safe: thread poller: ")
    assert words in judgement.verdict
    assert one(judgement, "threads").found == "started at shop/db.py:9, is at shop/db.py:3 in poll"


def test_threads_of_c_code():
    known = Started("poller", 12, "", [])
    judgement = verdict_on(
        Outside(threads={12: "python", 13: "grpc_poll"}, libraries=["libopenblas64_p-r0.so"]),
        threads=[known],
        unsafe=["thread poller", "thread grpc_poll"],
    )

    assert judgement.reasons == ["thread poller", "thread grpc_poll"]
    assert one(judgement, "libraries").name == "OpenBLAS"


def test_sockets():
    sockets = [
        Socket(5, True, False, "10.0.0.1:4000", "10.0.0.9:5432", "/srv/shop/shop/db.py:7"),
        Socket(6, True, True, "0.0.0.0:80", None, ""),
        Socket(7, False, False, "10.0.0.1:4001", "10.0.0.9:8125", ""),
        Socket(8, True, False, "", "", ""),
        Socket(9, True, False, "", None, ""),
    ]
    judgement = verdict_on(sockets=sockets, unsafe=["…"])

    assert judgement.reasons == ["connection to 10.0.0.9:5432", "a pair of sockets"]
    found = dict(judgement.topics)["descriptors"]
    assert [line.state for line in found] == ["missing", "degraded", "degraded", "missing", "ok"]
    assert found[0].found == "connection to 10.0.0.9:5432, shop/db.py:7"


def test_what_is_shared_but_forbids_nothing():
    outside = Outside(
        opened=[Opened(4, "write", "/srv/shop/out.csv"), Opened(5, "eventpoll", "anon_inode:[eventpoll]")],
        children=[Child(77, "python -c from multiprocessing.resource_tracker import main")],
    )
    judgement = verdict_on(
        outside,
        files={"/srv/shop/out.csv": "/srv/shop/app.py:2"},
        processes=["/srv/shop/app.py:3"],
        handlers={15: "app.stop", 10: "app.reopen"},
        objects={"random.Random": 3, "random.SystemRandom": 1, "asyncio.AbstractEventLoop": 1},
        loops=["/srv/shop/app.py:4"],
    )

    assert judgement.verdict == "safe to fork"
    assert one(judgement, "descriptors").found == "write: out.csv, opened at app.py:2"
    assert one(judgement, "processes").found.endswith("started at app.py:3")
    assert [line.name for line in dict(judgement.topics)["signals"]] == ["SIGUSR1", "SIGTERM"]
    assert [line.found for line in dict(judgement.topics)["libraries"]] == [
        "1 made at import, app.py:4",
        "2 made at import",
    ]


def test_what_bkd_would_not_notice():
    assert "set preload = false" in verdict_on(cuda=True).verdict
    assert verdict_on(trouble="a forked child did not live").reasons == ["forking failed: a forked child did not live"]


def test_what_the_loader_objects_to_is_never_left_out():
    assert verdict_on(unsafe=["thread ghost"]).reasons == ["thread ghost"]


def test_advice_is_for_what_is_there():
    found = risks.findings(Inside(1.0, packages=["grpc", "flask"], objects={"flask.Flask": 1}), Outside(), "")

    assert [(line.name, line.state) for line in found] == [("grpc", "ok")]


def test_what_can_be_looked_at(tmp_path):
    config = configured(tmp_path).config

    web = target("web", config)
    assert (web.trial.load.group, web.trial.limit, web.preload) == ("web", 5.0, "true")
    assert target("shop:app", config) == web
    other = target("other:app", config)
    assert (other.trial.load.group, other.trial.limit, other.preload) == ("", 120.0, "auto")
    for name, word in (("cache", "never forked"), ("wbe", "did you mean web"), ("what", "MODULE:NAME")):
        with pytest.raises(NoSuchApp, match=word):
            target(name, config)


def configured(folder):
    file = folder / "bkd.toml"
    file.write_text(
        """
        [workers.web]
        kind = "web"
        app = "shop:app"
        count = 6
        start_timeout = "5s"
        preload = true
        restart_at = ["04:00"]
        [workers.cache]
        kind = "command"
        command = ["memcached"]
        """
    )
    return subject.find(str(file))
