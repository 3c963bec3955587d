"""From `bkd.toml`, or the arguments of `bkd run`, to a Config. All faults are reported at once."""

import os
from collections.abc import Mapping
from typing import Any

from ..places import LONGEST_SOCKET_PATH, absolute, clean_name, folder_name, here
from .address import absolute_address
from .document import read
from .faults import ConfigError, Fault, Faults, Key
from .groups import below, check_group, check_listeners, known_group, read_group
from .overrides import Layer, layers_of, merge
from .reader import Reader
from .schema import (
    AppSection,
    BusSection,
    Config,
    ControlSection,
    GroupSection,
    LogSection,
    MetricsSection,
    PingSection,
    Section,
    StoreSection,
)

SECTIONS: dict[str, type[Section]] = {
    "app": AppSection,
    "control": ControlSection,
    "ping": PingSection,
    "log": LogSection,
    "bus": BusSection,
    "store": StoreSection,
    "metrics": MetricsSection,
}
KNOWN = (*SECTIONS, "workers", "when")
LEAST_KILL = 0.5
RUN_GROUP = "web"
ARGUMENTS = {"app": "APP", "count": "--workers", "bind": "--bind"}


def load(path: str, environ: Mapping[str, str], *, hostname: str) -> Config:
    """The configuration in this file for this host.

    Raises ConfigError with every fault: the file cannot be read, is not TOML, or says what it must not.
    """
    full = absolute(path, environ)
    base, file = os.path.split(full)
    return _Loading(read(full), environ, hostname, base=base).config(full, file)


def for_run(target: str, workers: int | None, bind: list[str], environ: Mapping[str, str], *, hostname: str) -> Config:
    """The configuration of `bkd run`: one web group. Raises ConfigError naming the arguments."""
    base = here(environ)
    group: dict[str, Any] = {"kind": "web", "app": target}
    group |= {"count": workers} if workers is not None else {}
    group |= {"bind": bind} if bind else {}
    app = {"name": run_name(target, base), "exit_when": "failed"}
    loading = _Loading({"app": app, "workers": {RUN_GROUP: group}}, {}, hostname, base=base)
    try:
        return loading.config("", "bkd run")
    except ConfigError as error:
        raise ConfigError(error.source, [_as_argument(fault) for fault in error.faults]) from None


def run_name(target: str, folder: str) -> str:
    """What `bkd run` calls the application: its package (`shop` of `shop.web:app`), the folder for a lone module."""
    package, dot, _rest = target.partition(":")[0].partition(".")
    return clean_name(package if dot else folder_name(folder))


def _as_argument(fault: Fault) -> Fault:
    option, bracket, rest = fault.key.removeprefix(f"workers.{RUN_GROUP}.").partition("[")
    return fault._replace(key=ARGUMENTS.get(option, option) + ("" if option in ARGUMENTS else bracket + rest))


