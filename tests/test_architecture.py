"""The rules of the code: who imports whom, how light the light modules are, how long files and functions may be."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("supervisor", "ipc", "workers")
MODULES = sorted([path for package in PACKAGES for path in ROOT.glob(f"{package}/**/*.py")])
FACE = sorted(ROOT.glob("src/bkd/*.py"))

MOST_LINES = 400
MOST_FUNCTION_LINES = 60
LONG_FUNCTION_LINES = 40
MOST_LONG_FUNCTIONS = 0.01
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "tools", "base", "core"}

MAY_IMPORT = {
    "ipc": {"ipc"},
    "supervisor": {"supervisor", "ipc", "__version__"},
    "workers": {"workers", "ipc", "__version__"},
}

LIGHT = [
    "cli",
    "ipc",
    "ipc.plain",
    "supervisor.activation",
    "supervisor.asking",
    "supervisor.client",
    "supervisor.datagrams",
    "supervisor.herald",
    "supervisor.keeper",
    "supervisor.keeperstate",
    "supervisor.launch",
    "supervisor.places",
    "supervisor.probe",
    "supervisor.spawning",
    "supervisor.viewer",
]
HEAVY = {"asyncio", "click", "loguru", "msgspec", "psutil", "redis", "rich", "uvicorn", "uvloop"}

PURE = [
    "actions",
    "applied_actions",
    "apply",
    "backoff",
    "breaker",
    "bus/hearing",
    "bus/judge",
    "bus/letter",
    "bus/outcome",
    "bus/rollout",
    "bus/rollouts_index",
    "cluster",
    "death",
    "endings",
    "events",
    "exits",
    "fleet/progress",
    "fleet/selection",
    "fleet/verbs",
    "health",
    "healthy",
    "heartbeat",
    "memorytrend",
    "forensics/postmortem",
    "recycling",
    "reconcile",
    "rows",
    "verdict",
    "watch",
]
IMPURE = {
    "asyncio",
    "datetime",
    "os",
    "pathlib",
    "psutil",
    "random",
    "select",
    "socket",
    "subprocess",
    "threading",
    "time",
}


def test_files_are_short() -> None:
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in MODULES + FACE}

    assert {name: lines for name, lines in lengths.items() if lines >= MOST_LINES} == {}


def test_functions_are_short() -> None:
    lengths = {f"{name_of(path)}:{name}": lines for path in MODULES + FACE for name, lines in functions(path)}

    long = {name: lines for name, lines in lengths.items() if lines > LONG_FUNCTION_LINES}

    assert {name: lines for name, lines in long.items() if lines > MOST_FUNCTION_LINES} == {}
    assert len(long) <= MOST_LONG_FUNCTIONS * len(lengths), long


def test_modules_are_called_by_what_they_are_about() -> None:
    assert [name_of(path) for path in MODULES + FACE if path.stem in VAGUE_NAMES] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_inside_a_package_are_relative_and_lead_where_they_may(package: str) -> None:
    inside = [path for path in MODULES if path.relative_to(ROOT).parts[0] == package]
    absolute = {name_of(path) for path in inside for name in absolute_imports(path) if name.split(".")[0] == "bkd"}
    reached = {target for path in inside for target in reaches(path)}

    assert absolute == set()
    assert reached <= MAY_IMPORT[package]


@pytest.mark.parametrize("stem", PURE)
def test_the_functional_core_knows_no_clock_and_no_process(stem: str) -> None:
    imported = {name.partition(".")[0] for name in absolute_imports(ROOT / "supervisor" / f"{stem}.py")}

    assert imported & IMPURE == set()


@pytest.mark.parametrize("stem", ["events", "actions"])
def test_the_documentation_names_every_event_and_action(stem: str) -> None:
    tree = ast.parse((ROOT / "supervisor" / f"{stem}.py").read_text())
    kinds = {node.name for node in tree.body if isinstance(node, ast.ClassDef)} - {"Event", "Action"}

    said = set(re.findall(r"`(\w+)`", (ROOT / "ARCHITECTURE.md").read_text()))

    assert kinds - said == set()


def test_the_documentation_names_no_module_that_is_not_there() -> None:
    names = {path.name for path in MODULES + FACE}

    said = set(re.findall(r"(\w+\.py)\b", (ROOT / "ARCHITECTURE.md").read_text()))

    assert said - names == set()


@pytest.mark.parametrize("module", LIGHT)
def test_what_starts_first_needs_the_standard_library_alone(module: str) -> None:
    loaded = loads(f"import bkd.{module}")

    assert {name for name in loaded if name not in sys.stdlib_module_names} == {"bkd"}
    assert loaded & HEAVY == set()


def test_the_status_command_loads_nothing_heavy(tmp_path: Path) -> None:
    asking = (
        f"sys.argv = ['bkd', 'status', '--socket', {str(tmp_path / 'none.sock')!r}]\nimport bkd.cli\nbkd.cli.main()"
    )

    loaded = loads(asking)

    assert "bkd" in loaded
    assert loaded & (HEAVY | {"socket", "pathlib", "typing_extensions"}) == set()


@pytest.mark.parametrize(
    ("module", "others"),
    [
        ("bkd", ["bkd.ipc", "bkd.supervisor", "bkd.workers"]),
        ("bkd.ipc", ["bkd.supervisor", "bkd.workers"]),
        ("bkd.ipc.application", ["bkd.supervisor", "bkd.workers"]),
        ("bkd.supervisor.master", ["bkd.workers"]),
        ("bkd.workers.zygote", ["bkd.supervisor"]),
    ],
)
def test_a_package_does_not_bring_the_others_along(module: str, others: list[str]) -> None:
    loaded = loads(f"import {module}", whole=True)

    assert module in loaded
    assert loaded & set(others) == set()


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Name and length in lines of every function in the file, docstring and decorators included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            yield node.name, (node.end_lineno or first) - first + 1


def absolute_imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module


def reaches(path: Path) -> Iterator[str]:
    """What below `bkd` each relative import leads to: a package or a module, "…" for what lies outside of `bkd`."""
    here = list(path.relative_to(ROOT).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom) or node.level == 0:
            continue
        up = node.level - 1
        if up > len(here):
            yield "…"
            continue
        target = [*here[: len(here) - up], *(node.module or "").split(".")]
        yield from [target[0]] if target[0] else (alias.name for alias in node.names)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def loads(code: str, *, whole: bool = False) -> set[str]:
    """What a fresh interpreter imports for this code, beyond what it begins with: full names, or their first parts."""
    report = "print(*sorted(set(sys.modules) - before), file=sys.stderr)"
    program = f"import sys\nbefore = set(sys.modules)\n{code}\n{report}"
    run = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, timeout=60, check=True)
    names = run.stderr.splitlines()[-1].split()
    return set(names) if whole else {name.partition(".")[0] for name in names}
