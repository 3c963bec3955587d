"""When a slot may try again: a decaying score of charged deaths, doubled delays, full jitter. Pure."""

HALF_LIFE = 60.0
BASE = 0.1
CAP = 30.0


def decayed(score: float, since: float, now: float) -> float:
    """The score of `since` as it counts at `now`: it halves every HALF_LIFE seconds."""
    return float(score * 0.5 ** (max(0.0, now - since) / HALF_LIFE))


def delay(score: float, chance: float) -> float:
    """Seconds to wait after the death that brought the score to `score`; `chance` in [0, 1) is the jitter.

    Full jitter: anywhere between nothing and a bound that doubles with every death up to CAP, so that slots which
    died together do not come back together.
    """
    return float(min(CAP, BASE * 2.0 ** min(score, 30.0)) * chance)
