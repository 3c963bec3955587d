"""Letters: what is written is read, and in one way only."""

import math

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bkd.ipc.errors import FrameError
from bkd.supervisor.bus.keyring import Keyring
from bkd.supervisor.bus.letter import (
    LIMIT,
    LONGEST_COMMAND,
    REPLY_LIMIT,
    Letter,
    OversizedError,
    contents,
    decode,
    encode,
    is_sound,
    limit_of,
    serial,
)
from bkd.supervisor.bus.names import Names
from bkd.supervisor.bus.orders import Ack, BusAnswer, BusEvent, FleetCommand, GroupRow, HostRow
from bkd.supervisor.bus.writer import Writer, command_id, instance_of

UNHURRIED = settings(deadline=None, max_examples=100)
NAMES = Names("shop")
COMMAND = "0123456789abcdef01234567"
EVENT = "018f0000000000aa-1"
TIMES = st.floats(allow_nan=True, allow_infinity=True)
ORDERS = [
    FleetCommand("restart", {"names": ["web"]}, ("h1", "h2"), "ann (pid 7) on h1"),
    FleetCommand("reload", {}, (), "", 3, 1),
    Ack("h1", 3, "done", took=1.5, out="ok\n"),
    HostRow("h1", "blue", "0.1.0", "018f0000000000aa", (GroupRow("web", "web", 2, 2, 3),), "5-0", 2.0, True),
    BusEvent("web", "", "price:changed", msgspec.Raw(b"\x81\xa3sku\x07"), "web.1", EVENT, 5.0),
    BusAnswer(EVENT, msgspec.Raw(b"\x80")),
]


def letter(**fields):
    whole = {"app": "shop", "sender": "h1", "channel": "shop:web", "id": EVENT, "issued": 1.0, "expires": 9.0}
    return Letter(**{**whole, "op": "price:changed", "data": msgspec.Raw(b"\xc0"), **fields})


def written(**fields):
    """The body of a letter with fields of any type."""
    return msgspec.msgpack.encode({**msgspec.structs.asdict(letter()), **fields})


@UNHURRIED
@given(st.text(max_size=255), st.text(max_size=500), TIMES, TIMES, st.text(max_size=255))
def test_what_is_written_is_read(sender, channel, issued, expires, op):
    """Every letter comes back from its body, whatever its times."""
    body = encode(letter(sender=sender, channel=channel, issued=issued, expires=expires, op=op))
    assert encode(decode(body)) == body
    assert decode(body).sender == sender


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: type(order).__name__)
def test_every_order_comes_back(order):
    """What a letter holds is what was put into it."""
    data = msgspec.Raw(msgspec.msgpack.encode(order))
    assert contents(decode(encode(letter(data=data))), type(order)) == order


def test_unknown_fields_of_an_order_are_passed_over():
    """A newer bkd may say more."""
    data = msgspec.Raw(msgspec.msgpack.encode({"id": "x", "answers": 1, "mood": "good"}))
    assert contents(letter(data=data), BusAnswer).id == "x"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xc0",
        b"\x80",
        encode(letter()) + b"\xc0",
        encode(letter())[:-1],
        b"\x89\xa3app\xa4shop" + encode(letter())[1:],
        b"\x89" + encode(letter())[1:] + b"\xa3app\xa5other",
        b"\x89" + encode(letter())[1:] + b"\xa4mood\xa4good",
        written(issued=1),
        written(id=7),
        written(id=None),
        written(sender=b"h1"),
        written(expires="9"),
        written(op="x" * 256),
        written(channel="x" * 501),
        encode(letter()).replace(b"\xa4shop", b"\xa4sho\xff", 1),
        written(data=msgspec.Raw(b"\x91" * 60_000)),
        written(data=msgspec.Raw(b"\x81\xa1x" * 20_000)),
        written(data=msgspec.Raw(b"\xdd\xff\xff\xff\xff")),
        b"\x91" * 60_000,
        b"\x81\xa1x" * 20_000,
        b"\xdf\xff\xff\xff\xff",
    ],
)
def test_what_is_written_otherwise_is_no_letter(body):
    """Missing, doubled, unknown and mistyped fields, more than one letter, bytes that are no text, endless nesting."""
    with pytest.raises(FrameError, match="not a letter"):
        decode(body)


@UNHURRIED
@given(st.binary(max_size=200))
def test_garbage_is_a_frame_error(body):
    """Bytes from anybody are a letter or a FrameError, and so is what a letter holds."""
    with pytest.raises(FrameError):
        decode(body)
    try:
        contents(letter(data=msgspec.Raw(body)), BusEvent)
    except FrameError:
        pass


@pytest.mark.parametrize("data", [b"\x91" * 900, b"\x81\xa4verb\xa1\xff", b"\xc0", b"\x80", b"\x81\xa4verb\x07"])
def test_data_that_do_not_fit_are_a_frame_error(data):
    """The text says whose letter it was."""
    with pytest.raises(FrameError, match="price:changed of h1"):
        contents(letter(data=msgspec.Raw(data)), FleetCommand)


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf, -1.0])
def test_times_that_cannot_be(odd):
    """Neither as the beginning nor as the end."""
    assert is_sound(letter(), NAMES)
    assert not is_sound(letter(issued=odd), NAMES)
    assert not is_sound(letter(expires=odd), NAMES)


def test_a_letter_does_not_end_before_it_begins():
    assert is_sound(letter(issued=9.0), NAMES)
    assert not is_sound(letter(issued=9.1), NAMES)


