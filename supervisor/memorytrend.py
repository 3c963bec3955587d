"""How the memory of one worker has grown since it was fresh: few samples over its whole life, and what follows. Pure.

Memory is PSS in bytes, 0 when it was not measured yet; times are monotonic seconds.
"""

import msgspec

MOST_SAMPLES = 12
SPACING = 5.0
FEW_REQUESTS = 100


class Sample(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What was measured at a moment, after so many requests."""

    at: float
    served: int
    pss: int


class Trend(msgspec.Struct, frozen=True):
    """`fresh`: the size right after the worker was ready, or what it fell to when others came to share its memory, 0
    when nobody measured it then; `fresh_served`: the requests that it had served by then;
    `samples`: the oldest first, at least `spacing` seconds apart."""

    fresh: int = 0
    fresh_served: int = 0
    spacing: float = SPACING
    samples: tuple[Sample, ...] = ()


def begun(sample: Sample, *, fresh: bool) -> Trend:
    """The trend after the first measurement; `fresh`: the worker had just become ready."""
    return Trend(sample.pss if fresh else 0, sample.served if fresh else 0, samples=(sample,))


def followed(trend: Trend, sample: Sample) -> Trend:
    """The trend after another measurement. When there are too many, every second one goes and the others are rarer."""
    samples, spacing = trend.samples, trend.spacing
    if trend.fresh > sample.pss:
        trend = Trend(sample.pss, sample.served, spacing, samples)
    if samples and sample.at < samples[-1].at + spacing:
        return trend
    if len(samples) == MOST_SAMPLES:
        samples, spacing = samples[::2], 2 * spacing
    return Trend(trend.fresh, trend.fresh_served, spacing, (*samples, sample))


def growth_per_request(trend: Trend, now: Sample) -> float | None:
    """Bytes since the worker was fresh for each request since then; None without growth or with too few of them."""
    served = now.served - trend.fresh_served
    if not trend.fresh or served < FEW_REQUESTS or now.pss <= trend.fresh:
        return None
    return (now.pss - trend.fresh) / served


def growth_per_second(trend: Trend, now: Sample) -> float:
    """The slope of the later half of the worker's life, in bytes; 0 when nothing can be said. What was measured last
    counts as measured now: only a change makes a sample."""
    points = [*(sample for sample in trend.samples if sample.at < now.at), now]
    half = (points[0].at + now.at) / 2
    later = [point for point in points if point.at >= half]
    return _slope(later if len(later) > 1 else points[-2:])


def seconds_until(limit: int, trend: Trend, now: Sample) -> float | None:
    """When the worker will have this size if it goes on like this, 0 when it has it; None when it does not grow."""
    if now.pss >= limit:
        return 0.0
    growth = growth_per_second(trend, now)
    return (limit - now.pss) / growth if growth > 0 else None


def _slope(points: list[Sample]) -> float:
    """Least squares."""
    middle = sum(point.at for point in points) / len(points)
    mean = sum(point.pss for point in points) / len(points)
    square = sum((point.at - middle) ** 2 for point in points)
    if not square:
        return 0.0
    return sum((point.at - middle) * (point.pss - mean) for point in points) / square
