"""The judge: what an attacker who holds the bus, but no key, can do is be refused, and counted by the right reason."""

import math
import random
import time
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bkd.supervisor.bus import judge as rules
from bkd.supervisor.bus.judge import AHEAD, STEP_BACK, Bell, Judge, Ledger
from bkd.supervisor.bus.keyring import Keyring
from bkd.supervisor.bus.letter import LIMIT, REPLY_LIMIT, Letter, Refusal, decode, encode
from bkd.supervisor.bus.names import Names
from bkd.supervisor.bus.orders import BusEvent, FleetCommand
from bkd.supervisor.bus.writer import Writer, command_id, instance_of

UNHURRIED = settings(deadline=None, max_examples=100)
NAMES = Names("shop")
WEB = NAMES.channel("web")
KEYS = Keyring([b"k" * 32])
OTHER_KEYS = Keyring([b"x" * 32])
NOW = 1_800_000_000.0
TTL = 60.0
EVENT = BusEvent("web", "", "price:changed")
RESTART = FleetCommand("restart", {}, ("h1", "h2"))
REASONS = set(Refusal)


def a_judge(keyring=KEYS, *, ledger=None, names=NAMES):
    judge = Judge(names, keyring, Ledger() if ledger is None else ledger)
    judge.observe(NOW, NOW)
    return judge


def a_writer(host="h1", keyring=KEYS, *, names=NAMES, started=NOW - 100):
    return Writer(names, host, instance_of(started, b"\0\0"), keyring)


def event(writer, *, channel=WEB, now=NOW, ttl=TTL, body=EVENT):
    return writer.letter(channel, "app:event", body, now, ttl)


def command(number=1, *, writer=None, now=NOW, ttl=TTL):
    id = command_id(NOW, number.to_bytes(6, "big"))
    return (writer or a_writer()).letter(NAMES.commands, "fleet:command", RESTART, now, ttl, id=id)


def signed(keyring=KEYS, **fields):
    """A payload with a good signature over a letter that no writer writes."""
    letter = decode(event(a_writer())[40:])
    return keyring.sign(encode(msgspec.structs.replace(letter, **fields)))


# -- what is meant for us


def test_an_honest_letter_is_opened_once():
    judge, writer = a_judge(), a_writer()
    payload = event(writer)
    opened = judge.open(payload, WEB, NOW)
    assert isinstance(opened, Letter)
    assert (opened.sender, opened.op) == ("h1", "app:event")
    assert judge.open(payload, WEB, NOW) is Refusal.REPLAYED
    assert judge.refused == {Refusal.REPLAYED: 1}


def test_an_honest_command_is_opened_once():
    judge = a_judge()
    assert isinstance(judge.open(command(), NAMES.commands, NOW), Letter)
    assert judge.open(command(), NAMES.commands, NOW) is Refusal.REPLAYED


def test_every_refusal_is_counted_by_its_reason():
    judge = a_judge()
    judge.open(b"", WEB, NOW)
    judge.open(b"", WEB, NOW)
    judge.read(b"x" * LIMIT * 2, WEB, NOW)
    judge.hear(event(a_writer()), NAMES.server, NOW)
    judge.verify(b"", WEB)
    assert judge.refused == {Refusal.MALFORMED: 2, Refusal.OVERSIZED: 1, Refusal.FOREIGN: 1}


# -- what was tampered with


@pytest.mark.parametrize(("payload", "channel"), [(event(a_writer()), WEB), (command(), NAMES.commands)])
def test_a_flipped_bit_at_every_position(payload, channel):
    """Nothing of a changed letter is believed; the letter itself is still good afterwards."""
    judge = a_judge()
    for at in range(len(payload)):
        for bit in range(8):
            changed = payload[:at] + bytes([payload[at] ^ (1 << bit)]) + payload[at + 1 :]
            assert judge.open(changed, channel, NOW) in {Refusal.MALFORMED, Refusal.UNKNOWN_KEY, Refusal.FORGED}
    assert isinstance(judge.open(payload, channel, NOW), Letter)


