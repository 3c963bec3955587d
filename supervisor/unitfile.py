"""The units of systemd for one configuration. Pure texts; each line that is not obvious says what breaks without it."""

import os
from collections.abc import Iterator
from typing import NamedTuple

from .config.address import Inet, Inherited, Unix, parse_address
from .config.schema import Config

RELOADS_BY_NOTIFICATION = 253  # the first version of systemd that knows Type=notify-reload
MARGIN = 10  # seconds from the last limit that bkd keeps to systemd's own
PRIVILEGED = 1024
WATCHDOG = 30


class Plan(NamedTuple):
    """What the units are for. `command`: how `bkd` is called, each part absolute or an option; `version`: of systemd;
    `user`: "" for root."""

    config: Config
    command: list[str]
    version: int
    user: str = ""

    @property
    def name(self) -> str:
        """The service's name, which begins those of its sockets."""
        return self.config.app.name


def service(plan: Plan) -> str:
    """`NAME.service`."""
    sections = {"Unit": _unit(plan), "Service": [*_service(plan), "", *_fence(plan)], "Install": _install()}
    head = f"# /etc/systemd/system/{plan.name}.service: written by `bkd init --systemd`. What each line is for:"
    body = "\n\n".join("\n".join((f"[{name}]", *lines)) for name, lines in sections.items())
    return f"{head} docs/systemd.md.\n\n{body}\n"


def sockets(plan: Plan) -> str:
    """A `.socket` unit for every address, one behind the other; "" when the configuration listens nowhere."""
    return "\n".join(_socket(plan, *socket) for socket in _named(plan))


# -- the service


def _unit(plan: Plan) -> list[str]:
    return [
        f"Description={_plain(plan.name)}, kept running by bkd",
        "After=network-online.target",
        "Wants=network-online.target",
        "StartLimitIntervalSec=60",
        "StartLimitBurst=5",
    ]


def _service(plan: Plan) -> list[str]:
    groups = plan.config.workers.values()
    start = max(2 * group.start_timeout for group in groups)
    stop = max(group.drain + group.term for group in groups)
    file = ["-c", plan.config.path]
    user = [f"User={plan.user}"] if plan.user else ["# No User=: bkd runs as root, and groups with `user` as theirs."]
    inherited = [text for group in groups for text in group.bind if isinstance(parse_address(text), Inherited)]
    return [
        f"Type={'notify-reload' if plan.version >= RELOADS_BY_NOTIFICATION else 'notify'}",
        "NotifyAccess=main",
        *user,
        f"WorkingDirectory={_plain(plan.config.base)}",
        f"ExecStart={_command(plan.command, 'start', *file)}",
        "# Fails visibly when the file is wrong; with notify-reload systemd sends SIGHUP besides.",
        f"ExecReload={_command(plan.command, 'reload', '--no-wait', *file)}",
        *(f"Sockets={_unit_name(plan, text)}.socket" for text in inherited),
        f"TimeoutStartSec={_whole(start)}",
        "# The longest drain and term of the groups: bkd ends its workers itself, in order.",
        "KillMode=mixed",
        f"TimeoutStopSec={_whole(stop)}",
        f"# Fed only while enough workers are ready, so {WATCHDOG} s of too few start everything again.",
        f"WatchdogSec={WATCHDOG}",
        "Restart=on-failure",
        "RestartSec=1",
        "# 3: stopped, but something had to be killed. 2: the configuration is wrong, so trying again is no use.",
        "SuccessExitStatus=3",
        "RestartPreventExitStatus=2",
        "# One worker that runs out of memory is replaced by bkd; `stop` would end all the others.",
        "OOMPolicy=continue",
        *_folders(plan),
        "LimitNOFILE=65536",
        "# With it bkd ends a worker's whole tree at once, and sees what was killed for memory.",
        "Delegate=yes",
    ]


def _folders(plan: Plan) -> list[str]:
    """Where bkd itself writes; what the application writes to nobody knows."""
    run_dir = plan.config.app.run_dir
    folders = [] if not run_dir else [os.path.join(plan.config.base, run_dir)]
    addresses = [parse_address(text) for group in plan.config.workers.values() for text in group.bind]
    folders += [os.path.dirname(address.path) for address in addresses if isinstance(address, Unix)]
    lines = [f"ReadWritePaths={_quoted(folder)}" for folder in dict.fromkeys(folders)]
    mode = "0750" if plan.config.control.operators or plan.config.control.viewers else "0700"
    own = [
        f"RuntimeDirectory=bkd/{plan.name}",
        f"RuntimeDirectoryMode={mode}",
        "# What `bkd events` and `bkd why` know outlives a restart.",
        "RuntimeDirectoryPreserve=yes",
    ]
    return [
        *([] if run_dir else own),
        *lines,
        "# Name here what the application writes to: with ProtectSystem=strict all else is read-only.",
        "#ReadWritePaths=/srv/example/uploads",
    ]


