"""What every effect needs to know: the configuration, the folders, the keeper, and where events go."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from . import dispatcher
from .cluster import Release
from .config.schema import Config, PingSection
from .duties import Admitted
from .events import Event
from .keeperlink import KeeperLink
from .privileges import Accounts, Credentials

PING_LEAST, PING_MOST = 0.1, 2.0


@dataclass
class Context:
    """One per master. `release`: a release by its group and number; `listeners`: the descriptors of bound listeners by
    name; `files`: workers log into files; `adopting`: this master took a living cluster over; `watch`: what is imported
    is to be told; `repaced`: heartbeats come at another pace than some zygotes know; `last_trace`: the newest traceback
    of an import that failed; `unlogged`: why logs cannot be written; `accounts`: as whom groups run; `door`: the socket
    for such processes, set before the first one is started; `letterbox`: has the dispatcher's sockets bound;
    `admitted`: who else has one."""

    config: Config
    run_dir: str
    keeper: KeeperLink
    keeper_pid: int
    files: bool
    post: Callable[[Event], None]
    release: Callable[[str, int], Release]
    paced: Callable[[str, float], float]
    is_last: Callable[[int], bool]
    letterbox: Callable[[], Awaitable[None]]
    listeners: dict[str, int] = field(default_factory=dict)
    blank: int = 0
    adopting: bool = False
    watch: bool = False
    repaced: bool = False
    remember: Callable[[], None] = lambda: None
    note: Callable[[], None] = lambda: None
    last_trace: str = ""
    unlogged: str = ""
    accounts: Accounts = field(default_factory=Accounts)
    admitted: Callable[[], dict[int, Admitted]] = dict
    door: Callable[[Credentials], Awaitable[str]] = field(init=False)

    @property
    def socket(self) -> str:
        """Path of the control socket."""
        return f"{self.run_dir}/control.sock"

    def log_path(self, name: str) -> str:
        """The file that a process's output is appended to; "" when it inherits bkd's own."""
        return str(Path(self.run_dir, "log", f"{name}.log")) if self.files else ""

    def dismiss_blank(self) -> None:
        """The process that was started early is of no use to this configuration."""
        if self.blank:
            self.keeper.tell("birth", pid=self.blank, birth="")
            self.blank = 0

    def pace(self, group: str) -> float:
        """Seconds between heartbeats in this group now."""
        return self.paced(group, self.period(group))

    def period(self, group: str) -> float:
        """Seconds between heartbeats in this group, as its workers are told at first: a fifth of the shorter limit."""
        return _period(dispatcher.limits(self.config.workers.get(group), self.config.ping))

    @property
    def tempo(self) -> tuple[float, float]:
        """What a zygote was told of heartbeats, and may have to be told anew."""
        return self.ping_period, self.config.ping.lag_warn

    @property
    def ping_period(self) -> float:
        """The same in groups without limits of their own."""
        return _period(self.config.ping)


def _period(ping: PingSection) -> float:
    limit = min(ping.interval, ping.kill or ping.interval)
    return min(PING_MOST, max(PING_LEAST, limit / 5))
