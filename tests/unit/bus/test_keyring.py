"""Keys: what one of them signed is believed and nothing else; a file that cannot be used is told in one line."""

import hashlib
import hmac
import os
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bkd.ipc.errors import BkdError
from bkd.supervisor.bus.keyring import LARGEST_FILE, Keyring, KeyringError, key_id
from bkd.supervisor.bus.letter import Refusal

UNHURRIED = settings(deadline=None, max_examples=100)
OLD, NEW = b"o" * 32, b"n" * 32
BODY = b"a body"
REMEDY = "head -c 32 /dev/urandom | base64"


@pytest.fixture
def write(tmp_path):
    def write(content, mode=0o600):
        path = tmp_path / "keys"
        path.write_bytes(content)
        path.chmod(mode)
        return str(path)

    return write


def fault(path):
    with pytest.raises(BkdError) as caught:
        Keyring.read(path)
    text = str(caught.value)
    assert isinstance(caught.value, KeyringError)
    assert text.isprintable()
    return text


def test_the_payload_is_as_documented():
    """Magic, the key's id, HMAC-SHA-256 over domain, id and body, the body."""
    id = hashlib.sha256(b"bkd key id\0" + OLD).digest()[:4]
    mac = hmac.new(OLD, b"bkd bus 1\0" + id + BODY, "sha256").digest()
    assert Keyring([OLD]).sign(BODY) == b"bkd1" + id + mac + BODY
    assert Keyring.unsigned().sign(BODY) == b"bkd1" + bytes(36) + BODY
    assert key_id(OLD) == id


@UNHURRIED
@given(st.binary(max_size=100), st.binary(min_size=32, max_size=64))
def test_what_was_signed_is_believed(body, key):
    assert Keyring([key]).check(Keyring([key]).sign(body)) == body
    assert Keyring.unsigned().check(Keyring.unsigned().sign(body)) == body


def test_the_first_signs_and_all_verify():
    """Keys are changed in three steps on all hosts: add the new one below, put it first, take the old one out."""
    steps = [Keyring([OLD]), Keyring([OLD, NEW]), Keyring([NEW, OLD]), Keyring([NEW])]
    for before, after in pairwise(steps):
        assert before.check(after.sign(BODY)) == BODY
        assert after.check(before.sign(BODY)) == BODY
    assert Keyring([OLD, NEW]).sign(BODY) == Keyring([OLD]).sign(BODY)
    assert Keyring([NEW]).check(Keyring([OLD]).sign(BODY)) is Refusal.UNKNOWN_KEY


def test_one_flipped_bit_anywhere_is_seen():
    """In the magic, the id, the signature and the body."""
    keyring = Keyring([OLD])
    payload = keyring.sign(BODY)
    expected = [Refusal.MALFORMED] * 4 + [Refusal.UNKNOWN_KEY] * 4 + [Refusal.FORGED] * (32 + len(BODY))
    for bit in range(8):
        flipped = [flip(payload, at, 1 << bit) for at in range(len(payload))]
        assert [keyring.check(one) for one in flipped] == expected


def test_a_wrong_key_under_a_known_id_is_a_forgery():
    mac = hmac.new(NEW, b"bkd bus 1\0" + key_id(OLD) + BODY, "sha256").digest()
    assert Keyring([OLD]).check(b"bkd1" + key_id(OLD) + mac + BODY) is Refusal.FORGED


def test_the_signature_holds_for_its_key_id_alone():
    """A signature made under one id is none under another, though both keys are known."""
    payload = Keyring([OLD]).sign(BODY)
    assert Keyring([OLD, NEW]).check(b"bkd1" + key_id(NEW) + payload[8:]) is Refusal.FORGED


def test_signed_and_unsigned_do_not_mix():
    """Where there are keys, the unsigned is refused; where there are none, the signed is, and the half signed."""
    unsigned = Keyring.unsigned()
    assert (unsigned.signs, Keyring([OLD]).signs) == (False, True)
    assert Keyring([OLD]).check(unsigned.sign(BODY)) is Refusal.UNSIGNED
    assert unsigned.check(Keyring([OLD]).sign(BODY)) is Refusal.UNKNOWN_KEY
    for at in range(4, 40):
        half = flip(unsigned.sign(BODY), at, 1)
        assert unsigned.check(half) is Refusal.UNKNOWN_KEY
        assert Keyring([OLD]).check(half) is Refusal.UNKNOWN_KEY


