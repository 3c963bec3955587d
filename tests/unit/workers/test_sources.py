"""Which of the imported files are an application's."""

import importlib.util
import os
import sys
from types import ModuleType

import msgspec
import pytest

from bkd.workers import sources
from bkd.workers.sources import Sources


def module(name, file):
    made = ModuleType(name)
    made.__file__ = str(file)
    return made


@pytest.fixture
def imports(monkeypatch):
    """Pretends that modules of these files are imported."""

    def pretend(*files):
        for file in files:
            monkeypatch.setitem(sys.modules, f"pretended {file}", module("pretended", file))

    return pretend


def test_each_file_is_new_once(imports, tmp_path):
    told = Sources()
    told.new()
    imports(tmp_path / "b.py", tmp_path / "a.py")
    assert told.new() == [str(tmp_path / "a.py"), str(tmp_path / "b.py")]
    assert told.new() == []
    imports(tmp_path / "c.py")
    assert told.new() == [str(tmp_path / "c.py")]


def test_what_is_skipped_is_known_even_when_all_is_to_be_told_again(imports, tmp_path):
    imports(tmp_path / "a.py")
    told = Sources()
    told.skip()
    told.again()
    assert told.new() == []
    imports(tmp_path / "b.py")
    assert told.new() == [str(tmp_path / "b.py")]
    told.again()
    assert told.new() == [str(tmp_path / "b.py")]


def test_only_real_source_files_that_nobody_installed(imports, tmp_path):
    """A link into the installed ones leads to a source all the same; a link out of the stdlib's folder is followed."""
    told = Sources()
    told.new()
    installed = tmp_path / "venv" / "lib" / "site-packages"
    installed.mkdir(parents=True)
    (tmp_path / "real.py").touch()
    (tmp_path / "link.py").symlink_to(tmp_path / "real.py")
    (installed / "package.py").touch()
    (tmp_path / "installed.py").symlink_to(installed / "package.py")
    imports(
        tmp_path / "link.py",
        tmp_path / "installed.py",
        tmp_path / "fast.so",
        installed / "package.py",
        "/usr/lib/python3/dist-packages/apt.py",
        os.__file__,
        "",
    )
    assert told.new() == [str(tmp_path / "real.py")]


def test_odd_modules_are_no_trouble(monkeypatch, tmp_path):
    """Objects in the place of modules, names that are none, and lazy modules, which are not made to import anything."""
    told = Sources()
    told.new()
    (tmp_path / "lazy.py").write_text("raise RuntimeError('it was imported')\n")
    spec = importlib.util.spec_from_file_location("lazy", tmp_path / "lazy.py")
    spec.loader = importlib.util.LazyLoader(spec.loader)
    lazy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(lazy)
    for name, odd in {"lazy": lazy, "none": None, "object": object(), "number": module("number", "")}.items():
        monkeypatch.setitem(sys.modules, f"odd {name}", odd)
    monkeypatch.setattr(sys.modules["odd number"], "__file__", 7)
    assert told.new() == [str(tmp_path / "lazy.py")]


def raised(folder, **texts):
    """The error of running a text that stands in a file of that name, or of its syntax."""
    name, text = texts.popitem()
    try:
        exec(compile(text, str(folder / f"{name}.py"), "exec"), {})
    except BaseException as error:  # noqa: BLE001 - whatever an application raises
        return error
    raise AssertionError("nothing was raised")


def test_files_that_could_not_be_imported_count(tmp_path):
    told = Sources()
    told.new()
    assert str(tmp_path / "wrong.py") in told.new(raised(tmp_path, wrong="1 +"))
    assert str(tmp_path / "fails.py") in told.new(raised(tmp_path, fails="1 / 0"))


def test_the_error_behind_an_error_counts(tmp_path):
    told = Sources()
    told.new()
    error = raised(tmp_path, outer="raise KeyError")
    error.__cause__ = raised(tmp_path, inner="1 +")
    error.__cause__.__context__ = error
    assert {str(tmp_path / "outer.py"), str(tmp_path / "inner.py")} <= set(told.new(error))


def test_there_are_never_more_than_a_message_holds(imports, tmp_path, monkeypatch):
    told = Sources()
    told.new()
    imports(*(tmp_path / f"{number:04}.py" for number in range(30)), tmp_path / "\udcff.py")
    monkeypatch.setattr(sources, "MOST_FILES", 20)
    files = told.new()
    assert len(files) == 20
    assert msgspec.msgpack.encode(files)

    told.again()
    limit = 10 * len(files[0])
    monkeypatch.setattr(sources, "MOST_BYTES", limit)
    fewer = told.new()
    assert 0 < sum(map(len, fewer)) <= limit


def test_a_name_that_is_no_text_is_left_out(imports, tmp_path):
    told = Sources()
    told.new()
    imports(tmp_path / "ä.py", tmp_path / "\udcff.py")
    assert told.new() == [str(tmp_path / "ä.py")]
