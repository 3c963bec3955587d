import pytest
from hypothesis import given
from hypothesis import strategies as st

from bkd.supervisor.config.variables import MissingVariableError, expand

ENVIRON = {"HOST": "h1", "EMPTY": "", "NESTED": "${HOST}"}


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("plain $HOST", "plain $HOST"),
        ("${HOST}", "h1"),
        ("a-${HOST}-${HOST}", "a-h1-h1"),
        ("${EMPTY}", ""),
        ("${EMPTY:-x}", "x"),
        ("${NOPE:-}", ""),
        ("${NOPE:-a:b c}", "a:b c"),
        ("${HOST:-x}", "h1"),
        ("$${HOST}", "${HOST}"),
        ("$$", "$$"),
        ("${NESTED}", "${HOST}"),
    ],
)
def test_variables_are_filled_in(text, full):
    assert expand(text, ENVIRON) == full


def test_a_missing_variable_is_named():
    with pytest.raises(MissingVariableError) as caught:
        expand("x ${NOPE}", ENVIRON)
    assert caught.value.name == "NOPE"


@pytest.mark.parametrize("text", ["${", "${}", "${1A}", "${A", "${A-b}", "${A:-${B}}", "${ A }"])
def test_what_begins_no_variable_is_refused(text):
    with pytest.raises(ValueError) as caught:
        expand(text, ENVIRON)
    assert not isinstance(caught.value, MissingVariableError)


@given(st.text("${}:-AB", max_size=20))
def test_any_text_expands_or_is_refused(text):
    try:
        assert "${A" not in expand(text, {"A": "1", "AB": "2"}) or "$${" in text
    except ValueError:
        assert "${" in text
