import tomllib
from typing import Literal, get_args, get_origin

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import asdict, replace

from bkd.supervisor.changes import HIDDEN, TAKES, Change, applicable, changes, rolled, table
from bkd.supervisor.config.faults import Faults
from bkd.supervisor.config.load import SECTIONS
from bkd.supervisor.config.reader import Reader
from bkd.supervisor.config.schema import Config, GroupSection
from bkd.supervisor.dispatcher import with_dispatcher

KINDS = {**SECTIONS, "workers": GroupSection}
FIELDS = [(name, field) for name, fields in TAKES.items() for field in fields]
SECRET = "hunter2"


def config(**groups):
    workers = groups or {"web": group("web")}
    sections = {name: kind() for name, kind in SECTIONS.items()}
    return Config(path="/srv/bkd.toml", base="/srv", workers=workers, **sections)


def in_use(section):
    """One in which this section is used: the store by messages."""
    return config(jobs=group("jobs", "messages", handlers=["a"])) if section == "store" else config()


def group(name, kind="web", **options):
    return GroupSection(name=name, kind=kind, **options)


def altered(old, **sections):
    """The configuration with other values: `app={"name": "b"}`."""
    return replace(old, **{name: replace(getattr(old, name), **values) for name, values in sections.items()})


def other(value, declared):
    """A value of the declared type that differs from this one."""
    bare = declared.__origin__ if hasattr(declared, "__metadata__") else declared
    if get_origin(bare) is Literal:
        return next(choice for choice in get_args(bare) if choice != value)
    added = {bool: lambda: not value, list: lambda: [*value, "x"], dict: lambda: {**value, "X": "1"}}
    return added.get(type(value), lambda: value + ("x" if isinstance(value, str) else 1))()


def with_other(old, name, field, *, of="web"):
    """The configuration with nothing but this field different, in the group `of` if it is one of a group."""
    declared = KINDS[name].__annotations__[field]
    if name != "workers":
        section = getattr(old, name)
        return altered(old, **{name: {field: other(getattr(section, field), declared)}})
    section = old.workers[of]
    section = replace(section, **{field: other(getattr(section, field), declared)})
    return replace(old, workers={**old.workers, of: section})


def only(old, new, counts=None):
    [change] = changes(old, new, counts or {})
    return change


def test_every_field_of_the_schema_has_a_class_and_nothing_else_has():
    by_header = {"workers": {"name"}}
    fields = {name: set(kind.__struct_fields__) - by_header.get(name, set()) for name, kind in KINDS.items()}

    assert {name: set(classes) for name, classes in TAKES.items()} == fields
    assert set(Config.__struct_fields__) == {"path", "base", *TAKES}
    assert {takes for classes in TAKES.values() for takes in classes.values()} == {"live", "roll", "restart"}


@pytest.mark.parametrize(
    ("takes", "keys"),
    [
        (
            "restart",
            "app.name app.host app.tag app.run_dir log.mode log.format bus.url bus.secret_file bus.unsigned store.url "
            "workers.kind",
        ),
        (
            "roll",
            "app.python app.orphan_timeout workers.app workers.target workers.command workers.bind workers.preload "
            "workers.ready workers.lame_duck workers.user workers.group workers.umask workers.env workers.cwd "
            "workers.handlers workers.mode workers.concurrency",
        ),
    ],
)
def test_all_is_live_but_these(takes, keys):
    assert [f"{name}.{field}" for name, field in FIELDS if TAKES[name][field] == takes] == keys.split()


def test_what_is_hidden_is_there():
    assert {field for kind in KINDS.values() for field in kind.__struct_fields__} >= HIDDEN


@pytest.mark.parametrize(("name", "field"), FIELDS)
def test_each_field_alone_is_one_change_of_its_class(name, field):
    old = in_use(name)
    new = with_other(old, name, field)

    change = only(old, new)

    key = f"workers.web.{field}" if name == "workers" else f"{name}.{field}"
    assert change.key.removesuffix(".X") == key
    assert change.takes == TAKES[name][field]
    assert change.group == ("web" if name == "workers" or change.takes == "roll" else "")
    assert change.old != change.new
    assert rolled([change]) == ({"web"} if change.takes == "roll" else set())


@pytest.mark.parametrize(("name", "field"), FIELDS)
def test_each_field_alone_is_applied_unless_it_takes_a_restart(name, field):
    old = in_use(name)
    new = with_other(old, name, field)

    assert applicable(old, new) == (old if TAKES[name][field] == "restart" else new)


def test_a_store_that_nobody_uses_yet_can_be_another_one():
    old = config()
    new = altered(old, store={"url": "sqlite:other.db"})

    assert only(old, new).takes == "live"
    assert applicable(old, new) == new


