"""Where things lie: the configuration, the run directory, the control socket.

Client and server look at the same places in the same order. Imported before anything else, so it needs only `os`:
name and run_dir of a usual file are found by reading its `[app]` section line by line, all else by the full load.
"""

# pathlib costs more to import than all of this

import os

from ..ipc.errors import BkdError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

FILE = "bkd.toml"
SYSTEM_FILE = "/etc/bkd/bkd.toml"
SYSTEM_RUN_DIR = "/run/bkd"
TEMPORARY = "/tmp"
SOCKET = "control.sock"
LONGEST_SOCKET_PATH = 107
LONGEST_NAME = 64


class NoConfig(BkdError):
    """There is no configuration where it was looked for; the text says what to do."""


class NoRunDir(BkdError):
    """No place for sockets and state can be used; the text says why for each."""


def find_config(option: str | None, environ: "Mapping[str, str]") -> str:
    """The absolute path of the configuration: `option`, `$BKD_CONFIG`, `./bkd.toml`, `/etc/bkd/bkd.toml`.

    Raises NoConfig.
    """
    named = option or environ.get("BKD_CONFIG")
    if not here(environ).isprintable() or (named and not named.isprintable()):
        raise NoConfig("the path to bkd.toml must be printable UTF-8: move the project to another folder")
    if named:
        path = absolute(named, environ)
        if not os.path.isfile(path):
            raise NoConfig(f"{path}: no such file{'' if option else ' (it is named by $BKD_CONFIG)'}")
        return path
    for path in (absolute(FILE, environ), SYSTEM_FILE):
        if os.path.isfile(path):
            return path
    raise NoConfig(f'no {FILE} here and no {SYSTEM_FILE}: write one with "bkd init" or name one with -c FILE')


def run_dir_candidates(config_path: str, environ: "Mapping[str, str]") -> list[str]:
    """Where the run directory of this configuration may be, in order.

    Raises ConfigError when the file has to be loaded for that and cannot, NoRunDir when a given run_dir is too long.
    """
    path = absolute(config_path, environ)
    folder = os.path.dirname(path)
    name, run_dir = _place(path, environ)
    if run_dir:
        return [_short(os.path.join(folder, run_dir))]
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    candidates = [
        f"{SYSTEM_RUN_DIR}/{name}",
        f"{runtime}/bkd/{name}" if runtime.startswith("/") else "",
        f"{folder}/.bkd",
    ]
    return [candidate for candidate in candidates if candidate]


def socket_candidates(config_path: str, environ: "Mapping[str, str]") -> list[str]:
    """Where the control socket may be, in order; the first that exists is the one. Raises as run_dir_candidates."""
    return [f"{folder}/{SOCKET}" for folder in run_dir_candidates(config_path, environ) if _fits(folder)]


def choose_run_dir(config_path: str, environ: "Mapping[str, str]") -> str:
    """The first place that can be used, made if it is not there. Called by the server.

    It belongs to this user and is 0700 (or 0750, for operators). Raises NoRunDir, ConfigError as run_dir_candidates.
    """
    reasons = []
    for folder in run_dir_candidates(config_path, environ):
        try:
            _claim(_short(folder), os.stat)
        except NoRunDir as error:
            reasons.append(str(error))
        else:
            return folder
    raise NoRunDir(f"no place for the run directory: {'; '.join(reasons)}; name one with run_dir in [app]")


def choose_run_dir_for_run(name: str) -> str:
    """`/tmp/bkd-UID/NAME` for `bkd run`, made if it is not there, links refused. Raises NoRunDir."""
    parent = f"{TEMPORARY}/bkd-{os.geteuid()}"
    for folder in (parent, _short(f"{parent}/{name}")):
        _claim(folder, os.lstat)
    return folder


def sockets_of_run() -> list[str]:
    """Control sockets of the clusters that this user started with `bkd run`."""
    parent = f"/tmp/bkd-{os.getuid()}"
    try:
        names = sorted(os.listdir(parent)) if os.lstat(parent).st_uid == os.getuid() else []
    except OSError:
        return []
    return [path for path in (f"{parent}/{name}/{SOCKET}" for name in names) if os.path.exists(path)]


def here(environ: "Mapping[str, str]") -> str:
    """The working directory as the shell names it: a link to the current release stays a link.

    Raises NoConfig when the directory is gone.
    """
    try:
        real, shell = os.getcwd(), environ.get("PWD", "")
    except OSError as error:
        raise NoConfig("the working directory is gone: cd to one that exists") from error
    named = shell.startswith("/") and ".." not in shell.split("/") and os.path.isdir(shell)
    return os.path.normpath(shell) if named and os.path.samefile(shell, real) else real


