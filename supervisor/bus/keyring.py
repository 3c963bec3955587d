"""The keys that sign what goes over the bus.

A payload is MAGIC, 4 bytes that say which key, 32 bytes of HMAC-SHA-256, and the body. Without keys the 36 bytes are
zero, and such payloads are taken only where there are no keys either.
"""

import hashlib
import hmac
import os
import shlex
import stat
from collections.abc import Iterable
from typing import Self

from ...ipc.errors import BkdError
from .letter import Refusal

MAGIC = b"bkd1"
SHORTEST = 32  # characters of a key
LARGEST_FILE = 64 * 1024

_RANDOM = "head -c 32 /dev/urandom | base64"
_EXPECTED = "secret_file names a file with one key a line"

_DOMAIN = b"bkd bus 1\0"
_ID_DOMAIN = b"bkd key id\0"
_ID = slice(4, 8)
_MAC = slice(8, 40)
_HEAD = 40
_UNSIGNED = bytes(36)


class KeyringError(BkdError):
    """The file with the keys cannot be used; the text is one line that says what to do."""


class Keyring:
    """The first key signs, all verify; without keys nothing is signed."""

    __slots__ = ("_keys", "_signer")

    def __init__(self, keys: Iterable[bytes]) -> None:
        """Raises KeyringError when two keys have the same id, which is chance."""
        distinct = dict.fromkeys(keys)
        self._keys = {key_id(key): key for key in distinct}
        self._signer = next(iter(self._keys), b"")
        if len(self._keys) < len(distinct):
            raise KeyringError("two of the keys have the same id: replace one of them")

    @classmethod
    def unsigned(cls) -> Self:
        """For a bus whose users are trusted as they are."""
        return cls([])

    @classmethod
    def read(cls, path: str) -> Self:
        """The keys in this file: one a line, blank lines and lines that begin with # apart.

        Raises KeyringError: it cannot be read, is not for this user's eyes alone, or a key is too short.
        """
        named = path if path.isprintable() else ascii(path)
        try:
            return cls(_keys(_content(path, shlex.quote(named)), shlex.quote(named)))
        except FileNotFoundError as error:
            raise KeyringError(f"{named}: no such file: make one: {_remedy(shlex.quote(named))}") from error
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise KeyringError(f"{named}: {reason}: {_EXPECTED} that user {os.geteuid()} may read") from error
        except (ValueError, KeyringError) as error:
            raise KeyringError(f"{named}: {error}") from error

    @property
    def signs(self) -> bool:
        """Whether payloads are signed and have to be."""
        return bool(self._keys)

    @property
    def ids(self) -> tuple[str, ...]:
        """Which keys these are, the one that signs first; nothing can be learned of a key from it."""
        return tuple(id.hex() for id in self._keys)

    def sign(self, body: bytes) -> bytes:
        """The payload with this body."""
        if not self._keys:
            return MAGIC + _UNSIGNED + body
        return MAGIC + self._signer + _mac(self._signer, self._keys[self._signer], body) + body

    def check(self, payload: bytes) -> bytes | Refusal:
        """The body, when one of the keys signed it; nothing of it has been looked at before that is known."""
        if len(payload) < _HEAD or not payload.startswith(MAGIC):
            return Refusal.MALFORMED
        body = payload[_HEAD:]
        key = self._keys.get(payload[_ID])
        if key is not None:
            right = hmac.compare_digest(_mac(payload[_ID], key, body), payload[_MAC])
            return body if right else Refusal.FORGED
        if payload[4:_HEAD] != _UNSIGNED:
            return Refusal.UNKNOWN_KEY
        return Refusal.UNSIGNED if self._keys else body


def key_id(key: bytes) -> bytes:
    """Four bytes that name a key and tell nothing of it."""
    return hashlib.sha256(_ID_DOMAIN + key).digest()[:4]


def _mac(id: bytes, key: bytes, body: bytes) -> bytes:
    return hmac.digest(key, _DOMAIN + id + body, "sha256")


def _content(path: str, quoted: str) -> bytes:
    """What the file holds; whose it is and who may read it is asked of the file that was opened."""
    # a pipe by that name is not waited for
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        _check_facts(os.fstat(file.fileno()), quoted)
        content = file.read(LARGEST_FILE + 1)
    if len(content) > LARGEST_FILE:
        raise ValueError(f"over {LARGEST_FILE // 1024} KB: {_EXPECTED}")
    return content


def _check_facts(facts: os.stat_result, quoted: str) -> None:
    if not stat.S_ISREG(facts.st_mode):
        raise ValueError(f"not a regular file: {_EXPECTED}")
    if facts.st_uid not in (0, os.geteuid()):
        raise ValueError(f"belongs to user {facts.st_uid}, who could change it: chown {os.geteuid()} {quoted}")
    if facts.st_mode & 0o077:
        raise ValueError(f"others may use it (mode {facts.st_mode & 0o777:04o}): chmod 600 {quoted}")


def _keys(content: bytes, quoted: str) -> list[bytes]:
    lines = [line.strip() for line in content.removeprefix(b"\xef\xbb\xbf").split(b"\n")]
    keys = {number: line for number, line in enumerate(lines, 1) if line and not line.startswith(b"#")}
    for number, key in keys.items():
        if len(key.decode(errors="replace")) < SHORTEST:
            raise ValueError(
                f"the key in line {number} is shorter than {SHORTEST} characters: put in what {_RANDOM} says"
            )
    if not keys:
        raise ValueError(f"no key in it: make one: {_remedy(quoted)}")
    return list(keys.values())


def _remedy(quoted: str) -> str:
    return f"{_RANDOM} > {quoted}; chmod 600 {quoted}"
