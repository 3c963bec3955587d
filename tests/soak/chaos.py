"""Does to hosts what an action says, and waits until they have come to terms with it."""

import os
import subprocess

from ..cluster.cluster import BKD
from .deaths import Deaths
from .operations import Operations
from .scarcity import Fleet, Scarcity


class Chaos(Deaths, Operations, Scarcity, Fleet):
    """One method for each verb of the schedule."""

    def do(self, action):
        """Until all is as it should be again; gives a word about what came of it."""
        host = self.hosts[action.host]
        host.status()
        self.watch.pause(action.breath)
        said = getattr(self, f"_{action.verb.replace(' ', '_')}")(host, action)
        return said or ""


def able(*, bus, disk):
    """What there is on this machine of what cards need."""
    words = {"root"} if os.geteuid() == 0 else set()
    words |= {"bus"} if bus else set()
    words |= {"disk"} if disk else set()
    asked = subprocess.run([*BKD, "upgrade", "--help"], capture_output=True, check=False, timeout=30)
    return frozenset(words | ({"upgrade"} if asked.returncode == 0 else set()))
