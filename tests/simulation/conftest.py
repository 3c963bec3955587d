"""What all stories of a test run were made of, said at its end."""

from collections import Counter

import pytest

from .stories import Told

TOLD = pytest.StashKey[Told]()
COLUMNS = 4


@pytest.fixture(scope="session")
def told(pytestconfig: pytest.Config) -> Told:
    """The sum of all stories that were played in this run."""
    return pytestconfig.stash.setdefault(TOLD, Told(Counter(), Counter()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """One table: how often every kind of event and action occurred."""
    told = config.stash.get(TOLD, None)
    if told is None or not told.events:
        return
    terminalreporter.section(f"simulation: {told.events.total():,} events, {told.actions.total():,} actions")
    for title, counts in (("events", told.events), ("actions", told.actions)):
        cells = [f"{name:<16} {count:>9,}" for name, count in counts.most_common()]
        for start in range(0, len(cells), COLUMNS):
            head = title if start == 0 else ""
            terminalreporter.write_line(f"{head:<8} " + "   ".join(cells[start : start + COLUMNS]))
