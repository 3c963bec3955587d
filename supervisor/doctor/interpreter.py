"""The interpreter that runs bkd, and the libraries its workers are made of."""

import importlib
import platform
import sys
import sysconfig

from .attempt import Probe
from .finding import Finding

OLDEST = (3, 11)
NEEDED = ("uvicorn", "uvloop", "httptools", "a2wsgi")


def probes() -> dict[str, Probe]:
    """Of Python."""
    return {"python": lambda: python(sys.version_info[:3], hasattr(sys, "gettotalrefcount"), _lock()), "web": web}


def python(version: tuple[int, ...], debug: bool, lock: str) -> Finding:
    """Its version, and how it was built."""
    found = f"{platform.python_implementation()} {'.'.join(map(str, version))}{f', {lock}' if lock else ''}"
    if version[:2] < OLDEST or platform.python_implementation() != "CPython":
        return Finding("python", "missing", found, "bkd needs CPython 3.11 or newer")
    if debug:
        return Finding("python", "degraded", f"{found}, a debug build", "several times slower: take a release build")
    return Finding("python", "ok", found)


def web() -> Finding:
    """Imports what web workers are made of."""
    gone = []
    for name in NEEDED:
        try:
            importlib.import_module(name)
        except ImportError as error:
            gone.append(f"{name} ({error})")
    if gone:
        return Finding("web", "missing", ", ".join(gone), f"{sys.executable} -m pip install --force-reinstall bkd")
    return Finding("web", "ok", ", ".join(NEEDED))


def _lock() -> str:
    """Of builds that can do without the lock."""
    if not sysconfig.get_config_var("Py_GIL_DISABLED"):
        return ""
    is_on = getattr(sys, "_is_gil_enabled", lambda: True)()
    return "free-threaded, the GIL is on" if is_on else "free-threaded, the GIL is off"
