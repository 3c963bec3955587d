"""The rules of the code: who imports whom, how light the light modules are, how long files and functions may be."""

import ast
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

MAY_IMPORT = {"ipc": {"ipc"}, "supervisor": {"supervisor", "ipc"}, "workers": {"workers", "ipc"}}
"""Beside `bkd` itself, for its version."""

LIGHT = ("supervisor.keeper", "supervisor.spawning", "supervisor.launch", "supervisor.viewer", "supervisor.client")
LIGHT += ("supervisor.places", "supervisor.asking", "ipc.plain", "ipc", "cli")
HEAVY = {"asyncio", "click", "loguru", "msgspec", "psutil", "redis", "rich", "uvicorn", "uvloop"}

PURE = "actions apply applied_actions backoff breaker cluster death endings events exits health reconcile rows verdict watch"
IMPURE = {"asyncio", "datetime", "os", "pathlib", "psutil", "random", "select", "socket", "subprocess", "threading", "time"}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", MODULES + FACE, ids=name_of)
def test_files_are_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) < MOST_LINES


@pytest.mark.parametrize("path", MODULES + FACE, ids=name_of)
def test_functions_are_not_long(path: Path) -> None:
    too_long = {name: lines for name, lines in functions(path) if lines > MOST_FUNCTION_LINES}

    assert too_long == {}


def test_few_functions_are_longer_than_a_screen() -> None:
    lengths = {f"{name_of(path)}:{name}": lines for path in MODULES + FACE for name, lines in functions(path)}

    long = {name: lines for name, lines in lengths.items() if lines > LONG_FUNCTION_LINES}

    assert len(long) <= MOST_LONG_FUNCTIONS * len(lengths), long


@pytest.mark.parametrize("path", MODULES + FACE, ids=name_of)
def test_a_module_is_called_by_what_it_is_about(path: Path) -> None:
    assert path.stem not in VAGUE_NAMES


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_inside_the_packages_are_relative_and_stay_inside(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    reached = set(reaches(path))

    assert "bkd" not in {name.partition(".")[0] for name in absolute_imports(path)}
    assert {target for target in reached if target not in MAY_IMPORT[package]} <= {""}


@pytest.mark.parametrize("stem", PURE.split())
def test_the_functional_core_knows_no_clock_and_no_process(stem: str) -> None:
    imported = {name.partition(".")[0] for name in absolute_imports(ROOT / "supervisor" / f"{stem}.py")}

    assert imported & IMPURE == set()


@pytest.mark.parametrize("module", LIGHT)
def test_what_starts_first_needs_the_standard_library_alone(module: str) -> None:
    loaded = loads(f"import bkd.{module}")

    assert {name for name in loaded if name not in sys.stdlib_module_names} == {"bkd"}
    assert loaded & HEAVY == set()


def test_the_status_command_loads_nothing_heavy(tmp_path: Path) -> None:
    asking = f"sys.argv = ['bkd', 'status', '--socket', {str(tmp_path / 'none.sock')!r}]\nimport bkd.cli\nbkd.cli.main()"

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
    """The package below `bkd` that each relative import leads to; "" for `bkd` itself, "…" for what is above it."""
    here = list(path.relative_to(ROOT).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom) or node.level == 0:
            continue
        up = node.level - 1
        if up > len(here):
            yield "…"
            continue
        target = here[: len(here) - up] + (node.module or "").split(".")
        names = [alias.name for alias in node.names] if not target[0] else [target[0]]
        yield from (name if name in PACKAGES else "" for name in names)


def loads(code: str, *, whole: bool = False) -> set[str]:
    """What a fresh interpreter imports for this code, beyond what it begins with: full names, or their first parts."""
    report = "print(*sorted(set(sys.modules) - before), file=sys.stderr)"
    program = f"import sys\nbefore = set(sys.modules)\n{code}\n{report}"
    run = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, timeout=60, check=True)
    names = run.stderr.splitlines()[-1].split()
    return set(names) if whole else {name.partition(".")[0] for name in names}
