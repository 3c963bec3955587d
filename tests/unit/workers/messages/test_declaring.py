"""How handlers are declared, and what is said of declarations that cannot be."""

import functools
import importlib.util

import pytest

from bkd.ipc.durable import policy
from bkd.ipc.durable.policy import KindPolicy
from bkd.workers.messages.context import Context
from bkd.workers.messages.declaration import Declaration, HandlerError, Terms
from bkd.workers.messages.handlers import Handlers, handler
from bkd.workers.messages.retrying import Calendar, Exponential, Fixed


async def function(args: dict):
    pass


def declared(function=function, **terms):
    return Declaration("invoice.send", function, Terms(**terms))


def test_a_kind_promises_what_is_common_if_nothing_is_said():
    assert declared().policy == KindPolicy("invoice.send")


def test_durations_are_said_as_text_or_numbers():
    terms = {"timeout": "30s", "grace": 1, "keep": None, "keep_dead": "1d12h", "notify": "ops@example.org"}
    found = declared(stages=["send", "apply"], lock=lambda args: None, **terms).policy

    assert (found.stages, found.timeout, found.grace, found.locks) == (("send", "apply"), 30.0, 1.0, True)
    assert (found.keep, found.keep_dead, found.notify) == (-1.0, 129_600.0, "ops@example.org")


@pytest.mark.parametrize(
    ("retry", "schedule", "attempts"),
    [
        (None, policy.Exponential(), 5),
        (Exponential(first="2s", cap="1h", max_attempts=7), policy.Exponential(2.0, 3600.0), 7),
        (Fixed("1m", max_attempts=1), policy.Fixed(60.0), 1),
        (Calendar(2, "month"), policy.Calendar(2, "month"), 5),
    ],
)
def test_ways_to_retry(retry, schedule, attempts):
    found = declared(retry=retry).policy

    assert (found.schedule, found.max_attempts) == (schedule, attempts)


def test_attempts_can_be_said_in_either_place():
    assert declared(max_attempts=3).policy.max_attempts == 3
    assert declared(max_attempts=3, retry=Fixed(1)).policy.max_attempts == 3


