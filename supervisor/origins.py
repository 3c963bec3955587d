"""What a release is made of now: folders and interpreters as the links on the disk stand at this moment."""

import os

from msgspec.structs import replace

from . import dispatcher
from .cluster import Origin
from .config.address import Unix, parse_address
from .config.groups import below
from .config.schema import Config, GroupSection


def origins(config: Config) -> dict[str, Origin]:
    """The origin of every group."""
    return {name: origin(config, settings) for name, settings in config.workers.items()}


def origin(config: Config, settings: GroupSection) -> Origin:
    """The origin of one group: what is loaded later, or again, comes from there even when a link has moved on."""
    bind = [_in_real_folder(text) for text in settings.bind]
    real = replace(settings, cwd=os.path.realpath(settings.cwd), bind=bind)
    if settings.kind == dispatcher.KIND:
        return Origin(real, "", settings)
    return Origin(real, _interpreter(config), settings, config.app.python)


def _in_real_folder(text: str) -> str:
    """An address: the file of a unix socket lies in one folder, whichever links lead there."""
    address = parse_address(text)
    if not isinstance(address, Unix):
        return text
    folder, name = os.path.split(address.path)
    return f"unix:{os.path.join(os.path.realpath(folder), name)}"


def _interpreter(config: Config) -> str:
    """Its folder is resolved, its own name is not: what makes it part of a virtual environment is where it lies."""
    python = config.app.python
    if "/" not in python:
        return python
    folder, name = os.path.split(below(config.base, python))
    return os.path.join(os.path.realpath(folder), name)
