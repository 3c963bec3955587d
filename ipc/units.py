"""Durations and sizes as people write them: `250ms 1.5s 5m 1h30m`, `64KB 512MB 2GB` (1 KB is 1024 bytes)."""

import re

LONGEST = 366 * 86_400.0
LARGEST = 1 << 62

_SECONDS = {"d": 86_400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_BYTES = {"TB": 1 << 40, "GB": 1 << 30, "MB": 1 << 20, "KB": 1 << 10, "B": 1}
_NUMBER = r"[0-9]{1,15}(?:\.[0-9]{1,9})?"
_DURATION = re.compile("".join(rf"(?:({_NUMBER}){unit})?" for unit in _SECONDS))
_SIZE = re.compile(rf"({_NUMBER})({'|'.join(_BYTES)})")


def parse_duration(text: str) -> float:
    """Seconds, exact to the millisecond; raises ValueError when it is no duration or longer than 366 days."""
    match = _DURATION.fullmatch(text)
    if match is None or not text:
        raise ValueError(f"not a duration: {text!r}")
    parts = zip(match.groups(), _SECONDS.values(), strict=True)
    seconds = round(sum(float(number) * unit for number, unit in parts if number), 3)
    if seconds > LONGEST:
        raise ValueError(f"longer than 366 days: {text!r}")
    return seconds


def format_duration(seconds: float, *, rough: bool = False) -> str:
    """What parse_duration reads back, exact to the millisecond; `rough` drops what hardly matters at that length."""
    if rough:
        seconds = _rounded(seconds)
    millis = round(seconds * 1000)
    if millis < 1000:
        return f"{millis}ms" if millis else "0s"
    minutes, millis = divmod(millis, 60_000)
    hours, minutes = divmod(minutes, 60)
    parts = ((f"{hours}", "h"), (f"{minutes}", "m"), (f"{millis / 1000:.3f}".rstrip("0").rstrip("."), "s"))
    return "".join(number + unit for number, unit in parts if number != "0")


def parse_size(text: str) -> int:
    """Bytes; raises ValueError when it is no size. `0` needs no unit."""
    if text == "0":
        return 0
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"not a size: {text!r}")
    size = int(float(match[1]) * _BYTES[match[2]]) if "." in match[1] else int(match[1]) * _BYTES[match[2]]
    if size > LARGEST:
        raise ValueError(f"too large: {text!r}")
    return size


def format_size(size: int, *, rough: bool = False) -> str:
    """What parse_size reads back, exact to the byte; `rough` rounds to a tenth of the largest unit."""
    if size == 0:
        return "0"
    for unit, worth in _BYTES.items():
        if rough and size >= worth:
            return f"{size / worth:.1f}".removesuffix(".0") + unit
        if size % worth == 0:
            return f"{size // worth}{unit}"
    raise ValueError(f"not a size: {size!r}")


def _rounded(seconds: float) -> float:
    if seconds < 10:
        return round(seconds, 1 if seconds >= 1 else 3)
    return round(seconds) if seconds < 3600 else round(seconds / 60) * 60.0
