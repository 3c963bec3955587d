"""Identifiers of messages: UUIDs of version 7 (RFC 9562), which sort by the time they were made."""

import os
import time


def new_guid() -> str:
    """A new one, in its text form of 36 characters. Safe after a fork."""
    moment = time.time_ns() // 1_000_000
    chance = int.from_bytes(os.urandom(10), "big")
    high = (moment & 0xFFFFFFFFFFFF) << 16 | 0x7000 | chance >> 68
    number = high << 64 | 0x2 << 62 | chance & (1 << 62) - 1
    text = f"{number:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