def test_only_a_command_has_the_id_of_one():
    """And it is good for a few minutes at most: so long its id is kept."""
    assert is_sound(letter(channel=NAMES.commands, id=COMMAND), NAMES)
    assert is_sound(letter(channel=NAMES.commands, id=COMMAND, expires=1.0 + LONGEST_COMMAND), NAMES)
    assert not is_sound(letter(channel=NAMES.commands, id=COMMAND, expires=1.5 + LONGEST_COMMAND), NAMES)
    assert not is_sound(letter(channel=NAMES.commands, id=EVENT), NAMES)
    assert not is_sound(letter(channel=NAMES.hosts, id=COMMAND), NAMES)
    assert is_sound(letter(channel=NAMES.hosts, expires=1e9), NAMES)


@pytest.mark.parametrize(
    "id", ["", "1", EVENT + "\n", EVENT + "x", EVENT[:-1], "018F0000000000AA-1", f"{'0' * 16}-01", f"{'0' * 16}-٣"]
)
def test_ids_that_are_none(id):
    assert not is_sound(letter(id=id), NAMES)
    assert not is_sound(letter(id=id, channel=NAMES.commands), NAMES)


def test_serials_are_compared_as_numbers():
    """The tenth letter is later than the ninth, and those of a later master are later than all."""
    writers = [instance_of(now, b"\xff\xff") for now in (1.0, 1.001, 1e9, 1.8e9)]
    serials = [serial(f"{instance}-{number}") for instance in writers for number in (1, 9, 10, 100)]
    assert serials == sorted(serials)


def test_ids_are_made_of_time_and_chance():
    assert instance_of(1_800_000_000.123, b"\x01\x02\x03") == "01a3185c507b0102"
    assert command_id(1_800_000_000.123, b"\x01\x02\x03\x04\x05\x06\x07") == "01a3185c507b010203040506"


def test_answers_may_be_larger():
    """A letter has 64 KiB, an acknowledgement with output more."""
    assert limit_of(NAMES.commands, NAMES) == limit_of(NAMES.permit(COMMAND), NAMES) == LIMIT == 65_536
    assert limit_of(NAMES.reply(COMMAND), NAMES) == limit_of(NAMES.reply("h1"), NAMES) == REPLY_LIMIT == 524_288


def test_names_are_where_the_documentation_puts_them():
    assert (NAMES.commands, NAMES.hosts, NAMES.index) == ("shop:commands", "shop:hosts", "shop:permit:index")
    assert (NAMES.server, NAMES.channel("web"), NAMES.channel("all", "blue")) == (
        "shop:server",
        "shop:web",
        "shop:all:blue",
    )
    assert (NAMES.reply("h1"), NAMES.permit("1")) == ("shop:reply:h1", "shop:permit:1")
    assert (NAMES.limit("login:10.0.0.1"), NAMES.lock("ä b")) == ("shop:limit:login:10.0.0.1", "shop:lock:ä b")


def test_which_streams_ring_where():
    """Commands ring with all masters, acknowledgements with one; what is for one host is no bell for another."""
    assert NAMES.rings(NAMES.commands, NAMES.server)
    assert NAMES.rings(NAMES.reply(COMMAND), NAMES.reply("h1"))
    assert not NAMES.rings(NAMES.commands, NAMES.reply("h1"))
    assert not NAMES.rings(NAMES.reply(COMMAND), NAMES.server)
    assert not NAMES.rings(NAMES.reply("h2"), NAMES.reply("h1"))
    assert not NAMES.rings(NAMES.server, NAMES.server)


def test_a_writer_counts_its_letters():
    """Commands have ids of their own."""
    writer = Writer(NAMES, "h1", "018f0000000000aa", Keyring.unsigned())
    first = decode(writer.letter("shop:web", "a:b", ORDERS[4], 100.0, 5.0)[40:])
    given = decode(writer.letter(NAMES.commands, "fleet:command", ORDERS[0], 100.0, 5.0, id=COMMAND)[40:])
    second = decode(writer.letter("shop:jobs", "a:b", ORDERS[4], 101.0, 5.0)[40:])
    assert [one.id for one in (first, given, second)] == [EVENT, COMMAND, "018f0000000000aa-2"]
    assert (first.app, first.sender, first.channel, first.op) == ("shop", "h1", "shop:web", "a:b")
    assert (first.issued, first.expires) == (100.0, 105.0)


def test_a_writer_writes_nothing_that_nobody_takes():
    """What is too large is told in a line; an id or a time that cannot be is a fault of the program."""
    writer = Writer(NAMES, "h1", "018f0000000000aa", Keyring.unsigned())
    large = Ack("h1", 1, "done", out="x" * LIMIT)
    assert len(writer.letter(NAMES.reply(COMMAND), "fleet:ack", large, 1.0, 5.0)) > LIMIT
    with pytest.raises(OversizedError, match=r"^fleet:ack: 65\d\d\d bytes are over the 65536 that go over the bus: "):
        writer.letter(NAMES.hosts, "fleet:ack", large, 1.0, 5.0)
    for id, ttl in ((COMMAND, 301.0), (COMMAND, math.nan), (COMMAND, -1.0), ("", 5.0), ("x", 5.0)):
        with pytest.raises(ValueError, match="no letter for shop:commands"):
            writer.letter(NAMES.commands, "fleet:command", ORDERS[0], 1.0, ttl, id=id)
