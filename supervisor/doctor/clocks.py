"""Clocks: of the machine's own time, which deadlines go by, and of the time on the wall, which `restart_at` goes by."""

import ctypes
import os
import time
from zoneinfo import ZoneInfo

from ..config.processors import read_file
from ..fact import span
from .attempt import Probe
from .finding import Finding
from .subject import Subject

SOURCE = "/sys/devices/system/clocksource/clocksource0/current_clocksource"
LOCAL_TIME = "/etc/localtime"
SAMPLES = 2000
SLOW = 1e-6
SLEPT = 1.0
TIME_ERROR = 5
STA_UNSYNC = 0x40


class Timex(ctypes.Structure):
    """The head of struct timex, adjtimex(2), and room for the rest."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_long * 40),
    )


def probes(subject: Subject) -> dict[str, Probe]:
    """Of both clocks."""
    return {
        "clock source": lambda: source((read_file(SOURCE) or "unknown").strip(), cost()),
        "sleep": lambda: slept(time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)),
        "time": lambda: synchronised(*_adjtimex(), bus=subject.has_bus),
        "time zone": lambda: zone(os.environ.get("TZ"), clocked=subject.clocked),
    }


def cost() -> float:
    """Seconds to ask for the time, the lowest of a few rounds."""
    rounds = []
    for _ in range(3):
        began = time.perf_counter()
        for _ in range(SAMPLES):
            time.monotonic()
        rounds.append((time.perf_counter() - began) / SAMPLES)
    return min(rounds)


def source(name: str, seconds: float) -> Finding:
    """The kernel's clock source and what it costs to ask it."""
    found = f"{name}, {1e9 * seconds:.0f} ns to ask"
    if seconds > SLOW:
        return Finding(
            "clock source", "degraded", found, "every request asks several times: tsc and kvm-clock are faster"
        )
    return Finding("clock source", "ok", found)


def slept(seconds: float) -> Finding:
    """How long the machine was suspended since it was started."""
    if seconds < SLEPT:
        return Finding("sleep", "ok", "never since the start of the machine")
    return Finding("sleep", "ok", f"{span(seconds)} since the start of the machine", "no worker is judged by it")


def synchronised(state: int, status: int, *, bus: bool) -> Finding:
    """From adjtimex(2)."""
    if state < 0:
        return Finding("time", "ok", "not told whether it is synchronised")
    if state != TIME_ERROR and not status & STA_UNSYNC:
        return Finding("time", "ok", "synchronised")
    means = "start chrony or systemd-timesyncd" if bus else "only restart_at and log lines go by it"
    if bus:
        means = f"orders of hosts that differ by more than 5 min are refused: {means}"
    return Finding("time", "degraded" if bus else "ok", "not synchronised, as far as the kernel knows", means)


def zone(name: str | None, *, clocked: bool) -> Finding:
    """`name` is $TZ. A zone whose data is not there is UTC without a word."""
    key = (name or "").removeprefix(":")
    if key and "/" in key and not key.startswith("/") and not _is_known(key):
        means = "restart_at would go by UTC: install tzdata, or fix TZ"
        return Finding("time zone", "degraded" if clocked else "ok", f"TZ={name}: no such data here", means)
    where = f"TZ={name}" if name else (LOCAL_TIME if os.path.exists(LOCAL_TIME) else f"no {LOCAL_TIME}")
    return Finding("time zone", "ok", f"{time.strftime('%Z (%z)')}, from {where}")


def _is_known(key: str) -> bool:
    try:
        ZoneInfo(key)
    except (OSError, ValueError, LookupError):  # ZoneInfoNotFoundError is a LookupError
        return False
    return True


def _adjtimex() -> tuple[int, int]:
    """Its answer, negative when it is not allowed, and the status bits."""
    timex = Timex(modes=0)
    return int(ctypes.CDLL(None).adjtimex(ctypes.byref(timex))), int(timex.status)