def test_a_cut_or_lengthened_letter():
    payload = event(a_writer())
    for end in range(len(payload)):
        assert a_judge().open(payload[:end], WEB, NOW) in {Refusal.MALFORMED, Refusal.FORGED}
    assert a_judge().open(payload + b"\xc0", WEB, NOW) is Refusal.FORGED


def test_a_wrong_key():
    assert a_judge().open(event(a_writer(keyring=OTHER_KEYS)), WEB, NOW) is Refusal.UNKNOWN_KEY
    theirs = OTHER_KEYS.sign(event(a_writer())[40:])
    assert a_judge().open(b"bkd1" + KEYS.sign(b"")[4:8] + theirs[8:], WEB, NOW) is Refusal.FORGED


def test_unsigned_letters_where_letters_are_signed():
    assert a_judge().open(event(a_writer(keyring=Keyring.unsigned())), WEB, NOW) is Refusal.UNSIGNED


def test_signed_letters_where_letters_are_not_signed():
    """The switch is written out on every host or on none."""
    judge = a_judge(Keyring.unsigned())
    assert judge.open(event(a_writer()), WEB, NOW) is Refusal.UNKNOWN_KEY
    half = event(a_writer(keyring=Keyring.unsigned()))
    assert judge.open(half[:39] + b"\x01" + half[40:], WEB, NOW) is Refusal.UNKNOWN_KEY
    assert isinstance(judge.open(half, WEB, NOW), Letter)


def test_keys_are_changed_without_a_gap():
    old, new = b"o" * 32, b"n" * 32
    steps = [[old], [old, new], [new, old], [new]]
    for before, after in pairwise(steps):
        for signs, verifies in ((before, after), (after, before)):
            opened = a_judge(Keyring(verifies)).open(event(a_writer(keyring=Keyring(signs))), WEB, NOW)
            assert isinstance(opened, Letter)


# -- what is for somebody else


def test_another_cluster_with_the_same_key():
    theirs = Names("shop2")
    payload = a_writer(names=theirs).letter(theirs.channel("web"), "app:event", EVENT, NOW, TTL)
    assert a_judge().open(payload, WEB, NOW) is Refusal.FOREIGN
    assert a_judge().open(signed(app="shop2"), WEB, NOW) is Refusal.FOREIGN
    assert isinstance(a_judge().open(signed(), WEB, NOW), Letter)


def test_a_letter_moved_to_another_channel():
    payload = event(a_writer())
    for channel in (
        NAMES.channel("web", "blue"),
        NAMES.channel("jobs"),
        NAMES.commands,
        NAMES.hosts,
        NAMES.reply("h1"),
    ):
        assert a_judge().open(payload, channel, NOW) is Refusal.FOREIGN
        assert a_judge().read(payload, channel, NOW) is Refusal.FOREIGN
        assert a_judge().hear(payload, channel, NOW) is Refusal.FOREIGN
    assert a_judge().open(command(), NAMES.server, NOW) is Refusal.FOREIGN


# -- bells


def test_a_bell_rings_and_is_still_to_be_read():
    """What is published with a command only says that there is one."""
    judge, payload = a_judge(), command()
    assert judge.hear(payload, NAMES.server, NOW) == Bell(NAMES.commands)
    assert judge.hear(payload, NAMES.server, NOW) == Bell(NAMES.commands)
    assert isinstance(judge.open(payload, NAMES.commands, NOW), Letter)
    answers = NAMES.reply(command_id(NOW, bytes(6)))
    assert judge.hear(event(a_writer(), channel=answers), NAMES.reply("h1"), NOW) == Bell(answers)
    assert not judge.refused


def test_a_bell_has_to_be_signed_and_of_this_application():
    theirs = Names("shop2")
    judge = a_judge()
    assert judge.hear(command()[:-1] + b"\0", NAMES.server, NOW) is Refusal.FORGED
    assert judge.hear(command(writer=a_writer(keyring=OTHER_KEYS)), NAMES.server, NOW) is Refusal.UNKNOWN_KEY
    foreign = a_writer(names=theirs).letter(theirs.commands, "x:y", RESTART, NOW, TTL, id=command_id(NOW, bytes(6)))
    assert judge.hear(foreign, NAMES.server, NOW) is Refusal.FOREIGN
    assert judge.hear(signed(app="shop2", channel=NAMES.commands), NAMES.server, NOW) is Refusal.FOREIGN


