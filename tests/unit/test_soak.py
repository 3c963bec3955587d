"""The parts of the soak test that judge: the deck, the ledger of lost requests, the growth of a process."""

from itertools import islice

import pytest

from ..soak.chaos import Chaos
from ..soak.growth import Sample, grown, typical
from ..soak.ledger import Doom, Failure, Ledger
from ..soak.schedule import CARDS, EARLY_DECKS, Choice, actions

EVERYTHING = frozenset({"root", "disk", "bus", "upgrade"})
DECK = sum(card.times for card in CARDS)
KILLS_THE_MASTER = {
    ("kill", "master"),
    ("kill", "several"),
    ("spoil", "state"),
    ("impostor", "web and master"),
    ("upgrade", ""),
}


def dealt(seed, decks, able=EVERYTHING, **choice):
    return list(islice(actions(seed, Choice(able, **choice)), decks * DECK))


def test_the_same_seed_deals_the_same_cards():
    assert dealt(7, 3) == dealt(7, 3)
    assert dealt(7, 3) != dealt(8, 3)


def test_a_deck_holds_every_card():
    for deck in (dealt(1, 1), dealt(1, 2)[DECK:]):
        assert {(action.verb, action.what) for action in deck} == {(card.verb, card.what) for card in CARDS}


def test_later_decks_let_the_first_master_live():
    late = dealt(1, EARLY_DECKS + 3)[EARLY_DECKS * DECK :]
    ending = [a for a in late if (a.verb, a.what) in KILLS_THE_MASTER or a.meanwhile == "master"]
    assert [action for action in ending if action.host == "h1"] == []


def test_what_a_machine_cannot_do_is_not_dealt():
    plain = dealt(1, 2, able=frozenset())
    assert {action.verb for action in plain} & {"fleet", "bus", "full disk", "impostor", "upgrade"} == set()
    assert {action.host for action in plain} == {"h1"}


def test_every_card_is_something_that_can_be_done():
    assert [card.verb for card in CARDS if not hasattr(Chaos, f"_{card.verb.replace(' ', '_')}")] == []


def test_some_actions_alone():
    assert {action.verb for action in dealt(1, 1, only=("roll", "kill"))} == {"roll", "kill"}
    assert {action.what for action in dealt(1, 1, only=("kill web",))} == {"web", "web zygote"}
    assert {action.what for action in dealt(1, 1, only=("spoil",), without=("spoil run_dir",))} == {"state"}


def test_no_card_no_action():
    assert dealt(1, 1, only=("nothing",)) == []


def test_an_action_says_what_it_does():
    action = next(action for action in dealt(3, 2) if action.verb == "roll" and action.meanwhile)
    assert str(action) == f"roll {action.what} while {action.meanwhile} dies"


def failure(at=20.0, opened=5.0, client=40000, server=8000):
    return Failure(at, opened, client, server, "reset", "/")


DOOM = Doom(10.0, "kill web", frozenset({(8000, 40000)}))


@pytest.mark.parametrize(
    ("lost", "explained"),
    [
        (failure(), True),
        (failure(client=40001), False),  # in other hands
        (failure(server=8001), False),
        (failure(opened=10.5), False),  # the same port, but a connection that came later
        (failure(at=9.5), False),  # before the deed
    ],
)
def test_only_connections_in_dead_hands_are_an_excuse(lost, explained):
    ledger = Ledger()
    ledger.doom(DOOM)
    ledger.fail(lost)
    assert ledger.losses(before=30.0) == ([] if explained else [lost])
    assert ledger.explained == explained


def test_nobody_is_judged_before_the_evidence_is_in():
    ledger = Ledger()
    ledger.fail(failure())
    assert ledger.losses(before=20.0) == []
    ledger.doom(DOOM)
    assert ledger.losses(before=30.0) == []
    assert ledger.explained == 1


def test_a_loss_stays_a_loss():
    ledger = Ledger()
    ledger.fail(failure())
    assert ledger.losses(30.0) == ledger.losses(30.0) == [failure()]


MB = 1 << 20


def test_the_typical_size_is_the_median_of_its_span():
    samples = [Sample(at, size * MB, 20, 1) for at, size in ((10, 1), (61, 40), (70, 41), (80, 90), (200, 5))]
    assert typical(samples, 60.0, 120.0) == Sample(70, 41 * MB, 20, 1)
    assert typical(samples, 300.0, 360.0) is None


@pytest.mark.parametrize(
    ("last", "what"),
    [
        (Sample(9, 40 * MB, 20, 1), ""),
        (Sample(9, 56 * MB, 22, 5), ""),
        (Sample(9, 60 * MB, 20, 1), "memory"),
        (Sample(9, 40 * MB, 40, 1), "descriptors"),
        (Sample(9, 40 * MB, 20, 6), "threads"),
    ],
)
def test_what_has_grown(last, what):
    assert grown(Sample(1, 40 * MB, 20, 1), last).startswith(what)
    assert bool(grown(Sample(1, 40 * MB, 20, 1), last)) == bool(what)
