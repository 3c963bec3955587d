"""What befalls a cluster, in which order: a deck of cards that is dealt again and again, shuffled by a seed. Pure.

Every deck holds every card, so that a run of some minutes has seen all of it. The first decks end masters; the later
ones let the first host's master live, so that whatever it hoards can be seen.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

EARLY_DECKS = 2
LONGEST_BREATH = 2.0
ALWAYS = ""


@dataclass(frozen=True)
class Action:
    """One thing that happens: `verb` to `what` on `host`, for `seconds` where it lasts.

    `pick`, from 0 to 1, chooses among those there are; `meanwhile` is what is killed while a command runs; `breath` is
    how many seconds of peace come before.
    """

    verb: str
    what: str
    host: str = "h1"
    seconds: float = 0.0
    pick: float = 0.0
    meanwhile: str = ""
    breath: float = 0.0

    def __str__(self):
        words = [self.verb, self.what, "" if self.host == "h1" else f"on {self.host}"]
        words += [
            f"for {self.seconds:.1f} s" if self.seconds else "",
            self.meanwhile and f"while {self.meanwhile} dies",
        ]
        return " ".join(filter(None, words))


@dataclass(frozen=True)
class Card:
    """A kind of action. `lasts`: seconds, from and to. `needs`: what not every machine has. `early`: it ends the master
    of the first host."""

    verb: str
    what: str
    lasts: tuple[float, float] = (0.0, 0.0)
    meanwhile: tuple[str, ...] = ("",)
    needs: str = ALWAYS
    host: str = "h1"
    early: bool = False
    times: int = 1

    def begins(self, labels):
        """Whether one of these is its verb, or how verb and object begin."""
        return f"{self.verb} {self.what} ".startswith(tuple(f"{label} " for label in labels))

    def drawn(self, chance, *, early):
        """The action that is on it this time."""
        seconds, pick = chance.uniform(*self.lasts), chance.random()
        meanwhile, breath = chance.choice(self.meanwhile), chance.uniform(0.0, LONGEST_BREATH)
        if meanwhile == "master" and not early:
            meanwhile = "worker"
        return Action(self.verb, self.what, self.host, seconds, pick, meanwhile, breath)


SHORT, LONG = (0.3, 1.5), (8.0, 10.0)
ANYBODY = ("", "", "worker", "zygote", "master")
CARDS = (
    Card("kill", "web", times=2),
    Card("kill", "plain"),
    Card("kill", "clock"),
    Card("kill", "tool"),
    Card("kill", "web zygote"),
    Card("kill", "plain zygote"),
    Card("kill", "master", early=True, times=2),
    Card("kill", "several", early=True),
    Card("kill", "all workers"),
    Card("spoil", "state", early=True),
    Card("spoil", "run_dir"),
    Card("stop", "web", SHORT),
    Card("stop", "web", LONG),
    Card("stop", "plain", LONG),
    Card("stop", "clock", LONG),
    Card("stop", "tool", (2.0, 6.0)),
    Card("stop", "web zygote", (7.0, 9.0)),
    Card("stop", "master", (3.0, 12.0)),
    Card("stop", "keeper", (1.0, 4.0)),
    Card("hang", "deadlock"),
    Card("hang", "spin"),
    Card("leave", "web"),
    Card("orphan", "web"),
    Card("impostor", "web", needs="root"),
    Card("impostor", "web and master", needs="root", early=True),
    Card("roll", "web", meanwhile=ANYBODY, times=2),
    Card("roll", "plain", meanwhile=ANYBODY),
    Card("roll", "clock"),
    Card("roll", "tool"),
    Card("restart", "slot"),
    Card("restart", "hard"),
    Card("bad roll", "import", meanwhile=("", "", "worker", "master")),
    Card("bad roll", "plain import"),
    Card("bad roll", "never", meanwhile=("", "master")),
    Card("bad roll", "dies", (0.2, 1.5), meanwhile=("", "", "worker")),
    Card("rollback", "web"),
    Card("scale", "web", times=2),
    Card("scale", "plain", meanwhile=("", "worker")),
    Card("reload", "live"),
    Card("reload", "roll", meanwhile=("", "master")),
    Card("reload", "invalid"),
    Card("hold", "web", LONG),
    Card("leak", "web"),
    Card("flood", "web"),
    Card("full disk", "", (2.0, 6.0), needs="disk"),
    Card("ask", "", times=4),
    Card("upgrade", "", needs="upgrade", early=True),
    Card("kill", "master", needs="bus", host="h2"),
    Card("kill", "web", needs="bus", host="h2"),
    Card("bus", "restart", (0.5, 6.0), needs="bus"),
    Card("bus", "client kill", needs="bus"),
    Card("fleet", "restart", meanwhile=("", "worker", "bus"), needs="bus"),
    Card("fleet", "scale", needs="bus"),
)


@dataclass(frozen=True)
class Choice:
    """Which cards are in the deck: what the machine is able to do, and what one asks for by the first words of it."""

    able: frozenset[str] = frozenset()
    only: tuple[str, ...] = ()
    without: tuple[str, ...] = ()

    def has(self, card: Card, *, early: bool) -> bool:
        """Whether a deck has this card; `early`: the first decks."""
        asked = (not self.only or card.begins(self.only)) and not card.begins(self.without)
        return asked and (not card.needs or card.needs in self.able) and (early or not card.early)


def actions(seed: int, choice: Choice) -> Iterator[Action]:
    """What happens, without end; nothing when the choice leaves no card."""
    chance = random.Random(seed)
    for number in count():
        early = number < EARLY_DECKS
        deck = [card for card in CARDS for _ in range(card.times) if choice.has(card, early=early)]
        if not deck:
            return
        chance.shuffle(deck)
        for card in deck:
            yield card.drawn(chance, early=early)
