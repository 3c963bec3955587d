"""`bkd message add`: what may be written, and what is said of what may not."""

import click
import pytest
from click.testing import CliRunner

from bkd.supervisor import newmessages
from bkd.supervisor.messagecalls import Usage, duration, parsed
from bkd.supervisor.newmessages import adding, deadline, moment, routing


@pytest.fixture
def sent(monkeypatch):
    """What went out; `add` runs the command with these words."""
    sent = []

    def collected(verb, arguments, options):
        sent.append((verb, arguments))
        return 0, '{"ids": [1], "created": 1, "refused": []}', ""

    monkeypatch.setattr(newmessages, "collected", collected)
    monkeypatch.setattr(newmessages, "is_direct", lambda options: False)
    return sent


def add(*words, stdin=b""):
    command = click.command()(adding(lambda function: function))
    return CliRunner().invoke(command, list(words), input=stdin, standalone_mode=False)


def test_every_option_of_enqueue_is_sent(sent):
    words = ["--due", "2030-12-01T08:00+01:00", "--deadline", "2031-01-01T00:00Z", "--on-deadline", "alert"]
    words += ["--unique", "u", "--conflict", "replace", "--guid", "g", "--tracking-id", "t", "--parent-id", "3"]

    assert add("mail", '{"to": "ann"}', *words, "--routing", '{"tenant": "acme"}', "--delay", "5m").exception is None

    [(verb, arguments)] = sent
    assert (verb, arguments["kind"], arguments["items"]) == ("message:add", "mail", [{"to": "ann"}])
    assert arguments["options"] == {
        "delay": 300.0,
        "due": "2030-12-01T08:00:00+01:00",
        "deadline": "2031-01-01T00:00:00+00:00",
        "on_deadline": "alert",
        "unique": "u",
        "conflict": "replace",
        "guid": "g",
        "tracking_id": "t",
        "parent_id": 3,
        "routing": {"tenant": "acme"},
    }


def test_a_small_payload_goes_along_and_a_large_one_before(sent):
    assert add("mail", "--payload", "-", stdin=b"hello").exception is None
    assert sent[0][1]["payload"] == "aGVsbG8="
    sent.clear()

    assert add("mail", "--payload", "-", stdin=bytes(600_000)).exception is None

    assert [verb for verb, _ in sent] == ["message:payload"] * 3 + ["message:add"]
    assert {arguments["upload"] for _, arguments in sent} == {sent[-1][1]["upload"]}
    assert "payload" not in sent[-1][1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--conflict", "reject"], "--conflict goes with --unique"),
        (["--on-deadline", "alert"], "--on-deadline goes with --deadline"),
        (["--key", "k", "--count", "2"], "--key is for one message, not with --count or --from"),
        (["--guid", "g", "--from", "-"], "--guid is for one message, not with --count or --from"),
        (["{}", "--from", "-"], "arguments come from the command line or from a file, not from both"),
        (["--from", "-", "--payload", "-"], "standard input is for the arguments or for the payload, not for both"),
        (["{'a': 1}"], "the arguments are no JSON"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_sent(sent, words, said):
    error = add("mail", *words).exception

    assert isinstance(error, Usage) and said in error.message
    assert sent == []


def test_a_payload_over_the_limit_is_not_read_to_its_end(sent):
    error = add("mail", "--payload", "-", stdin=bytes(11_000_000)).exception

    assert "over the limit of 10,485,760 bytes" in error.message
    assert sent == []


@pytest.mark.parametrize(
    ("good", "said"),
    [
        (0, "line 2 is no JSON"),
        (1, "; 1 message before it is stored"),
        (2, "; 2 messages before it are stored"),
    ],
)
def test_a_line_that_cannot_be_read_says_how_many_are_stored(sent, tmp_path, good, said):
    """The good line before it is not sent: it waits for others to come along."""
    file = tmp_path / "f.jsonl"
    file.write_text(f'"{"x" * newmessages.PIECE}"\n' * (good + 1) + "{")

    error = add("mail", "--from", str(file)).exception

    assert isinstance(error, Usage) and said in error.message
    assert len(sent) == good


@pytest.mark.parametrize(
    ("form", "text", "said"),
    [
        (moment, "2030-12-01T08:00", "has no time zone"),
        (moment, "tomorrow", "is no moment such as"),
        (deadline, "2030-12-01", "has no time zone"),
        (deadline, "-5", "not a duration"),
        (duration, "nan", "not a duration"),
        (duration, "400d", "longer than 366 days"),
        (routing, '{"tenat": "a"}', "it takes an object of direction, destination"),
        (routing, '{"tenant": 1}', "$.tenant"),
    ],
)
def test_a_value_of_the_wrong_form_is_refused(form, text, said):
    with pytest.raises(click.BadParameter) as refused:
        form(text)

    assert said in refused.value.message


def test_a_deadline_is_a_duration_or_a_moment():
    moment_of_it = "2030-01-01T00:00:00+00:00"
    assert [deadline("90"), deadline("2h"), deadline("2030-01-01T00:00Z")] == [90.0, 7200.0, moment_of_it]


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", "1e999", "9223372036854775808", "9" * 5000])
def test_numbers_that_others_could_not_read_are_no_json(text):
    with pytest.raises(ValueError, match=r"no JSON|send it as text"):
        parsed(text)


def test_numbers_up_to_64_bits_are():
    assert parsed("[9223372036854775807, -9223372036854775808, 1e300]") == [2**63 - 1, -(2**63), 1e300]