def test_a_channel_with_bells_has_letters_of_its_own():
    judge, payload = a_judge(), event(a_writer(), channel=NAMES.server)
    assert isinstance(judge.hear(payload, NAMES.server, NOW), Letter)
    assert judge.hear(payload, NAMES.server, NOW) is Refusal.REPLAYED


# -- time


@pytest.mark.parametrize("late", [0.0, 0.001, 1e6])
def test_what_has_expired(late):
    for payload, channel in ((event(a_writer()), WEB), (command(), NAMES.commands)):
        judge = a_judge()
        judge.observe(NOW + TTL + late, NOW + TTL + late)
        assert judge.open(payload, channel, NOW + TTL + late) is Refusal.EXPIRED
        assert judge.read(payload, channel, NOW + TTL + late) is Refusal.EXPIRED
        assert isinstance(judge.verify(payload, channel), Letter)
    assert isinstance(a_judge().open(event(a_writer()), WEB, NOW + TTL - 0.001), Letter)


def test_what_is_from_the_future():
    for payload, channel in (
        (event(a_writer(), now=NOW + AHEAD + 0.1), WEB),
        (command(now=NOW + AHEAD + 0.1), NAMES.commands),
    ):
        assert a_judge().open(payload, channel, NOW) is Refusal.CLOCK
        assert isinstance(a_judge().open(payload, channel, NOW + 1), Letter)


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf, -1.0, -1e300])
def test_times_that_cannot_be(odd):
    for fields in ({"issued": odd}, {"expires": odd}, {"issued": odd, "expires": odd}):
        assert a_judge().open(signed(**fields), WEB, NOW) is Refusal.MALFORMED
        assert a_judge().read(signed(**fields), WEB, NOW) is Refusal.MALFORMED


def test_a_command_that_would_outlive_its_id():
    """Its id is kept for five minutes, so it may be good for no longer."""
    id = command_id(NOW, bytes(6))
    fields = {"channel": NAMES.commands, "id": id, "issued": NOW}
    assert a_judge().open(signed(**fields, expires=NOW + 301), NAMES.commands, NOW) is Refusal.MALFORMED
    assert isinstance(a_judge().open(signed(**fields, expires=NOW + 300), NAMES.commands, NOW), Letter)


def test_a_clock_that_goes_back_stops_commands_until_it_is_right_again():
    """A little is forgiven. Events go on: they are refused for their own times only."""
    judge, writer = a_judge(), a_writer()
    assert judge.observe(NOW - STEP_BACK, NOW)
    assert isinstance(judge.open(command(1), NAMES.commands, NOW - STEP_BACK), Letter)
    back = NOW - STEP_BACK - 0.1
    assert not judge.observe(back, NOW)
    assert judge.open(command(2), NAMES.commands, back) is Refusal.CLOCK
    assert isinstance(judge.open(event(writer), WEB, back), Letter)
    assert judge.observe(NOW - 1, NOW)
    assert isinstance(judge.open(command(2), NAMES.commands, NOW - 1), Letter)


def test_a_clock_far_from_the_machines_stops_commands():
    """And it does not count as the highest time: when it is right again, all is well at once."""
    judge = a_judge()
    for far in (NOW + AHEAD + 1, NOW + 1e6, math.inf, math.nan, NOW - AHEAD - 1):
        assert not judge.observe(far, NOW)
        assert judge.open(command(now=NOW), NAMES.commands, NOW) is Refusal.CLOCK
    assert judge.ledger.highest == NOW
    assert judge.observe(NOW + 1, NOW)
    assert isinstance(judge.open(command(), NAMES.commands, NOW + 1), Letter)


def test_the_highest_time_outlives_a_master():
    stored = msgspec.msgpack.encode(a_judge().ledger)
    judge = Judge(NAMES, KEYS, msgspec.msgpack.decode(stored, type=Ledger))
    assert not judge.observe(NOW - 60, NOW - 60)
    assert judge.open(command(now=NOW - 60), NAMES.commands, NOW - 60) is Refusal.CLOCK