def _fence(plan: Plan) -> list[str]:
    at_home = plan.config.base.startswith(("/home/", "/root/", "/run/user/"))
    return [
        "# The fence. Tightened further, these break something:",
        "#   MemoryDenyWriteExecute=yes   ctypes callbacks, numba, PyPy, whatever compiles at run time",
        "#   ProtectControlGroups=yes     ending a worker's tree at once (Delegate=yes)",
        '#   ProcSubset=pid               memory and CPU limits of this machine: count = "auto", bkd doctor',
        "#   SystemCallFilter=~@debug     is in @system-service already: py-spy and gdb inside the unit need ptrace",
        "#                                (bkd dump does not, but reads /proc of its own workers)",
        "NoNewPrivileges=yes",
        "ProtectSystem=strict",
        f"ProtectHome={'read-only' if at_home else 'yes'}",
        "PrivateTmp=yes",
        "PrivateDevices=yes",
        "ProtectKernelTunables=yes",
        "ProtectKernelModules=yes",
        "ProtectKernelLogs=yes",
        "ProtectClock=yes",
        "ProtectHostname=yes",
        "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK",
        "RestrictNamespaces=yes",
        "RestrictRealtime=yes",
        "RestrictSUIDSGID=yes",
        "LockPersonality=yes",
        "SystemCallArchitectures=native",
        "SystemCallFilter=@system-service",
        "SystemCallErrorNumber=EPERM",
        *_capabilities(plan),
    ]


def _capabilities(plan: Plan) -> list[str]:
    """None for a user of its own, but for a low port; root needs what changing users takes, and to signal them."""
    if not plan.user:
        return [
            "# To become the users of the groups, to give them their files, to signal and to look at them.",
            "CapabilityBoundingSet=CAP_SETUID CAP_SETGID CAP_CHOWN CAP_FOWNER CAP_DAC_OVERRIDE CAP_KILL CAP_SYS_PTRACE "
            "CAP_NET_BIND_SERVICE",
        ]
    addresses = [parse_address(text) for group in plan.config.workers.values() for text in group.bind]
    if any(isinstance(address, Inet) and 0 < address.port < PRIVILEGED for address in addresses):
        lines = ["AmbientCapabilities=CAP_NET_BIND_SERVICE", "CapabilityBoundingSet=CAP_NET_BIND_SERVICE"]
        return ["# For a port below 1024; a .socket unit makes it unnecessary.", *lines]
    return ["CapabilityBoundingSet="]


def _install() -> list[str]:
    return ["WantedBy=multi-user.target"]


# -- its sockets


def _named(plan: Plan) -> Iterator[tuple[str, str, str]]:
    """Every address: its unit's name, the name of its descriptor, and where it listens."""
    for group in plan.config.workers.values():
        for number, text in enumerate(group.bind, 1):
            address = parse_address(text)
            if isinstance(address, Inherited):
                yield _unit_name(plan, text), address.name, ""
            else:
                name = group.name if number == 1 else f"{group.name}-{number}"
                yield f"{plan.name}-{name}", name, address.path if isinstance(address, Unix) else _listen(address)


def _unit_name(plan: Plan, text: str) -> str:
    return f"{plan.name}-{text.removeprefix('fd:')}"


def _listen(address: Inet) -> str:
    host = f"[{address.host}]" if ":" in address.host else address.host
    return f"{host}:{address.port}" if host else str(address.port)


def _socket(plan: Plan, unit: str, name: str, where: str) -> str:
    note = [] if where else ["# Write the address here."]
    use = [] if not where else [f'# In bkd.toml: bind = ["fd:{name}"] instead of the address.']
    lines = [
        f"# /etc/systemd/system/{unit}.socket",
        *use,
        "[Unit]",
        f"Description={_plain(plan.name)}: where {_plain(name)} listens",
        "",
        "[Socket]",
        *note,
        f"ListenStream={_plain(where or '127.0.0.1:8000')}",
        f"FileDescriptorName={name}",
        f"Service={plan.name}.service",
        "Backlog=2048",
        "",
        "[Install]",
        "WantedBy=sockets.target",
    ]
    return "\n".join(lines) + "\n"


# -- as systemd reads it


def _whole(seconds: float) -> int:
    return int(seconds) + MARGIN


def _plain(text: str) -> str:
    return text.replace("%", "%%")


def _command(command: list[str], *arguments: str) -> str:
    return " ".join(_quoted(part).replace("$", "$$") for part in (*command, *arguments))


def _quoted(text: str) -> str:
    text = _plain(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"' if any(char.isspace() or char in "\"'\\;" for char in text) else text
