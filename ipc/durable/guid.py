"""Identifiers of messages: UUIDs of version 7 (RFC 9562), which sort by the time they were made."""

import os
import time

RANDOM = 10  # bytes in each; six bits of them say what it is
DIGITS = 2 * RANDOM
_VARIANT = dict(zip("0123456789abcdef", "89ab" * 4, strict=True))


def new_guid() -> str:
    """A new one, in its text form of 36 characters. Safe after a fork."""
    return new_guids(1)[0]


def new_guids(count: int) -> list[str]:
    """So many new ones, in the order in which they sort: that is how an index takes them quickest."""
    moment = f"{time.time_ns() // 1_000_000 & 0xFFFFFFFFFFFF:012x}"
    head, chance = f"{moment[:8]}-{moment[8:]}-7", os.urandom(RANDOM * count).hex()
    parts = [chance[start : start + DIGITS] for start in range(0, DIGITS * count, DIGITS)]
    return sorted(f"{head}{part[:3]}-{_VARIANT[part[3]]}{part[4:7]}-{part[7:19]}" for part in parts)