def absolute(path: str, environ: "Mapping[str, str]") -> str:
    """The path from `/`, links kept, unless `..` has to be followed through them."""
    if ".." in path.split("/"):
        folder, name = os.path.split(path)
        return os.path.join(os.path.realpath(folder), name)
    return os.path.normpath(path if path.startswith("/") else os.path.join(here(environ), path))


def clean_name(text: str) -> str:
    """The nearest name an application may have: letters, digits, `-`, `_`, `.`, at most 64 of them."""
    cleaned = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "-" for c in text)
    return cleaned.lstrip("-_.")[:LONGEST_NAME] or "app"


def folder_name(folder: str) -> str:
    """The name of an application that does not say its own."""
    return clean_name(os.path.basename(folder))


def _place(path: str, environ: "Mapping[str, str]") -> tuple[str, str]:
    """Name and run_dir in the file."""
    try:
        with open(path, encoding="utf-8") as file:
            found = _scan(file)
    except (OSError, ValueError):
        found = None
    if found is None or clean_name(found.get("name", "app")) != found.get("name", "app"):
        from .config.load import load

        app = load(path, environ, hostname=os.uname().nodename).app
        return app.name, app.run_dir
    return found.get("name") or folder_name(os.path.dirname(path)), found.get("run_dir", "")


def _scan(lines: "Iterable[str]") -> dict[str, str] | None:
    """The plain strings `name` and `run_dir` of `[app]`; None when only a real parser can tell."""
    found: dict[str, str] = {}
    section = ""
    for line in lines:
        text = line.strip()
        if '"""' in text or "'''" in text:
            return None
        if text.startswith("["):
            section = _header(text)
            if not section:
                return None
        elif section == "app":
            if not _collect(text, found):
                return None
        elif text.startswith(_telling(section)):
            return None
    return found


def _header(text: str) -> str:
    """The name in `[name]`; empty when it is written in a way, or about something, that needs the real parser."""
    name, bracket, rest = text[1:].partition("]")
    rest = rest.strip()
    plain = bracket and (not rest or rest.startswith("#")) and all(c.isalnum() or c in "-_." for c in name)
    about_app = name.startswith("when") and (name.count(".") < 2 or "app" in name.split("."))
    return name if plain and not about_app else ""


def _telling(section: str) -> tuple[str, ...]:
    """How a line outside of `[app]` begins that may still be about it."""
    if not section:
        return ("app", "when", '"', "'", "\ufeff")
    return ("app", '"', "'") if section.startswith("when.") and section.count(".") == 2 else ("\0",)


def _collect(text: str, found: dict[str, str]) -> bool:
    """Takes one line of `[app]`; False when it needs the real parser."""
    key, equals, value = text.partition("=")
    key = key.strip()
    if not text or text.startswith("#"):
        return True
    if not equals or not all(c.isalnum() or c == "_" for c in key):
        return False
    if key not in ("name", "run_dir"):
        return True
    plain = _plain(value.strip())
    if plain is None or key in found:
        return False
    found[key] = plain
    return True


def _plain(value: str) -> str | None:
    """The text of a string that stands for itself."""
    quote = value[:1]
    inner, closed, rest = value[1:].partition(quote) if quote in ('"', "'") and quote else ("", "", "")
    rest = rest.strip()
    simple = closed and "\\" not in inner and "${" not in inner and "\0" not in inner
    return inner if simple and (not rest or rest.startswith("#")) else None


def _fits(folder: str) -> bool:
    return len(os.fsencode(f"{folder}/{SOCKET}")) <= LONGEST_SOCKET_PATH


def _short(folder: str) -> str:
    if not _fits(folder):
        raise NoRunDir(
            f"{folder}/{SOCKET} is longer than the {LONGEST_SOCKET_PATH} bytes a socket path may have: "
            f"set run_dir in [app] to a shorter path"
        )
    return folder


def _claim(folder: str, look: "Callable[[str], os.stat_result]") -> None:
    """Make the folder, or see that it is ours alone; raises NoRunDir."""
    try:
        os.makedirs(os.path.dirname(folder), exist_ok=True)
        _make(folder)
        reason = objection(look(folder), folder)
    except OSError as error:
        raise NoRunDir(f"{folder}: {error.strerror}") from error
    if reason:
        raise NoRunDir(f"{folder}: {reason}")


def _make(folder: str) -> None:
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        return  # whose it is, and how open, is looked at next


def objection(facts: os.stat_result, folder: str) -> str:
    """Why no cluster should have its files in this folder, "" when nothing speaks against it."""
    if facts.st_mode & 0o170000 != 0o040000:
        return "not a directory"
    if facts.st_uid != os.geteuid():
        return f"belongs to user {facts.st_uid}, not to {os.geteuid()}"
    if facts.st_mode & 0o026:
        return f"open to others: chmod 700 {folder}"
    return "" if os.access(folder, os.W_OK | os.X_OK) else "cannot be written"
