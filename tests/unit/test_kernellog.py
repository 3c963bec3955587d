import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bkd.supervisor import cgroup
from bkd.supervisor.forensics.kernellog import KernelLog, about, message, sees_kernel_numbers

COMM = "bkd: shop web.1"
SEGFAULT = (
    "bkd: shop web.1[25]: segfault at 0 ip 00007f22807974219 sp 00007ffd5ac57288 error 4 in "
    "libc.so.6[156219,7f2807844000+156000] likely on CPU 1 (core 1, socket 0)"
)
CODE = "Code: fe 7f 5c 17 e1 c5 f8 77 <c5> fd 74 0f"
TRAP = "traps: bkd: shop web.1[26] general protection fault ip:5581a2 sp:7ffe30 error:0 in python3.11[558000+2b2000]"
OPCODE = "traps: bkd: shop web.1[27] trap invalid opcode ip:7f5a31 sp:7ffe30 error:0 in fast.so[7f5a30000+1000]"
OOM = (
    "Out of memory: Killed process 28 (bkd: shop web.1) total-vm:9123456kB, anon-rss:8012345kB, file-rss:0kB, "
    "shmem-rss:0kB, UID:1000 pgtables:15900kB oom_score_adj:0"
)
CGROUP_OOM = (
    "Memory cgroup out of memory: Killed process 29 (bkd: shop web.1) total-vm:1146880kB, anon-rss:522240kB, "
    "file-rss:8192kB, shmem-rss:0kB, UID:0 pgtables:1108kB oom_score_adj:0"
)
OOM_CHOICE = (
    "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=shop,mems_allowed=0,oom_memcg=/shop,task_memcg=/shop,"
    "task=bkd: shop web.1,pid=29,uid=0"
)
OOM_OLD = "Memory cgroup out of memory: Kill process 30 (a (b) c) score 1002 or sacrifice child"
BLOCKED = "INFO: task bkd: shop web.1:31 blocked for more than 122 seconds."
OTHER = "eth0: link becomes ready"
LINES = [OTHER, SEGFAULT, CODE, TRAP, OPCODE, OOM, OOM_CHOICE, CGROUP_OOM, OOM_OLD, BLOCKED]


@pytest.mark.parametrize(
    ("pid", "lines"),
    [
        (25, [SEGFAULT]),
        (26, [TRAP]),
        (27, [OPCODE]),
        (28, [OOM]),
        (29, [OOM_CHOICE, CGROUP_OOM]),
        (30, [OOM_OLD]),
        (31, [BLOCKED]),
    ],
)
def test_what_names_the_process(pid, lines):
    assert about(LINES, pid, COMM, numbered=True) == lines


def test_a_crash_of_another_thread_goes_by_the_name():
    assert about([OTHER, SEGFAULT, OOM], 24, COMM, numbered=True) == [SEGFAULT + " (a process of this name)"]
    assert about([OTHER, SEGFAULT, OOM], 24, "python3", numbered=True) == []


def test_where_pids_are_others_names_are_all_there_is():
    found = about([OTHER, SEGFAULT, OOM], 25, COMM, numbered=False)

    assert found == [f"{line} (a process of this name)" for line in (SEGFAULT, OOM)]
    assert about([OTHER, SEGFAULT, OOM], 25, "bkd: shop web", numbered=False) == []
    assert about([OTHER, SEGFAULT, OOM], 25, "", numbered=False) == []


def test_the_kernel_keeps_15_bytes_of_a_name():
    assert about([SEGFAULT], 24, COMM + "7 r3", numbered=False) == [SEGFAULT + " (a process of this name)"]


def test_of_many_the_last_are_given():
    assert about([SEGFAULT] * 9 + [CODE], 25, COMM, numbered=True) == [SEGFAULT] * 5


@given(
    st.lists(st.one_of(st.sampled_from(LINES), st.text(max_size=80))),
    st.integers(),
    st.text(max_size=20),
    st.booleans(),
)
def test_any_lines_are_read(lines, pid, comm, numbered):
    assert len(about(lines, pid, comm, numbered=numbered)) <= 5


