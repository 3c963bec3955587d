"""Run one benchmark: python bench/run.py NAME [--peers a,b] [--rounds N] [--variant V] [--set KEY=VALUE]

Each round goes once through all peers (A B C, A B C, …), so that a slow minute of the machine meets all of them.
Prints Markdown tables; the raw figures lie as JSON in bench/results.
"""

import argparse
import importlib
import inspect
import json
import math
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import proc
from case import Case, Figures
from figures import Rounds, paired, shown, table
from peers import PEERS
from place import HERE, RESULTS, VENV, program


def names() -> list[str]:
    return sorted(file.stem for file in (HERE / "cases").glob("*.py"))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=names())
    parser.add_argument("--peers", help=f"out of {', '.join(PEERS)}; default: the benchmark's own")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--variant", help="only this one of the benchmark's variants")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change an option")
    return parser.parse_args()


def options_of(case: Case, settings: list[str]) -> dict[str, Any]:
    """`KEY=VALUE` with the type of the option's default; SystemExit for an unknown one."""
    known = {p.name: p.default for p in inspect.signature(case.measure).parameters.values() if p.kind == p.KEYWORD_ONLY}
    options = {}
    for setting in settings:
        key, _, text = setting.partition("=")
        if key not in known:
            sys.exit(f"no option {key!r}; there are: {', '.join(known) or 'none'}")
        options[key] = text in ("1", "true", "True") if isinstance(known[key], bool) else type(known[key])(text)
    return options


def one_round(case: Case, peer: str, options: dict[str, Any]) -> tuple[Figures, str]:
    """The figures, or the reason why there are none: a peer that fails must not end the others' run."""
    try:
        return case.measure(peer, **options), ""
    except Exception as error:  # noqa: BLE001
        return {}, "\n".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", [])])


def all_rounds(
    case: Case, peers: list[str], rounds: int, options: dict[str, Any]
) -> tuple[dict[str, Rounds], list[str]]:
    results: dict[str, Rounds] = {peer: [] for peer in peers}
    failures: list[str] = []
    for number in range(1, rounds + 1):
        for peer in peers:
            start = time.monotonic()
            figures, failure = one_round(case, peer, options)
            results[peer].append(figures)
            took = f"[{number}/{rounds}] {peer} {time.monotonic() - start:.0f} s"
            print(took, failure or _medians(figures), file=sys.stderr, flush=True)
            failures += [f"{peer}, round {number}: {failure}"] if failure else []
    return results, failures


def _medians(figures: Figures) -> str:
    return ", ".join(f"{metric}: {shown(median(values))}" for metric, values in figures.items())


def machine() -> dict[str, Any]:
    freeze = subprocess.run([program("python"), "-m", "pip", "freeze"], capture_output=True, text=True, timeout=60)
    return {
        "python": platform.python_version(),
        "kernel": platform.release(),
        "cpus": os.cpu_count(),
        "load": os.getloadavg(),
        "packages": freeze.stdout.split(),
    }


def store(name: str, variants: dict[str, Any], about: dict[str, Any]) -> Path:
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}.json"
    file.write_text(json.dumps(_plain({"name": name, "machine": about, "variants": variants}), indent=1))
    return file


def _plain(value: Any) -> Any:
    """JSON knows no infinity: null is "never"."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and math.isinf(value) else value


def main() -> int:
    args = arguments()
    if not Path(program("python")).exists():
        sys.exit(f"no environment in {VENV}: make it with python bench/setup.py, or name one by $BENCH_VENV")
    case: Case = importlib.import_module(f"cases.{args.name}").CASE
    peers = args.peers.split(",") if args.peers else list(case.peers)
    known = dict.fromkeys([*PEERS, *case.peers])
    if unknown := sorted(set(peers) - set(known)):
        sys.exit(f"no peer {', '.join(unknown)}; there are: {', '.join(known)}")
    if args.variant and args.variant not in case.variants:
        sys.exit(f"no variant {args.variant!r}; there are: {', '.join(case.variants)}")
    settings, about, document, failures = options_of(case, args.set), machine(), {}, []
    proc.become_subreaper()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    for variant in [args.variant] if args.variant else case.variants:
        options = {**case.variants[variant], **settings}
        results, failed = all_rounds(case, peers, args.rounds or case.rounds, options)
        document[variant or "all"] = {"options": options, "results": results, "failures": failed}
        failures += failed
        print(f"\n### {case.title}{variant and ': ' + variant}\n\n{(case.report or table)(results)}\n")
        print(paired(results, case.baseline) if case.baseline else "")
    print(f"raw figures: {store(args.name, document, about)}")
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