def test_no_command_before_the_clocks_were_compared():
    judge = Judge(NAMES, KEYS, Ledger())
    assert judge.open(command(), NAMES.commands, NOW) is Refusal.CLOCK
    assert judge.refused == {Refusal.CLOCK: 1}


# -- what was said before


def test_a_command_takes_effect_once_whatever_master_is_there():
    judge = a_judge()
    assert isinstance(judge.open(command(), NAMES.commands, NOW), Letter)
    stored = msgspec.msgpack.encode(judge.ledger)
    heir = a_judge(ledger=msgspec.msgpack.decode(stored, type=Ledger))
    assert heir.open(command(), NAMES.commands, NOW) is Refusal.REPLAYED
    assert heir.open(command(writer=a_writer("h2")), NAMES.commands, NOW) is Refusal.REPLAYED


def test_a_command_cannot_come_back_with_the_clock():
    """Its id is forgotten when it expires; a clock that goes back a little does not make it good again."""
    judge = a_judge()
    assert isinstance(judge.open(command(1), NAMES.commands, NOW), Letter)
    later = NOW + TTL + 1
    judge.observe(later, later)
    assert isinstance(judge.open(command(2, now=later), NAMES.commands, later), Letter)
    assert len(judge.ledger.ids) == 1
    assert judge.observe(later - 4, later)
    assert judge.open(command(1), NAMES.commands, later - 4) is Refusal.EXPIRED
    judge.ledger.highest = 0.0
    assert judge.open(command(1), NAMES.commands, later - 4) is Refusal.REPLAYED


def test_a_host_without_a_past_takes_no_command_of_the_past():
    judge = a_judge(ledger=Ledger(since=NOW))
    assert judge.open(command(1, now=NOW - 1), NAMES.commands, NOW) is Refusal.REPLAYED
    assert isinstance(judge.open(command(2), NAMES.commands, NOW), Letter)


def test_the_ledger_is_bounded_and_forgets_nothing_that_could_come_back(monkeypatch):
    """What has to go for want of room takes all with it that expires as early."""
    monkeypatch.setattr(rules, "MOST_COMMANDS", 100)
    judge, seen = a_judge(), []
    for number in range(1000):
        payload = command(number, now=NOW + number / 100, ttl=TTL + random.Random(number).random())
        if isinstance(judge.open(payload, NAMES.commands, NOW), Letter):
            seen.append(payload)
        assert len(judge.ledger.ids) <= 100
    assert len(seen) > 500
    assert {judge.open(payload, NAMES.commands, NOW) for payload in seen} == {Refusal.REPLAYED}
    assert isinstance(judge.open(command(2000, now=NOW + 20), NAMES.commands, NOW), Letter)


def test_the_order_of_a_sender_on_a_channel():
    """Older than what was heard is replayed; other channels and other senders do not matter."""
    judge, writer = a_judge(), a_writer()
    first, second, third = (event(writer) for _ in range(3))
    assert isinstance(judge.open(second, WEB, NOW), Letter)
    assert judge.open(first, WEB, NOW) is Refusal.REPLAYED
    assert isinstance(judge.open(third, WEB, NOW), Letter)
    assert judge.open(second, WEB, NOW) is Refusal.REPLAYED
    assert isinstance(judge.open(event(a_writer("h2")), WEB, NOW), Letter)
    jobs = event(a_writer(), channel=NAMES.channel("jobs"))
    assert isinstance(judge.open(jobs, NAMES.channel("jobs"), NOW), Letter)


def test_a_later_master_of_a_host_is_heard_and_its_earlier_one_is_not():
    judge, early, late = a_judge(), a_writer(started=NOW - 100), a_writer(started=NOW - 50)
    kept = [event(early) for _ in range(12)]
    assert isinstance(judge.open(kept[5], WEB, NOW), Letter)
    assert isinstance(judge.open(event(late), WEB, NOW), Letter)
    assert {judge.open(payload, WEB, NOW) for payload in kept} == {Refusal.REPLAYED}