class _Loading:
    """One pass over one tree."""

    def __init__(self, tree: dict[str, Any], environ: Mapping[str, str], hostname: str, *, base: str) -> None:
        self.faults = Faults()
        self.environ = environ
        self.hostname = hostname
        self.base = base
        self.tree = tree
        self.reader = Reader(environ, self.faults)

    def config(self, path: str, source: str) -> Config:
        self._apply_overrides()
        self._check_names(self.tree, ())
        sections = {
            name: self.reader.section(kind, self.tree.get(name, {}), (name,)) for name, kind in SECTIONS.items()
        }
        workers = self._workers()
        app = sections["app"]
        app["name"] = app.get("name") or folder_name(self.base)
        app["host"] = app.get("host") or self.hostname
        bus = sections["bus"]
        bus["secret_file"] = below(self.base, bus["secret_file"]) if bus.get("secret_file") else ""
        metrics = sections["metrics"]
        metrics |= {"bind": absolute_address(metrics["bind"], self.base)} if _is_path(metrics) else {}
        config = Config(
            path,
            self.base,
            AppSection(**app),
            ControlSection(**sections["control"]),
            PingSection(**sections["ping"]),
            LogSection(**sections["log"]),
            BusSection(**sections["bus"]),
            StoreSection(**sections["store"]),
            workers,
            MetricsSection(**sections["metrics"]),
        )
        _check_ping(config.ping, self.faults)
        _check_bus(config.bus, self.faults)
        _check_control(config.control, self.faults)
        _check_metrics(config.metrics, self.faults)
        if self.faults.found:
            raise ConfigError(source, self.faults.found)
        return config

    def _workers(self) -> dict[str, GroupSection]:
        tables = self.reader.table(self.tree.get("workers", {}), ("workers",))
        if not tables and not self.faults.touch(("workers",)):
            self.faults.add(("workers",), "at least one [workers.NAME]")
        groups = [read_group(name, table, self.reader, self.base) for name, table in tables.items()]
        whole = [group for group in groups if group is not None]
        check_listeners(whole, self.faults)
        return {group.name: group for group in whole}

    def _apply_overrides(self) -> None:
        when = self.tree.get("when", {})
        tree = {name: table for name, table in self.tree.items() if name != "when"}
        layers = layers_of(when, self.reader)
        host = self._identity(tree, "host") or self.hostname
        by_host = [layer for layer in layers if layer.key[1:] == ("host", host)]
        tag = self._identity(_merged(tree, by_host), "tag")
        by_tag = [layer for layer in layers if tag and layer.key[1:] == ("tag", tag)]
        self.tree = _merged(tree, by_tag + by_host)
        self.faults.layers = by_host + by_tag
        for layer in layers:
            self._check_names(layer.tree, layer.key)
            if layer not in by_host + by_tag:
                self._check_elsewhere(layer, tree)

    def _identity(self, tree: dict[str, Any], name: str) -> str:
        """`app.host` or `app.tag` before anything else is read; faults are found when the section is."""
        app = tree.get("app")
        value = app.get(name) if isinstance(app, dict) else None
        text = Reader(self.environ, Faults()).text(value, ("app", name)) if isinstance(value, str) else ""
        return text if isinstance(text, str) else ""

    def _check_names(self, tree: dict[str, Any], prefix: Key) -> None:
        known = [name for name in KNOWN if not prefix or name != "when"]
        for name in tree:
            if name not in known:
                self.faults.unknown((*prefix, name), known)

    def _check_elsewhere(self, layer: Layer, tree: dict[str, Any]) -> None:
        """An override for others: each value must be right by itself."""
        reader = Reader(self.environ, self.faults, lenient=True)
        for name, kind in SECTIONS.items():
            reader.section(kind, layer.tree.get(name, {}), (*layer.key, name))
        groups = reader.table(layer.tree.get("workers", {}), (*layer.key, "workers"))
        merged = _merged(tree, [layer])
        for name, table in groups.items():
            known = merged["workers"].get(name)
            group_kind = known.get("kind") if isinstance(known, dict) else None
            check_group(name, table, group_kind, (*layer.key, "workers", name), reader)


def _merged(tree: dict[str, Any], layers: list[Layer]) -> dict[str, Any]:
    for layer in layers:
        tree = merge(tree, layer.tree)
    return tree


def _check_ping(ping: PingSection, faults: Faults) -> None:
    least = max(ping.interval, LEAST_KILL)
    if not faults.touch(("ping",)) and 0 < ping.kill < least:
        faults.add(
            ("ping", "kill"), f"at least {least:g}s (500ms and ping.interval), or 0s for never", f"{ping.kill:g}s"
        )


def _check_bus(bus: BusSection, faults: Faults) -> None:
    if not faults.touch(("bus",)) and bus.url != "local:" and not bus.secret_file and not bus.unsigned:
        faults.add(("bus", "secret_file"), "the file with the keys that sign commands (or unsigned = true)")


def _check_control(control: ControlSection, faults: Faults) -> None:
    for name, group in (("operators", control.operators), ("viewers", control.viewers)):
        if group and not known_group(group):
            faults.add(("control", name), "a unix group of this machine", group)


def _is_path(metrics: dict[str, Any]) -> bool:
    return str(metrics.get("bind")).startswith("unix:")


def _check_metrics(metrics: MetricsSection, faults: Faults) -> None:
    path = metrics.bind.removeprefix("unix:")
    if path != metrics.bind and len(os.fsencode(path)) > LONGEST_SOCKET_PATH:
        faults.add(("metrics", "bind"), f"a path of at most {LONGEST_SOCKET_PATH} bytes once absolute", metrics.bind)
