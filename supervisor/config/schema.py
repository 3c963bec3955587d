"""The configuration as the rest of bkd sees it: frozen, complete, in seconds and bytes.

Each option is declared here once, with its default and its form (see `forms`); `load` fills it in from TOML.
"""

from typing import Annotated, Literal

import msgspec

Kind = Annotated[
    Literal["web", "python", "command", "messages", "dispatcher"], msgspec.Meta(extra={"form": "kind"})
]  # nobody writes the last one
Restart = Literal["always", "failure", "never"]
Preload = Annotated[Literal["auto", "true", "false"], msgspec.Meta(extra={"form": "preload"})]

Seconds = Annotated[float, msgspec.Meta(ge=0, extra={"form": "duration"})]
Timeout = Annotated[float, msgspec.Meta(gt=0, extra={"form": "timeout"})]
Bytes = Annotated[int, msgspec.Meta(ge=0, extra={"form": "size"})]
Share = Annotated[int, msgspec.Meta(ge=0, le=1_000_000_000)]
Concurrency = Annotated[int, msgspec.Meta(ge=1, le=10_000)]
Count = Annotated[int, msgspec.Meta(ge=0, le=10_000, extra={"form": "count"})]

Name = Annotated[str, msgspec.Meta(extra={"form": "name"})]
Reference = Annotated[str, msgspec.Meta(extra={"form": "reference"})]
Module = Annotated[str, msgspec.Meta(extra={"form": "module"})]
Address = Annotated[str, msgspec.Meta(extra={"form": "address"})]
Readiness = Annotated[str, msgspec.Meta(extra={"form": "readiness"})]
Signal = Annotated[str, msgspec.Meta(extra={"form": "signal"})]
Clock = Annotated[str, msgspec.Meta(extra={"form": "clock"})]
Umask = Annotated[str, msgspec.Meta(extra={"form": "umask"})]
Verb = Annotated[str, msgspec.Meta(extra={"form": "verb"})]
BusUrl = Annotated[str, msgspec.Meta(extra={"form": "bus"})]
MetricsBind = Annotated[str, msgspec.Meta(extra={"form": "metrics"})]
StoreUrl = Annotated[str, msgspec.Meta(extra={"form": "store"})]


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of everything that stands in the file."""


class AppSection(Section, frozen=True):
    """`[app]`; `name` and `host` are never empty once loaded, `run_dir` is as written."""

    name: Name = "app"
    host: Name = ""
    tag: Name = ""
    run_dir: str = ""
    python: str = ""
    orphan_timeout: Seconds = 60.0
    exit_when: Literal["never", "failed", ""] = ""  # "": failed as PID 1 and for `bkd run`, else never


class ControlSection(Section, frozen=True):
    """`[control]`: unix groups that may operate or look."""

    operators: str = ""
    viewers: str = ""


class PingSection(Section, frozen=True):
    """`[ping]`: silence or no progress for `interval` is reported, for `kill` ends the worker (0: never); a main loop
    that is later than `lag_warn` has its stack taken (0: never)."""

    interval: Timeout = 10.0
    kill: Seconds = 30.0
    lag_warn: Seconds = 1.0


class LogSection(Section, frozen=True):
    """`[log]`."""

    mode: Literal["auto", "files", "inherit"] = "auto"
    rotate: Bytes = 10 * 1024 * 1024
    keep: Share = 5
    format: Literal["text", "json"] = "text"


class BusSection(Section, frozen=True):
    """`[bus]`; `secret_file` is absolute once loaded, if given."""

    url: BusUrl = "local:"
    secret_file: str = ""
    unsigned: bool = False


class StoreSection(Section, frozen=True):
    """`[store]`."""

    url: StoreUrl = "sqlite:run/bkd.db"


class MetricsSection(Section, frozen=True):
    """`[metrics]`: where to scrape them: "run_dir" is a socket there, "" nowhere; paths are absolute once loaded."""

    bind: MetricsBind = "run_dir"


class GroupSection(Section, frozen=True):
    """`[workers.NAME]`, resolved: `count` is a number, `restart` and `ready` have the default of their kind, `cwd` and
    the paths in `bind` are absolute, `stop_signal` has no SIG in front."""

    name: str
    kind: Kind
    count: Count = 1
    app: Reference = ""
    target: Reference = ""
    command: list[str] = []
    bind: list[Address] = []
    restart: Restart = "always"
    preload: Preload = "auto"
    ready: Readiness = ""
    stop_signal: Signal = "TERM"
    start_timeout: Timeout = 120.0
    min_ready: Seconds = 3.0
    drain: Seconds = 25.0
    lame_duck: Seconds = 2.0
    term: Seconds = 3.0
    request_timeout: Seconds = 0.0
    keep_releases: Share = 1
    max_restarts: Share = 0
    restart_every: Seconds = 0.0
    restart_at: list[Clock] = []
    user: str = ""
    group: str = ""
    umask: Umask = ""
    may: list[Verb] = []
    max_surge: Share = 1
    max_unavailable: Share = 0
    max_requests: Share = 0
    max_lifetime: Seconds = 0.0
    max_memory: Bytes = 0
    env: dict[str, str] = {}
    cwd: str = "."
    handlers: list[Module] = []
    mode: Literal["shared", "exclusive"] = "shared"
    concurrency: Concurrency = 10


class Config(msgspec.Struct, frozen=True):
    """One whole file. `path` is where it was read ("" for `bkd run`), `base` the folder relative paths start from."""

    path: str
    base: str
    app: AppSection
    control: ControlSection
    ping: PingSection
    log: LogSection
    bus: BusSection
    store: StoreSection
    workers: dict[str, GroupSection]
    metrics: MetricsSection = MetricsSection()