def test_a_host_whose_clock_was_set_back_is_heard_again():
    """Once nothing of what it said before is good any more."""
    judge = a_judge()
    assert isinstance(judge.open(event(a_writer(started=NOW + 3600)), WEB, NOW), Letter)
    again = a_writer(started=NOW)
    assert judge.open(event(again), WEB, NOW) is Refusal.REPLAYED
    assert isinstance(judge.open(event(again, now=NOW + TTL), WEB, NOW + TTL), Letter)


def test_senders_are_bounded_and_nothing_they_said_comes_back(monkeypatch):
    monkeypatch.setattr(rules, "MOST_MARKS", 100)
    judge, seen = a_judge(), []
    for number in range(1000):
        payload = event(a_writer(f"h{number}"), now=NOW + number / 100)
        assert isinstance(judge.open(payload, WEB, NOW), Letter)
        assert len(judge._marks._marks) <= 100
        seen.append(payload)
    assert {judge.open(payload, WEB, NOW) for payload in seen} == {Refusal.REPLAYED}


def test_senders_of_the_past_make_room_first(monkeypatch):
    """Who is silent for longer than its last letter was good costs nobody anything."""
    monkeypatch.setattr(rules, "MOST_MARKS", 10)
    judge, writer = a_judge(), a_writer("steady")
    for number in range(9):
        judge.open(event(a_writer(f"h{number}"), ttl=1.0), WEB, NOW)
    steady = event(writer)
    assert isinstance(judge.open(steady, WEB, NOW), Letter)
    assert isinstance(judge.open(event(a_writer("new")), WEB, NOW + 2), Letter)
    assert judge.open(steady, WEB, NOW + 2) is Refusal.REPLAYED
    assert isinstance(judge.open(event(a_writer("late"), now=NOW - 1), WEB, NOW + 2), Letter)


def test_a_short_letter_does_not_make_a_long_one_good_again(monkeypatch):
    """Neither when the short one has expired, nor when its sender is forgotten for want of room."""
    judge, writer = a_judge(), a_writer()
    long, short = event(writer, now=NOW + 10), event(writer, now=NOW, ttl=1.0)
    assert isinstance(judge.open(long, WEB, NOW), Letter)
    assert isinstance(judge.open(short, WEB, NOW), Letter)
    assert judge.open(long, WEB, NOW + 2) is Refusal.REPLAYED
    monkeypatch.setattr(rules, "MOST_MARKS", 1)
    assert isinstance(judge.open(event(a_writer("h2"), now=NOW + 11), WEB, NOW + 2), Letter)
    assert judge.open(long, WEB, NOW + 2) is Refusal.REPLAYED


def test_a_document_is_read_again_and_again():
    """And reading it does not count as hearing it."""
    judge, payload = a_judge(), event(a_writer(), channel=NAMES.hosts)
    assert judge.read(payload, NAMES.hosts, NOW) == judge.read(payload, NAMES.hosts, NOW)
    assert isinstance(judge.open(payload, NAMES.hosts, NOW), Letter)
    assert isinstance(judge.read(payload, NAMES.hosts, NOW), Letter)


# -- what is no letter


def test_what_is_too_large():
    """It is not even looked at; answers have more room."""
    payload, answers = KEYS.sign(b"x" * (LIMIT - 40)), NAMES.reply("h1")
    assert a_judge().open(payload, WEB, NOW) is Refusal.MALFORMED
    assert a_judge().open(payload + b"x", WEB, NOW) is Refusal.OVERSIZED
    assert a_judge().open(payload + b"x", answers, NOW) is Refusal.FORGED
    assert a_judge().open(bytes(REPLY_LIMIT + 1), answers, NOW) is Refusal.OVERSIZED


