"""System calls by their numbers, in the words of people who wait for them. Pure."""

import os
import re
from typing import NamedTuple

X86_64, AARCH64 = "x86_64", "aarch64"
_ARCHITECTURES = {X86_64: 0, AARCH64: 1, "arm64": 1}
F_SETLKW, F_OFD_SETLKW = 7, 38

NUMBERS: dict[str, tuple[int | None, int | None]] = {
    "read": (0, 63),
    "write": (1, 64),
    "readv": (19, 65),
    "writev": (20, 66),
    "pread64": (17, 67),
    "pwrite64": (18, 68),
    "preadv": (295, 69),
    "pwritev": (296, 70),
    "recvfrom": (45, 207),
    "recvmsg": (47, 212),
    "recvmmsg": (299, 243),
    "sendto": (44, 206),
    "sendmsg": (46, 211),
    "sendmmsg": (307, 269),
    "sendfile": (40, 71),
    "splice": (275, 76),
    "connect": (42, 203),
    "accept": (43, 202),
    "accept4": (288, 242),
    "poll": (7, None),
    "ppoll": (271, 73),
    "select": (23, None),
    "pselect6": (270, 72),
    "epoll_wait": (232, None),
    "epoll_pwait": (281, 22),
    "epoll_pwait2": (441, 441),
    "futex": (202, 98),
    "futex_waitv": (449, 449),
    "clock_nanosleep": (230, 115),
    "nanosleep": (35, 101),
    "wait4": (61, 260),
    "waitid": (247, 95),
    "flock": (73, 32),
    "fcntl": (72, 25),
    "ioctl": (16, 29),
    "fsync": (74, 82),
    "fdatasync": (75, 83),
    "sync": (162, 81),
    "syncfs": (306, 267),
    "sync_file_range": (277, 84),
    "msync": (26, 227),
    "open": (2, None),
    "openat": (257, 56),
    "openat2": (437, 437),
    "close": (3, 57),
    "io_getevents": (208, 4),
    "io_pgetevents": (333, 292),
    "io_uring_enter": (426, 426),
    "rt_sigtimedwait": (128, 137),
    "rt_sigsuspend": (130, 133),
    "pause": (34, None),
    "restart_syscall": (219, 128),
    "getrandom": (318, 278),
    "msgrcv": (70, 188),
    "msgsnd": (69, 189),
    "mq_timedreceive": (243, 183),
    "mq_timedsend": (242, 182),
    "semop": (65, 193),
    "semtimedop": (220, 192),
    "stat": (4, None),
    "fstat": (5, 80),
    "lstat": (6, None),
    "newfstatat": (262, 79),
    "statx": (332, 291),
    "access": (21, None),
    "faccessat": (269, 48),
    "faccessat2": (439, 439),
    "getdents64": (217, 61),
    "unlink": (87, None),
    "unlinkat": (263, 35),
    "rename": (82, None),
    "renameat": (264, 38),
    "renameat2": (316, 276),
    "mkdir": (83, None),
    "mkdirat": (258, 34),
    "ftruncate": (77, 46),
    "fallocate": (285, 47),
    "lseek": (8, 62),
    "copy_file_range": (326, 285),
    "mmap": (9, 222),
    "munmap": (11, 215),
    "mprotect": (10, 226),
    "madvise": (28, 233),
    "execve": (59, 221),
    "clone": (56, 220),
    "clone3": (435, 435),
    "vfork": (58, None),
    "exit": (60, 93),
    "exit_group": (231, 94),
}

# With the file of their first argument in place of {}.
_ON_A_FILE = {
    **dict.fromkeys(
        ("read", "readv", "pread64", "preadv", "recvfrom", "recvmsg", "recvmmsg", "splice"), "read from {}"
    ),
    **dict.fromkeys(
        ("write", "writev", "pwrite64", "pwritev", "sendto", "sendmsg", "sendmmsg", "sendfile"), "write to {}"
    ),
    **dict.fromkeys(("accept", "accept4"), "waits for a connection on {}"),
    **dict.fromkeys(("fsync", "fdatasync", "syncfs", "sync_file_range"), "waits until {} is on the disk"),
    "connect": "connect to {}",
    "flock": "waits for the lock on {}",
    "fcntl": "fcntl on {}",
    "ioctl": "ioctl on {}",
    "getdents64": "reads the folder {}",
    "fstat": "fstat on {}",
    "ftruncate": "ftruncate on {}",
    "fallocate": "fallocate on {}",
    "lseek": "lseek in {}",
}

