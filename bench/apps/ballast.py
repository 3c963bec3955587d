"""What a real application costs at import: 300 ms of CPU and about 60 MB of small objects. Only with BENCH_HEAVY=1."""

import os
import time

ROWS: list[tuple[str, float, list[int]]] = []


def load(rows: int = 200_000, cpu: float = 0.3) -> None:
    start = time.thread_time()
    ROWS.extend((f"customer {number}", number / 7, [number]) for number in range(rows))
    while time.thread_time() - start < cpu:
        sum(range(500))


if os.environ.get("BENCH_HEAVY") == "1":
    load()
