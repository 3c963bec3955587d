"""Outside of a cluster whoever enqueues is told so in one line, and nothing else is left behind."""

import asyncio
import gc
import warnings

import pytest

from bkd.ipc.errors import NotConnected
from bkd.workers import end_of, enqueue, enqueue_many, sync_end_of, sync_enqueue, sync_enqueue_many


@pytest.mark.parametrize(
    "ask",
    [
        lambda: sync_enqueue("a"),
        lambda: sync_enqueue_many("a", [1, 2]),
        lambda: sync_end_of(1),
        lambda: asyncio.run(enqueue("a")),
        lambda: asyncio.run(enqueue_many("a", [1, 2])),
        lambda: asyncio.run(end_of(1)),
    ],
)
def test_it_is_told_and_no_coroutine_is_forgotten(ask):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with pytest.raises(NotConnected, match=r"start it with bkd, or join one with ipc\.connect"):
            ask()
        gc.collect()

    assert [str(warning.message) for warning in said if warning.category is RuntimeWarning] == []
