"""Whether a process stays as large as it was: the median of one span of time beside that of another. Pure."""

from collections.abc import Iterable
from statistics import median
from typing import NamedTuple

SHARE, BYTES, DESCRIPTORS = 0.25, 8 << 20, 6
THREADS = 4  # those of pools that begin with their first use: the disk, foreign files, evidence, metrics


class Sample(NamedTuple):
    """How large a process is, `at` seconds after the beginning."""

    at: float
    rss: int
    descriptors: int
    threads: int


def typical(samples: Iterable[Sample], begin: float, end: float) -> Sample | None:
    """The medians from `begin` until `end`, None when there is no sample."""
    among = [sample for sample in samples if begin <= sample.at <= end]
    return Sample(*(int(median(values)) for values in zip(*among, strict=True))) if among else None


def grown(first: Sample, last: Sample) -> str:
    """What has become larger than it may, "" when nothing has."""
    if last.rss > first.rss * (1 + SHARE) + BYTES:
        return f"memory from {first.rss >> 10} KB to {last.rss >> 10} KB"
    if last.descriptors > first.descriptors + DESCRIPTORS:
        return f"descriptors from {first.descriptors} to {last.descriptors}"
    if last.threads > first.threads + THREADS:
        return f"threads from {first.threads} to {last.threads}"
    return ""
