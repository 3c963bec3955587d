"""What the benchmark tells producers and workers, in the environment.

`URL` of the server, for SQLite the path of the file; `DEADLINE` of a run in seconds (0: the default of what is
measured); `CONCURRENCY`: runs at once in a process; `VARIETY`: what a module with several ways is to use.
"""

import os

URL = os.environ["BENCH_URL"]
DEADLINE = float(os.environ["BENCH_DEADLINE"])
CONCURRENCY = int(os.environ["BENCH_CONCURRENCY"])
VARIETY = os.environ["BENCH_VARIETY"]
