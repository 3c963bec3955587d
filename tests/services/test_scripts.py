"""What the server computes is what the pure functions compute, to the last digit, whatever the time."""

import random

import pytest

from bkd.ipc import bucket
from bkd.ipc.bucket import Rate
from bkd.ipc.leases import Leases
from bkd.supervisor.bus import scripts

from .conftest import running

TIME = "redis.call('TIME')"
START = 1_790_000_000


@pytest.fixture(scope="module", params=["redis62", "redis", "valkey"])
def admin(request):
    with running(request.param) as server, server.admin() as client:
        yield client


class Clock:
    """Microseconds that pass in odd steps, and sometimes go back."""

    def __init__(self, seed):
        self._seed, self._now = seed, START * 1_000_000

    def tick(self):
        self._now += self._seed.choice([0, 1, 7_000, 400_000, 3_000_000, 60_000_000, -50_000])
        return self._now


def run(client, script, key, now, *arguments):
    """The script at a moment of our own choice: what it says, and after how many milliseconds its key would be gone,
    if it were not kept here."""
    assert TIME in script.text
    text = script.text.replace(TIME, f"{{'{now // 1_000_000}', '{now % 1_000_000}'}}")
    with client.pipeline() as pipe:
        pipe.eval(text, 1, key, *arguments)
        pipe.pttl(key)
        pipe.persist(key)
        said, left, _kept = pipe.execute()
    return said, left


def some_rate(seed):
    return Rate(
        seed.choice([0.5, 1, 3, 1000 / 7]),
        seed.choice([0.1, 1, 60, 3600]),
        most=seed.choice([0, 0, 4, 5.5]),
        cost=seed.choice([0.3, 0.5]),
        reset=seed.choice([0, 0, 0, 1, 9]),
        multiplier=seed.choice([0, 0, 1, 2, -2, 1.5]),
        cap=seed.choice([10, 3600]),
    )


@pytest.mark.parametrize("number", range(20))
def test_the_limiter_is_the_bucket(admin, number):
    seed = random.Random(number)
    clock, rate, kept = Clock(seed), some_rate(seed), None
    for _call in range(60):
        now = clock.tick()
        numbers = (rate.rate, rate.interval, rate.burst, rate.cost, rate.reset, rate.multiplier, rate.cap, rate.made)
        said, left = run(admin, scripts.LIMIT, f"b{number}", now, *[repr(value) for value in numbers])

        kept, wait = bucket.take(kept, rate, now // 1_000_000 + now % 1_000_000 / 1_000_000)

        assert float(said) == wait
        if kept is None:
            assert not admin.exists(f"b{number}")
            continue
        held = admin.hgetall(f"b{number}")
        assert (float(held[b"tokens"]), int(held[b"calls"])) == (kept.tokens, kept.calls)
        assert float(held[b"interval"]) == kept.interval
        assert 0 <= left / 1000 - bucket.lifetime(kept, rate) <= 1.001
        if seed.random() < 0.02:
            rate = some_rate(seed)


@pytest.mark.parametrize("number", range(8))
def test_the_locks_are_the_leases(admin, number):
    """Owners and answers agree; fences only have to grow. Times are whole, so that nothing is a matter of rounding."""
    seed, leases, fences = random.Random(number), Leases(), []
    clock = Clock(seed)
    for _call in range(100):
        now, owner, ttl = clock.tick(), seed.choice("abc"), seed.choice([1, 5, 120])
        seconds = now / 1_000_000
        match seed.choice(["take", "renew", "free"]):
            case "take":
                (fence, left), _ = run(admin, scripts.LOCK, f"l{number}", now, owner, ttl * 1_000_000, 3_600_000)
                taken = leases.take("l", owner, ttl, seconds)
                assert (fence > 0, left / 1_000_000) == (taken.fence > 0, pytest.approx(taken.wait, abs=1e-5))
                fences += [fence] if fence and fence not in fences else []
            case "renew":
                done, _ = run(admin, scripts.RENEW, f"l{number}", now, owner, ttl * 1_000_000, 3_600_000)
                assert bool(done) == leases.renew("l", owner, ttl, seconds)
            case "free":
                done, _ = run(admin, scripts.UNLOCK, f"l{number}", now, owner, 3_600_000)
                leases.expire(seconds)
                assert bool(done) == leases.free("l", owner)
    assert fences == sorted(fences)
    assert len(fences) > 1
