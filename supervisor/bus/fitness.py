"""Whether the bus of a configuration can be used at all: its URL, and the file with its keys."""

from ..config.faults import Fault
from ..config.schema import BusSection
from .driver import BusError
from .keyring import Keyring, KeyringError
from .place import parse

LOCAL = "local:"


def keyring_of(bus: BusSection) -> Keyring:
    """The keys that sign on this bus; raises KeyringError."""
    return Keyring.read(bus.secret_file) if bus.secret_file else Keyring.unsigned()


def unfit(bus: BusSection) -> list[Fault]:
    """What is wrong with it."""
    faults = []
    try:
        keyring_of(bus)
    except KeyringError as error:
        faults.append(Fault("bus.secret_file", "a file with keys that is for this user's eyes alone", str(error)))
    try:
        if bus.url != LOCAL:
            parse(bus.url)
    except BusError as error:
        faults.append(Fault("bus.url", "the URL of a bus", str(error)))
    return faults