@pytest.mark.parametrize(
    ("terms", "text"),
    [
        ({"timeout": "30x"}, "timeout: '30x' is no duration: say it like \"30s\", or 30"),
        ({"timeout": -1}, "timeout: -1 is no duration"),
        ({"grace": None}, "grace: None is no duration"),
        ({"keep": "ever"}, "keep: 'ever' is no duration"),
        ({"retry": 5}, "retry: 5 is none of Exponential(…), Fixed(…), Calendar(…)"),
        ({"retry": Exponential(first=0)}, "retry: first: 0 is no time at all"),
        ({"retry": Exponential(first="1h", cap="1m")}, "retry: cap: '1m' is less than first: '1h'"),
        ({"retry": Exponential(factor="2")}, "retry: '<=' not supported"),
        ({"retry": Exponential(factor=0.5)}, "retry: factor: 0.5 is not between"),
        ({"retry": Exponential(jitter=2)}, "retry: jitter: 2 is not between 0 and 1"),
        ({"retry": Fixed("0s")}, "retry: every: '0s' is no time at all"),
        ({"retry": Calendar(unit="year")}, "retry: unit: 'year' is none of second,"),
        ({"retry": Calendar(0)}, "retry: step: 0 is no number from 1"),
        ({"max_attempts": 0}, "max_attempts: 0 is no number from 1 to 100000"),
        ({"max_attempts": True}, "max_attempts: True is no number"),
        ({"max_attempts": 3, "retry": Fixed(1, max_attempts=4)}, "max_attempts: 3 here, but 4 in retry"),
        ({"max_crashes": 0}, "max_crashes: 0 is no number from 1"),
        ({"max_running": -1}, "max_running: -1 is no number from 0"),
        ({"stages": "send"}, "stages: 'send' are no names"),
        ({"stages": 5}, "stages: 5 are no names"),
        ({"stages": ()}, "stages: () are no names"),
        ({"stages": ("a", "a")}, "stages: 1 to 100 different names"),
        ({"lock": "invoice"}, "lock: give a plain function"),
        ({"lock": function}, "lock: give a plain function"),
        ({"notify": 7}, "notify: 7 is no text"),
        ({"mode": "alone"}, 'mode: \'alone\' is neither "shared" nor "exclusive"'),
        ({"classify": 7}, "classify: 7 is no table"),
        ({"classify": {ValueError: "bad"}}, "classify: 'bad' is none of retryable, final"),
        ({"classify": {"ValueError": "final"}}, "classify: 'ValueError' is no type of exception"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(terms, text):
    with pytest.raises(HandlerError) as error:
        declared(**terms)

    said = str(error.value)
    assert said.startswith('handler "invoice.send" (')
    assert f"{function.__qualname__}, line {function.__code__.co_firstlineno}): {text}" in said
    assert "\n" not in said


def positional(a, /):
    pass


def many(*args):
    pass


def named(**kwargs):
    pass


def unreadable(connection: Context, other: "Context"):
    pass


def custom(a: Handlers):
    pass


def unknown(a: "Missing"):  # noqa: F821 - this is what is tested
    pass


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (positional, "a can only be given by position"),
        (many, "it takes any number of args"),
        (named, "it takes any number of kwargs"),
        (unreadable, "connection and other are both the context"),
        (custom, "a: Handlers cannot be read from JSON"),
        (unknown, "its annotations name Missing, which is not defined"),
    ],
)
def test_functions_that_cannot_be_called_with_arguments_of_a_message(function, text):
    with pytest.raises(HandlerError, match=text):
        declared(function)


@pytest.mark.parametrize("kind", ["", "a b", "x" * 101, "a\n", 7, None])
def test_names_of_kinds(kind):
    with pytest.raises(HandlerError, match="a kind is 1 to 100"):
        Declaration(kind, function, Terms())


def test_a_decorator_without_a_kind_says_so():
    with pytest.raises(HandlerError, match="handler needs the name of a kind"):

        @handler
        async def forgotten():
            pass


def test_a_decorated_function_stays_what_it_was():
    @handler("test.decorated")
    def doubled(number: int):
        return number * 2

    assert (doubled(4), doubled.kind) == (8, "test.decorated")


def test_a_kind_has_one_handler():
    handlers = Handlers()
    handlers.add(declared())
    with pytest.raises(HandlerError, match=r'"invoice.send" is declared twice: .*function.* and .*lambda'):
        handlers.add(declared(lambda args: None))

    assert handlers.get("invoice.send").function is function


def test_the_same_code_may_be_imported_twice(tmp_path):
    """As a script and as a module, or reloaded."""
    (tmp_path / "jobs.py").write_text("def job():\n    pass\n")
    handlers = Handlers()
    for name in ("jobs", "__main__"):
        spec = importlib.util.spec_from_file_location(name, tmp_path / "jobs.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        handlers.add(declared(module.job))

    assert handlers.get("invoice.send").function is module.job


def test_modes():
    handlers = Handlers()
    for kind, mode in (("any", ""), ("one", "exclusive"), ("many", "shared")):
        handlers.add(Declaration(kind, function, Terms(mode=mode)))

    assert set(handlers.of("shared")) == {"any", "many"}
    assert set(handlers.of("exclusive")) == {"any", "one"}


def test_wrapped_functions_are_what_they_wrap():
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)

    found = declared(wrapper)
    assert found.is_async
    assert found.read(b'{"a":1}') == {"a": 1}


def test_a_lock_is_a_text_or_none():
    assert declared(lock=lambda args: "invoice:7").locks({}) == "invoice:7"
    assert declared(lock=lambda args: None).locks({}) == ""
    assert declared().locks({}) == ""
    with pytest.raises(TypeError, match="lock= gave a int"):
        declared(lock=lambda args: 7).locks({})
