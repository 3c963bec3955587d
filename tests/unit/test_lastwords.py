"""The end of a log, and the places that a traceback names."""

from hypothesis import given
from hypothesis import strategies as st

from bkd.supervisor.lastwords import BYTES, LINES, last_lines, last_traceback, places

TRACE = """before
Traceback (most recent call last):
  File "/srv/shop/app.py", line 7, in <module>
    import shop
  File "<frozen importlib._bootstrap>", line 1178, in _find_and_load
  File "/srv/shop/shop.py", line 3, in load
    raise ValueError(1)
ValueError: 1
""".splitlines()


def test_innermost_first_with_the_line_of_source():
    found = places(last_traceback(TRACE))
    assert [(frame.file, frame.line, frame.function, frame.text) for frame in found] == [
        ("/srv/shop/shop.py", 3, "load", "raise ValueError(1)"),
        ("<frozen importlib._bootstrap>", 1178, "_find_and_load", ""),
        ("/srv/shop/app.py", 7, "<module>", "import shop"),
    ]


def test_a_syntax_error_has_no_function():
    (frame,) = places(['  File "/srv/shop/app.py", line 2', "    def (:", "        ^", "SyntaxError: invalid syntax"])
    assert (frame.line, frame.function, frame.text) == (2, "", "def (:")


def test_the_last_traceback():
    assert last_traceback([*TRACE, *TRACE[1:3], "SyntaxError: x"])[-1] == "SyntaxError: x"
    assert last_traceback(["no", "trace"]) == []


@given(st.lists(st.text()))
def test_whatever_the_lines(lines):
    assert len(places(lines)) <= len(lines)


def test_only_its_own_lines_and_not_all(tmp_path):
    log = tmp_path / "web.1.log"
    log.write_text("of another\n")
    born = log.stat().st_size
    with log.open("a") as file:
        file.writelines(f"line {number} \x1b[2J\n" for number in range(3 * LINES))
    found = last_lines(str(log), born)
    assert len(found) == LINES
    assert found[-1] == f"line {3 * LINES - 1} \\x1b[2J"
    assert last_lines(str(log), 0)[-1] == found[-1]
    with log.open("a") as file:
        file.write("x" * 3 * BYTES)
    assert sum(map(len, last_lines(str(log), born))) <= BYTES


def test_a_log_that_was_cut_meanwhile(tmp_path):
    log = tmp_path / "web.1.log"
    log.write_text("after\n")
    assert last_lines(str(log), 1000) == ["after"]