@pytest.mark.parametrize("size", range(40))
def test_what_is_too_short_is_malformed(size):
    for keyring in (Keyring([OLD]), Keyring.unsigned()):
        assert keyring.check(keyring.sign(b"")[:size]) is Refusal.MALFORMED


@UNHURRIED
@given(st.binary(max_size=120))
def test_garbage_is_never_believed(payload):
    for head in (b"", b"bkd1", b"bkd1" + key_id(OLD)):
        assert isinstance(Keyring([OLD]).check(head + payload), Refusal)


def test_a_file_of_keys(write):
    """Keys are used as they stand; blank lines and lines with # in front are not; ends of lines are anybody's."""
    path = write(b"\xef\xbb\xbf# the fleet's\r\n\r\n" + NEW + b"\r\n  # old\n\t" + OLD + b" \n\n" + OLD)
    keyring = Keyring.read(path)
    assert keyring.sign(BODY) == Keyring([NEW]).sign(BODY)
    assert keyring.check(Keyring([OLD]).sign(BODY)) == BODY


def test_a_file_that_only_root_can_change(write):
    assert Keyring.read(write(OLD, 0o400)).signs


def test_a_link_to_the_file_is_followed(write, tmp_path):
    """Secrets are often mounted so."""
    (tmp_path / "link").symlink_to(write(OLD))
    assert Keyring.read(str(tmp_path / "link")).signs


def test_a_file_that_is_not_there(tmp_path):
    path = f"{tmp_path}/the keys"
    assert fault(path) == f"{path}: no such file: make one: {REMEDY} > '{path}'; chmod 600 '{path}'"


@pytest.mark.parametrize("content", [b"", b"\n \n", b"# nothing\n"])
def test_a_file_without_keys(write, content):
    assert f"no key in it: make one: {REMEDY} > " in fault(write(content))


def test_a_key_that_is_too_short(write):
    """Characters count, not bytes; the key itself is not shown."""
    text = fault(write(OLD + b"\n" + "ä".encode() * 31 + b"\n"))
    assert f"the key in line 2 is shorter than 32 characters: put in what {REMEDY} says" in text
    assert "ä" not in text
    assert Keyring.read(write("ä".encode() * 32)).signs


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601, 0o777, 0o610])
def test_a_file_that_others_may_use(write, mode):
    path = write(OLD, mode)
    assert fault(path) == f"{path}: others may use it (mode {mode:04o}): chmod 600 {path}"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_file_of_somebody_else(write):
    path = write(OLD)
    os.chown(path, 65534, 65534)
    assert fault(path) == f"{path}: belongs to user 65534, who could change it: chown 0 {path}"


def test_what_is_no_file(write, tmp_path):
    """A folder, a pipe (which is not waited for), a device, a path through a file, a path with a line's end."""
    os.mkfifo(tmp_path / "pipe", 0o600)
    assert "is a directory: secret_file names a file with one key a line" in fault(str(tmp_path))
    assert "not a regular file: secret_file names a file" in fault(str(tmp_path / "pipe"))
    assert "not a regular file: secret_file names a file" in fault("/dev/null")
    assert "not a directory: secret_file names a file" in fault(f"{write(OLD)}/keys")
    assert "no such file" in fault(f"{tmp_path}/a\nb")


def test_a_file_that_is_something_else(write):
    assert "over 64 KB: secret_file names a file" in fault(write(b"x" * (LARGEST_FILE + 1)))


def test_two_keys_of_one_id():
    """They could not be told apart. Such a pair is found by search, so the ids are compared as they are made."""
    found: dict[bytes, bytes] = {}
    for number in range(400_000):
        key = b"%032d" % number
        other = found.setdefault(key_id(key), key)
        if other != key:
            break
    with pytest.raises(KeyringError, match="two of the keys have the same id: replace one of them"):
        Keyring([key, other])
    assert Keyring([key, key]).signs


def flip(payload, at, bits):
    return payload[:at] + bytes([payload[at] ^ bits]) + payload[at + 1 :]
