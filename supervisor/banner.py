"""What the foreground of `bkd start` begins with: what runs where, and what to do next."""

from .. import __version__
from . import dispatcher
from .config.address import Inet, parse_address
from .config.schema import Config, GroupSection
from .terminal import Terminal


def show(config: Config, run_dir: str, keeper_pid: int, files: bool) -> None:
    """Print it to standard output."""
    Terminal(1).write(text(config, run_dir, keeper_pid, files) + "\n")


def text(config: Config, run_dir: str, keeper_pid: int, files: bool) -> str:
    """The banner."""
    groups = [group for group in config.workers.values() if group.kind != dispatcher.KIND]
    rows = [(group.name, group.kind, f"{group.count} x {what(group)}", where(group)) for group in groups]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    lines = [f"bkd {__version__}  {config.app.name}  pid {keeper_pid}"]
    for row in rows:
        cells = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False))
        lines.append(f"  {cells}  {row[3]}".rstrip())
    logs = f"{run_dir}/log" if files else "this terminal"
    option = socket_option(config, run_dir)
    lines.append(f"  logs in {logs}; look: `bkd status{option}`, stop: Ctrl-C or `bkd stop{option}`")
    return "\n".join(lines)


def socket_option(config: Config, run_dir: str) -> str:
    """What a command needs to find a cluster that has no file."""
    return "" if config.path else f" --socket {run_dir}/control.sock"


def what(group: GroupSection) -> str:
    """What the group's workers run."""
    return group.app or group.target or " ".join(group.command or group.handlers)


def where(group: GroupSection) -> str:
    """Where it can be reached."""
    return " ".join(_url(bind) for bind in group.bind)


def _url(bind: str) -> str:
    address = parse_address(bind)
    if not isinstance(address, Inet):
        return bind
    host = f"[{address.host}]" if ":" in address.host else address.host or "127.0.0.1"
    return f"http://{host}:{address.port}"


def log_format(colours: bool) -> str:
    """How the master's own lines look; `colours` are loguru's tags."""
    if colours:
        return "<dim>{time:HH:mm:ss.SSS}</dim> <level>{message}</level>"
    return "{time:YYYY-MM-DD HH:mm:ss.SSS} {level: <7} {message}"
