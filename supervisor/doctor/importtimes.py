"""What `python -X importtime` writes, told apart from what the application writes. Pure."""

import re

from .seen import Package

BEGIN, END = "bkd: the import begins", "bkd: the import is over"
MOST = 5
_LINE = re.compile(r"import time:\s*(\d+) \|\s*\d+ \|\s*(\S+)")


def slowest(text: str) -> list[Package]:
    """The packages that took longest between the two marks, by the time of their own modules."""
    between = text.partition(f"{BEGIN}\n")[2].partition(END)[0]
    times: dict[str, list[int]] = {}
    for line in between.splitlines():
        if match := _LINE.match(line):
            times.setdefault(match[2].partition(".")[0], []).append(int(match[1]))
    ranked = sorted(times.items(), key=lambda entry: -sum(entry[1]))
    return [Package(name, sum(taken) / 1e6, len(taken)) for name, taken in ranked[:MOST]]


def printed(text: str) -> list[str]:
    """The lines that are the application's own, or of what came before when that was the end."""
    before, begin, after = text.partition(f"{BEGIN}\n")
    lines = (after.partition(END)[0] if begin else before).splitlines()
    return [line for line in lines if line.strip() and not line.startswith("import time:")]