_ALONE = {
    **dict.fromkeys(("poll", "ppoll", "select", "pselect6"), "waits for events"),
    **dict.fromkeys(("epoll_wait", "epoll_pwait", "epoll_pwait2"), "waits for events"),
    **dict.fromkeys(("futex", "futex_waitv"), "waits for a lock"),
    **dict.fromkeys(("clock_nanosleep", "nanosleep"), "sleeps"),
    **dict.fromkeys(("wait4", "waitid"), "waits for a child process to end"),
    **dict.fromkeys(("open", "openat", "openat2"), "opens a file"),
    **dict.fromkeys(("stat", "lstat", "newfstatat", "statx"), "looks up a file"),
    **dict.fromkeys(("io_getevents", "io_pgetevents", "io_uring_enter"), "waits for a disk or socket"),
    **dict.fromkeys(("rt_sigtimedwait", "rt_sigsuspend", "pause"), "waits for a signal"),
    **dict.fromkeys(("msgrcv", "mq_timedreceive"), "waits for a message in a queue"),
    **dict.fromkeys(("msgsnd", "mq_timedsend"), "waits for room in a message queue"),
    **dict.fromkeys(("semop", "semtimedop"), "waits for a semaphore"),
    "sync": "waits until all files are on the disk",
    "msync": "waits until a mapped file is on the disk",
    "restart_syscall": "goes on with a wait that was interrupted",
    "getrandom": "waits for random numbers",
    "vfork": "starts a process",
    "exit": "ends",
    "exit_group": "ends",
}

# Beginnings of the names of kernel functions, which have changed their ends from version to version.
_SLEEPS_IN = {
    "futex": "waits for a lock",
    "hrtimer_nanosleep": "sleeps",
    "ep_poll": "waits for events",
    "do_epoll": "waits for events",
    "poll_schedule": "waits for events",
    "do_poll": "waits for events",
    "do_select": "waits for events",
    "pipe_read": "read from a pipe",
    "anon_pipe_read": "read from a pipe",
    "pipe_w": "write to a pipe",
    "anon_pipe_w": "write to a pipe",
    "unix_stream_read": "read from a unix socket",
    "unix_stream_data_wait": "read from a unix socket",
    "inet_csk_accept": "waits for a connection",
    "wait_woken": "read from or write to a socket",
    "sk_wait_data": "read from a socket",
    "sk_stream_wait": "write to a socket",
    "inet_stream_connect": "connect to a socket",
    "locks_lock_inode": "waits for the lock on a file",
    "flock_lock_inode": "waits for the lock on a file",
    "do_wait": "waits for a child process to end",
    "rpc_wait": "waits for a network file system",
    "nfs": "waits for a network file system",
    "fuse": "waits for a file system that a program serves",
    "request_wait_answer": "waits for a file system that a program serves",
    "folio_wait": "waits for a disk",
    "wait_on_page": "waits for a disk",
    "io_schedule": "waits for a disk",
    "jbd2": "waits for a disk",
    "do_signal_stop": "stopped by a signal",
    "ptrace_stop": "stopped by a debugger",
    "mem_cgroup": "waits for memory of its cgroup",
}

_NAMES = tuple({numbers[side]: name for name, numbers in NUMBERS.items()} for side in (0, 1))
_LINE = re.compile(r"([0-9]{1,9})((?: 0x[0-9a-f]{1,16}){1,8})\s*")


class Call(NamedTuple):
    """A system call in which a thread is. `name` is "" where the number or the machine is not known."""

    number: int
    name: str
    arguments: tuple[int, ...]

    @property
    def descriptor(self) -> int | None:
        """The descriptor that it is about; None when it is about none."""
        return self.arguments[0] & 0xFFFFFFFF if self.name in _ON_A_FILE and self.arguments else None


def parse(line: str, machine: str = os.uname().machine) -> Call | None:
    """From the text of /proc/PID/syscall; None when the thread is in no call: it runs, or the kernel does not tell.

    `machine` as `uname -m` says it.
    """
    match = _LINE.fullmatch(line)
    if match is None:
        return None
    number, side = int(match[1]), _ARCHITECTURES.get(machine)
    name = "" if side is None else _NAMES[side].get(number, "")
    return Call(number, name, tuple(int(argument, 16) for argument in match[2].split()))


def in_words_of(wchan: str) -> str:
    """What a thread waits for by the kernel function it sleeps in; "" when that says nothing to people.

    For threads whose call cannot be read: the kernel tells it only to whom it lets trace them.
    """
    return next((words for beginning, words in _SLEEPS_IN.items() if wchan.startswith(beginning)), "")


def in_words(call: Call, file: str = "") -> str:
    """What it waits for; `file` is what its descriptor leads to."""
    if not call.name:
        return f"syscall {call.number}"
    if call.name == "fcntl" and len(call.arguments) > 1 and call.arguments[1] in (F_SETLKW, F_OFD_SETLKW):
        return _ON_A_FILE["flock"].format(file or "a file")
    if call.name in _ON_A_FILE:
        return _ON_A_FILE[call.name].format(file or "a file")
    return _ALONE.get(call.name, call.name)