def test_the_group_that_comes_of_itself_is_no_change():
    old = config()
    new = with_dispatcher(config(web=group("web"), jobs=group("jobs", "messages", handlers=["a"])))

    assert [change.key for change in changes(old, new, {})] == ["workers.jobs"]
    assert set(applicable(old, new).workers) == {"dispatcher", "web", "jobs"}


@pytest.mark.parametrize(("name", "field"), [place for place in FIELDS if place[1] not in HIDDEN])
def test_what_is_shown_can_be_written_into_the_file(name, field):
    old = config()
    new = with_other(old, name, field)
    change = only(old, new)

    for text, source in ((change.old, old), (change.new, new)):
        section = source.workers["web"] if name == "workers" else getattr(source, name)
        written = tomllib.loads(f"value = {text}")["value"]
        read = Reader({}, Faults()).value(KINDS[name].__annotations__[field], written, (name, field))
        assert getattr(section, field) in (written, read)


def test_the_same_is_no_change():
    assert changes(config(), config(), {"web": 1}) == []
    assert table([]) == ""


@pytest.mark.parametrize(
    ("options", "key", "old", "new"),
    [
        ({"drain": 90.0}, "drain", '"25s"', '"1m30s"'),
        ({"drain": 0.25}, "drain", '"25s"', '"250ms"'),
        ({"max_memory": 512 << 20}, "max_memory", '"0"', '"512MB"'),
        ({"max_requests": 1000}, "max_requests", "0", "1000"),
        ({"preload": "false"}, "preload", '"auto"', "false"),
        ({"app": "shop:app"}, "app", '""', '"shop:app"'),
        ({"restart_at": ["04:00", "16:00"]}, "restart_at", "[]", '["04:00", "16:00"]'),
        ({"ready": 'log:"up"\\s\n\U000e0001'}, "ready", '""', '"log:\\"up\\"\\\\s\\u000a\\U000e0001"'),
    ],
)
def test_values_are_shown_as_in_the_file(options, key, old, new):
    change = only(config(), config(web=group("web", **options)))

    assert (change.key, change.old, change.new) == (f"workers.web.{key}", old, new)


def test_switches_are_words():
    change = only(config(), altered(config(), bus={"unsigned": True}))

    assert (change.old, change.new) == ("false", "true")


def test_a_long_value_is_cut_and_never_looks_unchanged():
    long = "/srv/" + "x" * 200
    change = only(config(web=group("web", cwd=long + "a")), config(web=group("web", cwd=long + "b")))

    assert len(change.old) == 60
    assert change.old.endswith("…")
    assert change.new == "changed"


def test_variables_are_told_one_by_one_without_their_values():
    old = config(web=group("web", env={"GONE": SECRET, "KEPT": SECRET, "OTHER": SECRET, "EMPTY": ""}))
    new = config(web=group("web", env={"KEPT": SECRET, "OTHER": SECRET + "x", "EMPTY": SECRET, "NEW": SECRET}))

    assert changes(old, new, {}) == [
        Change("workers.web.env.GONE", "***", "", "roll", "web"),
        Change("workers.web.env.OTHER", "***", "changed", "roll", "web"),
        Change("workers.web.env.EMPTY", '""', "***", "roll", "web"),
        Change("workers.web.env.NEW", "", "***", "roll", "web"),
    ]


def test_the_order_of_variables_is_no_change():
    old = config(web=group("web", env={"A": "1", "B": "2"}))

    assert changes(old, config(web=group("web", env={"B": "2", "A": "1"})), {}) == []


def test_a_variable_with_an_odd_name_stays_on_its_line():
    change = only(config(), config(web=group("web", env={"a.b\n": "1"})))

    assert change.key == 'workers.web.env."a.b\\n"'


def test_no_secret_is_shown():
    old = config(api=group("api", "command"))
    new = config(
        api=group("api", "command", command=["run", SECRET], env={"A": SECRET}, ready=f"http://me:{SECRET}/@127.0.0.1/")
    )
    new = altered(new, bus={"url": f"redis://:{SECRET}@h", "secret_file": SECRET}, store={"url": f"sqlite:{SECRET}"})

    for found in (changes(old, new, {}), changes(new, old, {})):
        assert len(found) == 6
        assert SECRET not in repr(found) + table(found)


def test_a_new_password_in_a_url_is_a_change():
    texts = [f"http://me:{word}@127.0.0.1/" for word in ("one", "two")]
    old, new = (config(web=group("web", ready=text)) for text in texts)

    assert only(old, new) == Change("workers.web.ready", '"http://…@127.0.0.1/"', "changed", "roll", "web")


def test_scaling_is_undone_by_the_file():
    assert only(config(), config(), {"web": 4}) == Change("workers.web.count", "4", "1", "live", "web")


def test_a_count_that_is_wanted_already_is_no_change():
    assert changes(config(), config(web=group("web", count=4)), {"web": 4}) == []


def test_without_a_word_on_counts_those_of_the_file_are_wanted():
    assert only(config(), config(web=group("web", count=4))).old == "1"