FIELDS = msgspec.structs.asdict(decode(event(a_writer())[40:]))
NONSENSE = [
    b"",
    b"\xc0",
    b"\x91" * 60_000,
    b"\x81\xa1x" * 20_000,
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    encode(Letter(**FIELDS)) * 2,
    b"\x89" + encode(Letter(**FIELDS))[1:] + b"\xa6sender\xa2h2",
    *(msgspec.msgpack.encode({**FIELDS, "id": id}) for id in (7, None, 1.5, b"x", [], {}, True)),
    *(msgspec.msgpack.encode({**FIELDS, "issued": time}) for time in ("1", None, 1 << 63, [NOW], True)),
    *(msgspec.msgpack.encode({**FIELDS, "id": id}) for id in ("", "x", "018f0000000000aa", "018f0000000000aa--1")),
    msgspec.msgpack.encode({**FIELDS, "sender": "h" * 256}),
    msgspec.msgpack.encode({**FIELDS, "data": msgspec.Raw(b"\x91" * 60_000 + b"\xc0")}),
    msgspec.msgpack.encode({**FIELDS, "data": msgspec.Raw(b"\x91" * 60_000)}),
    encode(Letter(**FIELDS)).replace(b"\xa2h1", b"\xa2h\xff"),
]


@pytest.mark.parametrize("body", NONSENSE)
@pytest.mark.parametrize("keyring", [KEYS, Keyring.unsigned()], ids=["signed", "unsigned"])
def test_nonsense_is_malformed_though_well_signed(keyring, body):
    judge = a_judge(keyring)
    for ear in (judge.open, judge.read, judge.hear):
        assert ear(keyring.sign(body), WEB, NOW) is Refusal.MALFORMED


@UNHURRIED
@given(
    st.binary(max_size=300), st.sampled_from([b"", b"bkd1", b"bkd1" + bytes(36), KEYS.sign(b"")[:8], KEYS.sign(b"")])
)
def test_random_bytes_are_never_a_letter(payload, head):
    judge = a_judge()
    for channel in (WEB, NAMES.commands, NAMES.server, NAMES.reply("h1")):
        assert judge.open(head + payload, channel, NOW) in REASONS
        assert judge.hear(head + payload, channel, NOW) in REASONS
        assert judge.read(head + payload, channel, NOW) in REASONS


@UNHURRIED
@given(st.data())
def test_a_letter_is_one_that_was_really_signed(data):
    """Whatever is done to payloads of all kinds: what opens is what a holder of the key wrote, for that channel."""
    writer, theirs = a_writer(), a_writer(keyring=OTHER_KEYS)
    honest = {event(writer): WEB, command(): NAMES.commands, event(writer, channel=NAMES.server): NAMES.server}
    others = [event(theirs), command(writer=theirs), event(a_writer(keyring=Keyring.unsigned()))]
    one, two = (bytearray(data.draw(st.sampled_from([*honest, *others]))) for _ in range(2))
    begin, end = sorted(data.draw(st.tuples(*[st.integers(0, len(one))] * 2)))
    one[begin:end] = data.draw(
        st.sampled_from([bytes(two[begin:end]), bytes(two[begin:]), b""]) | st.binary(max_size=8)
    )
    channel = data.draw(st.sampled_from([WEB, NAMES.commands, NAMES.server]))
    opened = a_judge().open(bytes(one), channel, NOW)
    assert isinstance(opened, Letter) == (honest.get(bytes(one)) == channel)
    assert isinstance(opened, Letter) or opened in REASONS


def test_a_flood_of_nonsense_is_cheap():
    """A hundred thousand payloads in less than two seconds of this process's time, nothing kept of them."""
    good, chance = event(a_writer()), random.Random(7)
    kinds = [
        b"",
        b"x" * (LIMIT + 1),
        chance.randbytes(300),
        b"bkd1" + chance.randbytes(300),
        good[:-1] + b"\0",
        event(a_writer(keyring=OTHER_KEYS)),
        event(a_writer(keyring=Keyring.unsigned())),
        KEYS.sign(b"\x91" * 500),
        signed(app="shop2"),
        signed(id="x"),
    ]
    judge, began = a_judge(), time.process_time()
    for _ in range(10_000):
        for payload in kinds:
            judge.open(payload, WEB, NOW)
    assert time.process_time() - began < 2.0
    assert judge.refused.total() == 100_000
    assert (len(judge.ledger.ids), len(judge._marks._marks)) == (0, 0)
