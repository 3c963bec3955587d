"""The files a release was made of: their fingerprint, and in words what is different by now."""

import os
import tracemalloc

import pytest

from bkd.supervisor.originfiles import MOST_RELEASES, OriginFiles, edits, fingerprint
from bkd.workers.prints import prints

FILES = {"app.py": b"1", "shop/db.py": b"2", "/lib/x.py": b"3"}


def test_a_fingerprint_knows_paths_and_contents():
    assert fingerprint(FILES) == fingerprint(dict(reversed(FILES.items())))
    assert len({fingerprint(FILES), fingerprint(FILES | {"app.py": b"9"}), fingerprint({"app.py": b"1"}), ""}) == 4
    assert fingerprint({}) == ""


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (FILES, ""),
        (FILES | {"app.py": b"9"}, "app.py was edited since"),
        (FILES | {"app.py": b"9", "shop/db.py": b"9"}, "app.py and 1 more were edited since"),
        (FILES | {"local.py": b"9"}, "local.py was added since"),
        ({"app.py": b"9", "/lib/x.py": b"3"}, "app.py was edited, shop/db.py was removed since"),
    ],
)
def test_the_difference_in_words(now, said):
    assert edits(FILES, now) == said


def test_a_release_is_compared_with_its_first_load():
    known = OriginFiles()
    first, nothing = known.compared(("web", 1), FILES)
    other, edited = known.compared(("web", 1), FILES | {"app.py": b"9"})
    assert (nothing, edited, first != other) == ("", "app.py was edited since", True)
    assert known.compared(("web", 1), FILES) == (first, "")
    assert known.compared(("web", 2), FILES | {"app.py": b"9"})[1] == ""


def test_no_more_releases_are_remembered_than_there_can_be():
    known = OriginFiles()
    for number in range(MOST_RELEASES + 1):
        known.compared(("web", number), {"app.py": b"1"})
    assert known.compared(("web", 0), {"app.py": b"2"})[1] == ""


def test_prints_are_of_contents_alone(tmp_path):
    file, outside = tmp_path / "app" / "app.py", tmp_path / "lib.py"
    file.parent.mkdir()
    file.write_text("a = 1\n")
    outside.write_text("b = 1\n")
    before = prints([str(file), str(outside)], str(file.parent))
    assert list(before) == ["app.py", str(outside)]
    os.utime(file, (1.0, 1.0))
    assert prints([str(file), str(outside)], str(file.parent)) == before
    file.write_text("a = 2\n")
    assert prints([str(file), str(outside)], str(file.parent))["app.py"] != before["app.py"]


def test_a_file_that_is_gone_and_bkd_s_own_have_no_print(tmp_path):
    own = os.path.realpath(prints.__code__.co_filename)
    assert prints([str(tmp_path / "gone.py"), own], str(tmp_path)) == {}


def test_what_stays_the_same_is_held_once():
    """Releases of 500 files, of which one is edited each time, told by messages that have nothing in common."""
    known = OriginFiles()
    tracemalloc.start()
    try:
        for number in range(MOST_RELEASES):
            files = {f"shop/module_{i}.py": b"%08d" % i for i in range(500)}
            known.compared(("web", number), files | {"app.py": b"%08d" % number})
        held, _peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 2_400_000, f"{held:,} bytes: a table for each release, but no paths and digests"