@given(st.sampled_from(LINES), st.integers(0, 300))
def test_any_part_of_a_line_is_read(line, end):
    assert len(about([line[:end]], 25, COMM, numbered=True)) <= 1


@pytest.mark.parametrize(
    ("record", "text"),
    [
        (b"6,339,5140900,-;python[1]: segfault at 0\n SUBSYSTEM=x\n", "python[1]: segfault at 0"),
        (b"3,340,5140901,c,caller=T1;a\\x1b[2J\\x5c\\xc3\\xa9\n", "a?[2J\\é"),
        (b"4,341,1,-;a;b\n", "a;b"),
        (b"12,342,1,-;a program says: Out of memory\n", None),
        (b"", None),
        (b"nothing", None),
        (b"x,1,2,-;text\n", None),
    ],
)
def test_records_of_the_kernel_itself(record, text):
    assert message(record) == text


@given(st.binary(max_size=100))
def test_any_record_is_read(record):
    text = message(record)

    assert text is None or text.isprintable()


def test_the_log_of_this_machine_is_read_from_now_on():
    log = KernelLog()

    heard = log.new()
    log.close()

    assert len(heard) < 100
    assert log.new() == []
    assert log.why_not


@pytest.mark.parametrize("kind", ["absent", "pipe", "folder"])
def test_without_a_log_nothing_is_heard_and_the_reason_is_known(tmp_path, kind):
    device = tmp_path / kind
    if kind == "pipe":
        os.mkfifo(device)
    elif kind == "folder":
        device.mkdir()

    log = KernelLog(str(device))

    assert log.new() == []
    assert log.why_not
    assert log.recent(0.0) == []
    log.close()


def test_what_several_may_ask_for_is_kept_a_while(tmp_path):
    device = tmp_path / "log"
    device.write_bytes(b"")
    log = KernelLog(str(device))
    device.write_bytes(b"6,1,1,-;python[1]: segfault at 0\n")

    assert log.recent(10.0) == ["python[1]: segfault at 0"]
    assert log.recent(14.0) == ["python[1]: segfault at 0"]
    assert log.recent(16.0) == []
    log.close()


def test_it_is_known_whose_numbers_these_are():
    assert sees_kernel_numbers() == (Path("/proc/self/ns/pid").readlink().name == "pid:[4026531836]")


# -- how much memory there may be


def group(folder, **files):
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / f"memory.{name}").write_text(text + "\n")
    return folder


def test_the_limit_with_the_least_room_counts(tmp_path):
    outer = group(tmp_path / "a", max="1000000", current="990000")
    inner = group(outer / "b", max="500000", current="100000")
    free = group(inner / "c", max="max", current="1000")

    assert cgroup.memory_limit(free) == (990000, 1000000)
    (outer / "memory.current").write_text("1000")
    assert cgroup.memory_limit(free) == (100000, 500000)


def test_a_limit_of_the_first_version(tmp_path):
    outer = group(tmp_path / "a", limit_in_bytes="9223372036854771712", usage_in_bytes="7000")

    assert cgroup.memory_limit(outer) == (7000, None)
    assert cgroup.memory_limit(group(outer / "b", limit_in_bytes="4096", usage_in_bytes="4000")) == (4000, 4096)


def test_where_nothing_is_counted(tmp_path):
    assert cgroup.memory_limit(tmp_path / "none") == (None, None)


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("some avg10=12.50 avg60=1.00 avg300=0.00 total=1\nfull avg10=3.00 avg60=0.00 avg300=0.00 total=0\n", 12.5),
        ("full avg10=3.00 avg60=0.00 avg300=0.00 total=0\n", None),
        ("", None),
    ],
)
def test_pressure(text, share):
    assert cgroup.parse_pressure(text) == share


def test_pressure_of_a_group_is_its_own(tmp_path):
    inside = group(tmp_path / "a", pressure="some avg10=99.25 avg60=0.00 avg300=0.00 total=0")

    assert cgroup.memory_pressure(inside) == 99.25
    assert cgroup.memory_pressure(tmp_path) is None or cgroup.memory_pressure(tmp_path) >= 0


@given(st.text(max_size=60))
def test_any_text_for_pressure(text):
    assert cgroup.parse_pressure(text) is None or cgroup.parse_pressure(text) >= 0
