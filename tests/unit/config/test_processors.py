import os

import pytest

from bkd.supervisor.config.processors import processors

UNIFIED = "30 20 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n"
LEGACY = "31 20 0:2 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n"


def host(files):
    return {"/proc/self/mountinfo": UNIFIED, "/proc/self/cgroup": "0::/\n"} | files


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8),
        ({"/sys/fs/cgroup/cpu.max": "max 100000\n"}, 8),
        ({"/sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2),
        ({"/sys/fs/cgroup/cpu.max": "250000 100000\n"}, 2),
        ({"/sys/fs/cgroup/cpu.max": "10000 100000\n"}, 1),
        ({"/sys/fs/cgroup/cpu.max": "9900000 100000\n"}, 8),
        ({"/sys/fs/cgroup/cpu.max": "nonsense\n"}, 8),
        ({"/proc/self/cgroup": "0::/a/b\n", "/sys/fs/cgroup/a/cpu.max": "300000 100000\n"}, 3),
        (
            {
                "/proc/self/cgroup": "0::/a/b\n",
                "/sys/fs/cgroup/a/cpu.max": "300000 100000\n",
                "/sys/fs/cgroup/a/b/cpu.max": "500000 100000\n",
            },
            3,
        ),
        (
            {
                "/proc/self/mountinfo": UNIFIED.replace(" / /sys", " /docker/abc /sys"),
                "/proc/self/cgroup": "0::/docker/abc/web\n",
                "/sys/fs/cgroup/web/cpu.max": "400000 100000\n",
            },
            4,
        ),
        ({"/proc/self/cgroup": "0::/../x\n", "/sys/fs/cgroup/cpu.max": "400000 100000\n"}, 4),
        (
            {
                "/proc/self/mountinfo": UNIFIED.replace("/sys/fs/cgroup", r"/mnt/c\040g"),
                "/mnt/c g/cpu.max": "400000 100000\n",
            },
            4,
        ),
    ],
)
def test_quotas_of_the_own_group_and_its_ancestors_count(files, expected):
    assert processors(host(files).get, affinity=8) == expected


@pytest.mark.parametrize(("quota", "expected"), [("-1", 8), ("200000", 2), ("50000", 1), ("", 8)])
def test_the_older_hierarchy_counts_too(quota, expected):
    files = {
        "/proc/self/mountinfo": LEGACY,
        "/proc/self/cgroup": "4:memory:/x\n3:cpu,cpuacct:/docker/1\n",
        "/sys/fs/cgroup/cpu,cpuacct/docker/1/cpu.cfs_quota_us": quota,
        "/sys/fs/cgroup/cpu,cpuacct/docker/1/cpu.cfs_period_us": "100000\n",
    }
    assert processors(files.get, affinity=8) == expected


def test_without_any_facts_the_affinity_counts():
    assert processors({}.get, affinity=3) == 3
    assert 1 <= processors() <= len(os.sched_getaffinity(0))