def test_groups_come_and_go_live():
    old, new = config(web=group("web"), old=group("old", "command")), config(web=group("web"), api=group("api"))

    assert changes(old, new, {"old": 3}) == [
        Change("workers.old", "kind command, count 3", "absent", "live", "old"),
        Change("workers.api", "absent", "kind web, count 1", "live", "api"),
    ]
    assert applicable(old, new).workers == new.workers
    assert rolled(changes(old, new, {})) == set()


def test_the_order_of_groups_is_no_change():
    web, api = group("web"), group("api")

    assert changes(config(web=web, api=api), config(api=api, web=web), {}) == []


def test_a_group_of_another_kind_stays_wholly_as_it_was():
    old = config(web=group("web", app="a:b", count=2))
    new = config(web=group("web", "python", target="c:d", drain=1.0))

    assert only(old, new, {"web": 5}) == Change("workers.web.kind", '"web"', '"python"', "restart", "web")
    assert applicable(old, new) == old


@pytest.mark.parametrize(("field", "value"), [("python", "/opt/bin/python"), ("orphan_timeout", 5.0)])
def test_what_forked_workers_run_in_rolls_every_group_that_is_no_command(field, value):
    old = config(web=group("web"), clock=group("clock", "python"), cache=group("cache", "command"))
    new = replace(old, workers={**old.workers, "api": group("api")})
    found = changes(old, altered(new, app={field: value}), {})

    assert rolled(found) == {"web", "clock"}
    assert [(c.key, c.takes) for c in found if c.group == "clock"] == [(f"app.{field}", "roll")]


def test_with_commands_alone_the_interpreter_rolls_nothing():
    old = config(cache=group("cache", "command"))

    assert only(old, altered(old, app={"python": "/p"})) == Change("app.python", '""', '"/p"', "live", "")


def test_the_interpreter_rolls_a_group_by_the_kind_it_runs_as():
    old, new = (
        config(web=group("web"), cache=group("cache", "command")),
        config(web=group("web", "command"), cache=group("cache")),
    )

    assert rolled(changes(old, altered(new, app={"python": "/p"}), {})) == {"web"}


def test_only_what_takes_a_restart_is_left():
    old = config()
    new = altered(
        config(web=group("web", count=3)),
        app={"name": "b", "python": "/p"},
        log={"mode": "files", "keep": 9},
        ping={"kill": 0.0},
    )

    kept = applicable(old, replace(new, path="/etc/bkd/bkd.toml", base="/etc/bkd"))

    assert kept == altered(new, app={"name": "app"}, log={"mode": "auto"})


def test_the_table_is_aligned_and_ordered_by_what_is_taken():
    found = [
        Change("app.name", '"a"', '"b"', "restart", ""),
        Change("app.python", '""', '"/p"', "roll", "web"),
        Change("app.python", '""', '"/p"', "roll", "api"),
        Change("workers.web.count", "2", "4", "live", "web"),
        Change("workers.web.env.DEBUG", "", "***", "roll", "web"),
        Change("workers.api", "kind web, count 4", "absent", "live", "api"),
    ]

    assert table(found).splitlines() == [
        "live     workers.web.count      2 -> 4",
        "live     workers.api            kind web, count 4 -> absent",
        'roll     app.python             "" -> "/p"   rolls web, api',
        "roll     workers.web.env.DEBUG  absent -> ***",
        'restart  app.name               "a" -> "b"   needs bkd stop and bkd start',
    ]


@st.composite
def configs(draw):
    """Configurations that differ from one another in a few fields and groups."""
    names = draw(st.lists(st.sampled_from(["web", "api", "cache"]), min_size=1, unique=True))
    result = config(**{name: group(name, "command" if name == "cache" else "web") for name in names})
    for name, field in draw(st.lists(st.sampled_from(FIELDS), max_size=6, unique=True)):
        result = with_other(result, name, field, of=draw(st.sampled_from(names)))
    return result


@given(configs(), configs())
def test_applying_brings_all_but_the_restarts(old, new):
    kept = applicable(old, new)
    found = changes(old, new, {})

    assert changes(old, kept, {}) == [change for change in found if change.takes != "restart"]
    left = changes(kept, new, {})
    assert sorted((c.key, c.old, c.new) for c in left) == sorted(
        (c.key, c.old, c.new) for c in found if c.takes == "restart"
    )
    assert applicable(old, kept) == kept
    assert applicable(kept, new) == kept


@given(configs(), configs())
def test_there_are_changes_exactly_when_something_differs(old, new):
    found = changes(old, new, {})

    assert (found == []) == (asdict(old) == asdict(new))
    assert len({(change.key, change.group) for change in found}) == len(found)
    assert len(table(found).splitlines()) == len({change.key for change in found})
    assert rolled(found) <= old.workers.keys() & new.workers.keys()
