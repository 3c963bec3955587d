"""Whether the bus is still heard, and when to try again. Pure: clock and chance are arguments, times are seconds."""

import msgspec

PERIOD = 5.0
JITTER = 0.2
MOST_MISSES = 2
BASE = 0.1
CAP = 10.0


class Hearing(msgspec.Struct, frozen=True):
    """What came of the probes on one connection: `asked` are those not heard yet, `misses` how many in a row went
    unheard, `heard` when one came back last."""

    asked: tuple[bytes, ...] = ()
    misses: int = 0
    heard: float | None = None

    @property
    def deaf(self) -> bool:
        """Whether the subscription has to be made anew."""
        return self.misses >= MOST_MISSES


def ask(hearing: Hearing, token: bytes, *, late: bool) -> Hearing:
    """A probe goes out; one that is still unheard is missed by now, unless we are `late` ourselves: then its answer may
    just not have been read yet."""
    missed = bool(hearing.asked) and not late
    asked = (*hearing.asked, token)[-MOST_MISSES - 1 :]
    return Hearing(asked, hearing.misses + missed, hearing.heard)


def hear(hearing: Hearing, token: bytes, now: float) -> Hearing | None:
    """A probe came back, and with it all before it count as heard; None if it is none of ours."""
    if token not in hearing.asked:
        return None
    return Hearing(hearing.asked[hearing.asked.index(token) + 1 :], 0, now)


def period(normal: float, chance: float) -> float:
    """Seconds to the next probe, at most `normal`; `chance` in [0, 1) spreads the masters of a fleet."""
    return normal * (1 - JITTER * chance)


def delay(tries: int, chance: float) -> float:
    """Seconds to wait before connecting again after so many tries in vain: anywhere up to a bound that doubles."""
    return min(CAP, BASE * 2.0 ** min(tries - 1, 30)) * chance


def tries_after(tries: int, lasted: float) -> int:
    """What counts after a connection that lasted so many seconds (0: none came about): only a lasting one wipes it."""
    return 0 if lasted >= CAP else tries + 1
