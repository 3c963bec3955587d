"""What is built and installed. The ways to a false green are looked at: a folder left out in silence, half checked."""

import os
import re
import stat
import subprocess
import sys
import tarfile
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("supervisor", "ipc", "workers")
ENDS = ("*.py", "*.sql")
FACE = ("__init__.py", "__main__.py", "cli.py", "py.typed")

pytestmark = pytest.mark.timeout(400)


def run(*command: object, cwd: Path) -> str:
    """Output of a command that must succeed; it finds nothing of this checkout by accident."""
    environ = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    words = [str(word) for word in command]
    ended = subprocess.run(words, cwd=cwd, env=environ, text=True, capture_output=True, timeout=300)
    assert ended.returncode == 0, f"{' '.join(words)}\n{ended.stdout}\n{ended.stderr}"
    return ended.stdout


def sources() -> set[str]:
    """Every file that belongs into the wheel, as the path it has there."""
    real = {
        str(path.relative_to(ROOT)) for folder in PACKAGES for end in ENDS for path in ROOT.glob(f"{folder}/**/{end}")
    }
    return {f"bkd/{name}" for name in real} | {f"bkd/{name}" for name in FACE}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and the wheel that was made from it."""
    folder = tmp_path_factory.mktemp("built")
    run(sys.executable, "-m", "build", "--outdir", folder, cwd=ROOT)
    return folder


@pytest.fixture(scope="module")
def direct(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel that was made from the checkout itself."""
    folder = tmp_path_factory.mktemp("direct")
    run(sys.executable, "-m", "build", "--wheel", "--outdir", folder, cwd=ROOT)
    return folder


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`bin` of a virtual environment that has the wheel, what it depends on, and nothing else."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, with_pip=True)
    run(folder / "bin/python", "-m", "pip", "install", "--quiet", wheel(built), cwd=folder)
    return folder / "bin"


def wheel(folder: Path) -> Path:
    (found,) = folder.glob("*.whl")
    return found


def names(archive: Path) -> set[str]:
    """What a wheel holds beside its metadata."""
    with ZipFile(archive) as opened:
        return {name for name in opened.namelist() if not name.partition("/")[0].endswith(".dist-info")}


def test_the_wheel_from_the_sdist_holds_every_module_and_nothing_else(built: Path) -> None:
    assert names(wheel(built)) == sources()


def test_the_wheel_from_the_checkout_is_the_same(built: Path, direct: Path) -> None:
    assert names(wheel(direct)) == names(wheel(built))


@pytest.mark.parametrize(
    "name",
    [
        "py.typed",
        "ipc/link.py",
        "supervisor/config/load.py",
        "workers/web/server.py",
        "workers/store/sql/sqlite/turn.sql",
    ],
)
def test_what_lies_deep_is_in_the_wheel(built: Path, name: str) -> None:
    assert f"bkd/{name}" in names(wheel(built))


def test_the_wheel_has_the_command_and_the_licence(built: Path) -> None:
    with ZipFile(wheel(built)) as opened:
        metadata = {name.partition(".dist-info/")[2]: name for name in opened.namelist() if ".dist-info/" in name}
        entry_points = opened.read(metadata["entry_points.txt"]).decode()

    assert "bkd = bkd.cli:main" in entry_points
    assert "licenses/LICENSE" in metadata


def test_the_sdist_holds_every_folder_once(built: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        files = [member.name.partition("/")[2] for member in opened.getmembers() if member.isfile()]

    assert len(files) == len(set(files))
    assert {name.partition("/")[0] for name in files} >= {"supervisor", "ipc", "workers", "src", "tests", "etc"}
    assert {f"bkd/{name}" for name in files if name.startswith(tuple(f"{p}/" for p in PACKAGES))} <= sources()


@pytest.mark.parametrize("package", PACKAGES)
def test_the_packages_are_links_to_the_folders_at_the_top(package: str) -> None:
    link = ROOT / "src/bkd" / package

    assert stat.S_ISLNK(link.lstat().st_mode)
    assert os.readlink(link) == f"../../{package}"
    assert link.samefile(ROOT / package)


def test_the_type_checker_looks_at_every_module() -> None:
    names = sources()
    modules = len([name for name in names if name.endswith(".py")])
    folders = {str(folder) for name in names for folder in Path(name).parents} - {"."}
    bare = len([folder for folder in folders if f"{folder}/__init__.py" not in names])  # it counts these as well

    checked = subprocess.run([sys.executable, "-m", "mypy"], cwd=ROOT, text=True, capture_output=True, timeout=300)

    found = re.search(r"(?:in|checked) (\d+) source files", checked.stdout)
    assert found is not None, checked.stdout + checked.stderr
    assert int(found[1]) == modules + bare


def test_the_installed_command_says_its_version(installed: Path, tmp_path: Path) -> None:
    version = run(installed / "python", "-c", "import bkd; print(bkd.__version__)", cwd=tmp_path).strip()

    assert version in run(installed / "bkd", "--version", cwd=tmp_path)
    assert version in run(installed / "python", "-m", "bkd", "--version", cwd=tmp_path)


@pytest.mark.parametrize("module", ["supervisor.master", "supervisor.commandline", "workers.zygote", "workers.web.web"])
def test_what_is_installed_imports_without_the_checkout(installed: Path, tmp_path: Path, module: str) -> None:
    code = f"import bkd.{module} as module; print(module.__file__)"

    where = run(installed / "python", "-W", "error", "-c", code, cwd=tmp_path).strip()

    assert Path(where).is_relative_to(installed.parent)


def test_no_top_level_name_but_bkd_is_installed(installed: Path, tmp_path: Path) -> None:
    code = "import importlib.util as i; print([n for n in ('supervisor', 'ipc', 'workers', 'tests') if i.find_spec(n)])"

    assert run(installed / "python", "-c", code, cwd=tmp_path).strip() == "[]"
