"""The text of a scrape, in both formats. Brings prometheus_client along: imported in a thread, at the first scrape."""

import time
from collections.abc import Iterator

from prometheus_client import exposition as plain
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from .families import families
from .picture import Picture


class _Collected(Collector):
    """What prometheus_client asks for metrics."""

    def __init__(self, picture: Picture, breath: float) -> None:
        self._picture, self._breath = picture, breath

    def collect(self) -> Iterator[Metric]:
        for family in families(self._picture):
            yield family
            if self._breath:
                time.sleep(self._breath)


def expose(picture: Picture, is_openmetrics: bool, *, breath: float = 0.0) -> bytes:
    """OpenMetrics 1.0, or the format that was before it. `breath`: seconds of rest after each family, in which another
    thread gets on that would otherwise have to wait for the interpreter's lock."""
    writer = openmetrics if is_openmetrics else plain
    text: bytes = writer.generate_latest(_Collected(picture, breath))
    return text
