"""What a configuration may say already and this version does not do yet: refused."""

from .config.faults import Fault
from .config.schema import Config


def refused(config: Config) -> list[Fault]:
    """Faults: to start without these would be to do something else than what is written there."""
    expected = "web, python or command (this version runs no messages)"
    groups = [group.name for group in config.workers.values() if group.kind == "messages"]
    return [Fault(f"workers.{name}.kind", expected, "messages") for name in groups]
