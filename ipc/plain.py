"""MessagePack for a command line that must start fast: importing msgspec costs more than the whole command.

Knows what commands and their answers are made of: None, booleans, integers, floats, text, bytes, lists and maps
(https://github.com/msgpack/msgpack/blob/master/spec.md). Standard library only; everybody else uses msgspec.
"""

from struct import pack_into, unpack_from
from typing import Any

from .errors import FrameError

_SIZED = {0xC4: ">B", 0xC5: ">H", 0xC6: ">I", 0xD9: ">B", 0xDA: ">H", 0xDB: ">I", 0xDC: ">H", 0xDD: ">I", 0xDE: ">H"}
_SIZED[0xDF] = ">I"
_NUMBERS = {0xCA: ">f", 0xCB: ">d", 0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q", 0xD0: ">b", 0xD1: ">h"}
_NUMBERS |= {0xD2: ">i", 0xD3: ">q"}
_WIDTH = {"B": 1, "b": 1, "H": 2, "h": 2, "I": 4, "i": 4, "f": 4, "d": 8, "Q": 8, "q": 8}
_CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}


def pack(value: Any) -> bytes:
    """The value as MessagePack; raises TypeError for what is not listed above."""
    match value:
        case None:
            return b"\xc0"
        case bool():
            return b"\xc3" if value else b"\xc2"
        case int():
            return bytes([value]) if 0 <= value < 128 else _number(0xD3, ">q", value)
        case float():
            return _number(0xCB, ">d", value)
        case str():
            data = value.encode()
            return _number(0xDB, ">I", len(data)) + data
        case list():
            return _number(0xDD, ">I", len(value)) + b"".join(map(pack, value))
        case dict():
            items = (pack(key) + pack(item) for key, item in value.items())
            return _number(0xDF, ">I", len(value)) + b"".join(items)
    raise TypeError(f"cannot send a {type(value).__name__}")


def _number(code: int, form: str, value: float) -> bytes:
    data = bytearray(1 + _WIDTH[form[1]])
    data[0] = code
    pack_into(form, data, 1, value)
    return bytes(data)


def unpack(data: bytes) -> Any:
    """The one value in `data`; raises FrameError."""
    try:
        value, end = _unpack(data, 0)
    except (IndexError, ValueError, KeyError, RecursionError) as error:
        raise FrameError("not a message") from error
    except Exception as error:
        raise FrameError(f"not a message: {error}") from error
    if end != len(data):
        raise FrameError("more than a message")
    return value


def _unpack(data: bytes, at: int) -> tuple[Any, int]:
    code = data[at]
    at += 1
    if code < 0x80:
        return code, at
    if code >= 0xE0:
        return code - 256, at
    if code in _CONSTANTS:
        return _CONSTANTS[code], at
    if code in _NUMBERS:
        form = _NUMBERS[code]
        return unpack_from(form, data, at)[0], at + _WIDTH[form[1]]
    if code < 0xC0:
        kind, size = (0xDB, code & 0x1F) if code >= 0xA0 else (0xDD if code >= 0x90 else 0xDF, code & 0x0F)
    else:
        form = _SIZED[code]
        kind, size = code, unpack_from(form, data, at)[0]
        at += _WIDTH[form[1]]
    return _sized(data, at, kind, size)


def _sized(data: bytes, at: int, kind: int, size: int) -> tuple[Any, int]:
    if kind in (0xD9, 0xDA, 0xDB, 0xC4, 0xC5, 0xC6):
        piece = data[at : at + size]
        if len(piece) < size:
            raise ValueError("cut off")
        return (piece.decode() if kind >= 0xD9 else piece), at + size
    if kind in (0xDC, 0xDD):
        items = []
        for _ in range(size):
            item, at = _unpack(data, at)
            items.append(item)
        return items, at
    pairs = {}
    for _ in range(size):
        key, at = _unpack(data, at)
        pairs[key], at = _unpack(data, at)
    return pairs, at
