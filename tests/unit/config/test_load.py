from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bkd.supervisor.config.faults import ConfigError
from bkd.supervisor.config.load import SECTIONS, for_run, load
from bkd.supervisor.config.processors import processors
from bkd.supervisor.config.schema import Config, GroupSection

EXAMPLE = Path(__file__).parents[3] / "etc" / "bkd.toml"
WEB = '[workers.web]\nkind = "web"\napp = "shop.web:app"\n'


@pytest.fixture
def read(tmp_path):
    def read(text, environ=None, *, hostname="h1"):
        folder = tmp_path / "shop"
        folder.mkdir(exist_ok=True)
        (folder / "bkd.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
        return load(str(folder / "bkd.toml"), environ or {}, hostname=hostname)

    return read


@pytest.fixture
def faults(read):
    def faults(text, environ=None):
        with pytest.raises(ConfigError) as caught:
            read(text, environ)
        return str(caught.value).splitlines()

    return faults


def test_a_short_file_gets_all_defaults(read, tmp_path):
    config = read(WEB)
    assert config.base == str(tmp_path / "shop")
    assert config.path == str(tmp_path / "shop" / "bkd.toml")
    assert (config.app.name, config.app.host, config.app.exit_when) == ("shop", "h1", "")
    web = config.workers["web"]
    assert (web.count, web.bind, web.restart) == (processors(), ["127.0.0.1:8000"], "always")
    assert (web.drain, web.term, web.lame_duck, web.start_timeout) == (25.0, 3.0, 2.0, 120.0)
    assert web.cwd == config.base


def test_each_kind_has_its_defaults(read):
    groups = read(
        '[workers.a]\nkind = "python"\ntarget = "a:b"\n'
        '[workers.b]\nkind = "command"\ncommand = ["sleep", "1"]\n'
        '[workers.c]\nkind = "messages"\nhandlers = ["a.b"]\n'
    ).workers
    assert [(g.count, g.restart, g.ready) for g in groups.values()] == [
        (1, "failure", ""),
        (1, "failure", "after:1s"),
        (processors(), "always", ""),
    ]


def test_the_example_says_the_defaults_and_leaves_nothing_out(monkeypatch):
    config = load(str(EXAMPLE), {}, hostname="h1")
    for name, kind in SECTIONS.items():
        defaults = {"app": {"name": "shop", "host": "h1"}}.get(name, {})
        assert getattr(config, name) == kind(**defaults)
    for group in config.workers.values():
        given = {"name", "kind", "app", "target", "command", "handlers", "count", "cwd", "bind", "restart", "ready"}
        bare = GroupSection(name=group.name, kind=group.kind)
        same = set(GroupSection.__struct_fields__) - given
        same -= {"max_surge", "max_unavailable"} if group.kind == "command" else set()
        assert {n: getattr(group, n) for n in same} == {n: getattr(bare, n) for n in same}
    text = EXAMPLE.read_text()
    options = {option for kind in [*SECTIONS.values(), GroupSection] for option in kind.__struct_fields__}
    assert {option for option in options if f"{option} = " not in text} == set()


@pytest.mark.parametrize(
    ("given", "found"),
    [("keys", "{base}/keys"), ("./etc/keys", "{base}/etc/keys"), ("../keys", "{base}/../keys"), ("/etc/k", "/etc/k")],
)
def test_the_keys_of_the_bus_lie_beside_the_file(read, given, found):
    config = read(f'{WEB}[bus]\nurl = "redis://h"\nsecret_file = "{given}"\n')
    assert config.bus.secret_file == found.format(base=config.base)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("run_dir", "run_dir"),
        ("", ""),
        ("127.0.0.1:9400", "127.0.0.1:9400"),
        ("[::1]:9400", "[::1]:9400"),
        ("0.0.0.0:9400", "0.0.0.0:9400"),
        ("unix:/run/m.sock", "unix:/run/m.sock"),
        ("unix:m.sock", "unix:{base}/m.sock"),
    ],
)
def test_metrics_are_served_where_it_is_written(read, given, found):
    config = read(f'{WEB}[metrics]\nbind = "{given}"\n')
    assert config.metrics.bind == found.format(base=config.base)


def test_values_are_in_seconds_and_bytes(read):
    config = read(WEB + 'max_memory = "512MB"\nterm = "250ms"\npreload = false\n[log]\nrotate = "0"\n')
    web = config.workers["web"]
    assert (web.max_memory, web.term, web.preload, config.log.rotate) == (512 << 20, 0.25, "false", 0)


def test_variables_fill_any_value(read):
    config = read(
        WEB
        + 'count = "${N:-3}"\nbind = ["${HOST}:80"]\nenv = { A = "${HOST}", B = "$${HOST}" }\n[bus]\nunsigned = "${U}"',
        {"HOST": "localhost", "U": "true"},
    )
    web = config.workers["web"]
    assert (web.count, web.bind, web.env) == (3, ["localhost:80"], {"A": "localhost", "B": "${HOST}"})
    assert config.bus.unsigned is True


@pytest.mark.parametrize(
    ("lines", "line"),
    [
        ('drain = "10 parsecs"', 'workers.web.drain: expected a duration such as 10s, found "10 parsecs"'),
        ("drain = 10", "workers.web.drain: expected a duration such as 10s, found 10"),
        ('drian = "1s"', 'workers.web.drian: expected a known key, perhaps drain, found "drian"'),
        ('name = "x"', "workers.web.name: expected a known key"),
        ('start_timeout = "0s"', 'workers.web.start_timeout: expected a duration above 0s such as 10s, found "0s"'),
        ("min_ready = -1", "workers.web.min_ready: expected a duration"),
        ("count = -1", 'workers.web.count: expected a whole number from 0 to 10000 or "auto", found -1'),
        ("count = true", "workers.web.count: expected a whole number"),
        ("count = 1.5", "found 1.5"),
        ("count = 2026-01-01", "found 2026-01-01"),
        (
            'command = ["x"]',
            "workers.web.command: expected no such key in a web group (it is for command), found a list",
        ),
        ('stop_signal = "TERM"', "workers.web.stop_signal: expected no such key in a web group"),
        ('ready = "notify"', "workers.web.ready: expected no such key in a web group"),
        ("bind = []", "workers.web.bind: expected at least one address"),
        ('bind = "127.0.0.1:1"', "workers.web.bind: expected a list of strings"),
        ('bind = [":1", ":1"]', "workers.web.bind[1]: expected an address that workers.web does not have"),
        ('bind = ["a"]', 'workers.web.bind[0]: expected host:port, [::1]:8000, :8000, unix:PATH or fd:NAME, found "a"'),
        (f'bind = ["unix:{"x" * 120}"]', "workers.web.bind[0]: expected a path of at most 107 bytes"),
        ('restart = "often"', 'workers.web.restart: expected one of "always", "failure", "never", found "often"'),
        ('preload = "maybe"', 'workers.web.preload: expected "auto", true or false'),
        ('restart_at = ["24:00"]', 'workers.web.restart_at[0]: expected a time of day such as 04:00, found "24:00"'),
        ('umask = "999"', 'workers.web.umask: expected an octal string such as 027, found "999"'),
        ('user = "no-such-user-here"', "workers.web.user: expected a user of this machine"),
        ('group = "no-such-group-here"', "workers.web.group: expected a group of this machine"),
        ('may = ["explode:web"]', "workers.web.may[0]: expected VERB or VERB:GROUP"),
        ("max_surge = 0", "workers.web.max_surge: expected at least 1 when max_unavailable is 0, found 0"),
        ('max_memory = "lots"', "workers.web.max_memory: expected a size such as 512MB"),
        ('cwd = "a\\u0000b"', "workers.web.cwd: expected a string without NUL"),
        ('cwd = "${NOPE}"', "workers.web.cwd: expected NOPE in the environment (or ${NOPE:-DEFAULT}), found nothing"),
        ('cwd = "${"', "workers.web.cwd: expected ${VAR} or ${VAR:-default}"),
        ("env = 1", "workers.web.env: expected a table of strings, found 1"),
        (
            '[ping]\nkill = "5s"',
            'ping.kill: expected at least 10s (500ms and ping.interval), or 0s for never, found "5s"',
        ),
        ('[ping]\ninterval = "100ms"\nkill = "200ms"', "ping.kill: expected at least 0.5s"),
        ('[ping]\ninterval = "0s"', "ping.interval: expected a duration above 0s"),
        ('[bus]\nurl = "redis://h"', "bus.secret_file: expected the file with the keys that sign commands"),
        ('[bus]\nurl = "amqp://h"', "bus.url: expected local:, redis://"),
        ('[metrics]\nbind = "9400"', 'metrics.bind: expected "run_dir", 127.0.0.1:9400, [::1]:9400, unix:PATH or ""'),
        ('[metrics]\nbind = ":9400"', "metrics.bind: expected"),
        ('[metrics]\nbind = "localhost:9400"', "metrics.bind: expected"),
        ('[metrics]\nbind = "127.0.0.1:0"', "metrics.bind: expected"),
        ('[metrics]\nbind = "fd:metrics"', "metrics.bind: expected"),
        (f'[metrics]\nbind = "unix:{"x" * 120}"', "metrics.bind: expected a path of at most 107 bytes"),
        ('[store]\nurl = "mysql://h"', "store.url: expected sqlite:PATH or postgresql://"),
        ('[control]\noperators = "no-such-group-here"', "control.operators: expected a unix group of this machine"),
        ('[app]\nname = "a/b"', 'app.name: expected a name of at most 64 letters, digits, -, _ and ., found "a/b"'),
        ('[app]\nexit_when = "x"', 'app.exit_when: expected one of "never", "failed", found "x"'),
        ('[worker.x]\nkind = "web"', 'worker: expected a known key, perhaps workers, found "worker"'),
        ('[workers.Web]\nkind = "web"\napp="a:b"\nbind=[":0"]', "workers.Web: expected a name of a-z"),
        ('[workers.server]\nkind = "web"\napp="a:b"\nbind=[":0"]', "workers.server: expected a name of a-z"),
        ('[workers.dispatcher]\nkind = "web"\napp="a:b"\nbind=[":0"]', "workers.dispatcher: expected a name of a-z"),
        ('[workers."a:b"]\nkind = "web"\napp="a:b"\nbind=[":0"]', 'workers."a:b": expected a name of a-z'),
        ('[workers.x]\napp="a:b"', "workers.x.kind: expected one of web, python, command, messages, found nothing"),
        (
            '[workers.x]\nkind="wob"',
            'workers.x.kind: expected one of "web", "python", "command", "messages", found "wob"',
        ),
        (
            '[workers.x]\nkind="dispatcher"',
            'workers.x.kind: expected one of "web", "python", "command", "messages", found',
        ),
        (
            '[workers.x]\nkind="web"\nbind=[":0"]',
            "workers.x.app: expected MODULE:NAME such as shop.web:app, found nothing",
        ),
        ('[workers.x]\nkind="python"', "workers.x.target: expected MODULE:NAME such as shop.clock:main, found nothing"),
        (
            '[workers.x]\nkind="python"\ntarget="a"',
            'workers.x.target: expected MODULE:NAME such as shop.web:app, found "a"',
        ),
        (
            '[workers.x]\nkind="python"\ntarget="a:b"\nready="after:1s"',
            'workers.x.ready: expected "notify", or nothing',
        ),
        ('[workers.x]\nkind="command"', "workers.x.command: expected a program such as"),
        ('[workers.x]\nkind="command"\ncommand=[""]', "workers.x.command: expected a program such as"),
        (
            '[workers.x]\nkind="command"\ncommand=["a"]\nready="log:("',
            "workers.x.ready: expected tcp:HOST:PORT, notify",
        ),
        (
            '[workers.x]\nkind="command"\ncommand=["a"]\nstop_signal="NOPE"',
            "workers.x.stop_signal: expected the name of a",
        ),
        ('[workers.x]\nkind="messages"', "workers.x.handlers: expected modules such as"),
        (
            '[workers.x]\nkind="messages"\nhandlers=["a b"]',
            "workers.x.handlers[0]: expected a module such as shop.tasks",
        ),
        (
            '[workers.x]\nkind="messages"\nhandlers=["a"]\nconcurrency=0',
            "workers.x.concurrency: expected a whole number from 1",
        ),
    ],
)
def test_one_fault_gives_one_line(faults, lines, line):
    found = faults(WEB + lines)
    assert len(found) == 1
    assert found[0].startswith("bkd.toml: ")
    assert line in found[0]


def test_two_groups_cannot_listen_on_the_same_address(faults):
    found = faults(WEB + '[workers.api]\nkind = "web"\napp = "a:b"\nbind = ["127.0.0.1:8000"]')
    assert found == [
        'bkd.toml: workers.api.bind[0]: expected an address that workers.web does not have, found "127.0.0.1:8000"'
    ]


def test_all_faults_are_reported_at_once(faults):
    found = faults('[app]\nnam = "x"\n[ping]\nkill = "x"\n[workers.web]\nkind = "web"\ndrain = 1\nterm = 2\n[wen]\n')
    assert [line.split(":")[1].strip() for line in found] == [
        "wen",
        "app.nam",
        "ping.kill",
        "workers.web.drain",
        "workers.web.term",
        "workers.web.app",
    ]


def test_nothing_to_run_is_a_fault(faults):
    assert faults("") == ["bkd.toml: workers: expected at least one [workers.NAME], found nothing"]
    assert faults("workers = 1") == ["bkd.toml: workers: expected a table, found 1"]
    assert faults("[workers]\nweb = 1") == ["bkd.toml: workers.web: expected a table, found 1"]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("a = 1\nb = = 2", "bkd.toml: line 2, column 5: expected TOML, found invalid value"),
        ("a = 1\nb", "bkd.toml: line 2, column 2: expected TOML, found expected '=' after a key"),
        ("a = [", "bkd.toml: line 1, column 6: expected TOML"),
        (b"a = 1\nb = '\xff'", "bkd.toml: line 2, column 6: expected text in UTF-8, found other bytes"),
        ("a = " + "9" * 5000, "bkd.toml: expected TOML, found a number that is too long"),
        ("a = " + "[" * 5000, "bkd.toml: expected TOML, found values nested too deeply"),
    ],
)
def test_faults_of_syntax_say_where(faults, content, line):
    assert faults(content)[0].startswith(line)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(ConfigError, match=f"^{path}: expected a file that can be read, found "):
            load(str(path), {}, hostname="h")


@pytest.mark.parametrize(
    "text",
    [
        'env = { KEY = ["hunter2"] }\n[workers.web.env.X]\nA = "hunter2"',
        "[workers.web.env]\nDB = 778899",
        '[bus]\nsecret_fil = "hunter2"\nsecret_file = 778899',
        '[bus]\nurl = "amqp://user:hunter2@host"',
        'term = "${PASSWORD}"',
        'password = "hunter2"\ntoken = 778899\n',
        "drain = ['hunter2']\nterm = { a = 'hunter2' }",
    ],
)
def test_secrets_stay_out_of_messages(faults, text):
    message = "\n".join(faults(WEB + text, {"PASSWORD": "hunter2"}))
    assert "hunter2" not in message
    assert "778899" not in message


def test_messages_stay_on_their_line(faults):
    found = faults(WEB + '"a\\nb" = 1\ndrain = "x\\ny\\u001b[0m"\nterm = "' + "x" * 500 + '"')
    assert len(found) == 3
    assert all(line.isprintable() and len(line) < 200 for line in found)


OVERRIDES = """
[when.tag.blue.workers.web]
count = 5
env = { B = "blue" }
[when.host.h1.workers.web]
count = 7
[when.host.h1.app]
tag = "blue"
[when.host.h2.workers.cache]
kind = "command"
command = ["${ONLY_THERE}"]
"""


def test_overrides_apply_where_they_are_meant(read):
    text = WEB + 'count = 2\nenv = { A = "a" }\n' + OVERRIDES
    by_host, by_tag, neither = (
        read(text, hostname="h1"),
        read(f'[app]\ntag = "${{TAG}}"\n{text}', {"TAG": "blue"}, hostname="h3"),
        read(text, hostname="h3"),
    )
    assert [c.workers["web"].count for c in (by_host, by_tag, neither)] == [7, 5, 2]
    assert [c.workers["web"].env for c in (by_host, neither)] == [{"A": "a", "B": "blue"}, {"A": "a"}]
    assert (by_host.app.tag, by_host.app.host) == ("blue", "h1")
    there = read(f'[app]\nhost = "h2"\n{text}', {"ONLY_THERE": "sleep"})
    assert there.workers["cache"].command == ["sleep"]


@pytest.mark.parametrize(
    ("lines", "line"),
    [
        ('[when.host.h1.workers.web]\ndrain = "x"', "when.host.h1.workers.web.drain: expected a duration"),
        ('[when.host.h9.workers.web]\ndrain = "x"', "when.host.h9.workers.web.drain: expected a duration"),
        (
            "[when.host.h9.workers.web]\ndrian = 1",
            "when.host.h9.workers.web.drian: expected a known key, perhaps drain",
        ),
        ("[when.host.h9.workers.web]\ncommand = []", "when.host.h9.workers.web.command: expected no such key in a web"),
        ("[when.host.h9.workers.All]\ncount = 1", "when.host.h9.workers.All: expected a name of a-z"),
        ('[when.tag.t.ping]\nkill = "x"', "when.tag.t.ping.kill: expected a duration"),
        ("[when.tag.t.pings]\nkill = 1", "when.tag.t.pings: expected a known key, perhaps ping"),
        ("[when.host.h1.pings]\nkill = 1", "when.host.h1.pings: expected a known key, perhaps ping"),
        ("[when.tags.t]\n", 'when.tags: expected a known key, perhaps tag, found "tags"'),
        ("[when]\nhost = 1", "when.host: expected a table, found 1"),
        ("[when.host]\nh1 = 1", "when.host.h1: expected a table, found 1"),
        ('[when.host.h1.app]\nhost = "h2"', "when.host.h1.app.host: expected host in [app], which decides"),
        ('[when.tag.t.app]\ntag = "u"', "when.tag.t.app.tag: expected tag in [app], which decides"),
        ("[when.host.h9]\nworkers = 1", "when.host.h9.workers: expected a table, found 1"),
        ("[when.host.h9.workers]\nweb = 1", "when.host.h9.workers.web: expected a table, found 1"),
        ("[when.host.h1.when.host.h1]", "when.host.h1.when: expected a known key"),
    ],
)
def test_faults_in_overrides_are_found_whoever_they_are_for(faults, lines, line):
    found = faults(WEB + lines)
    assert len(found) == 1
    assert found[0].startswith(f"bkd.toml: {line}")


def test_folders_are_absolute_and_links_are_kept(tmp_path, monkeypatch):
    (tmp_path / "r1").mkdir()
    (tmp_path / "current").symlink_to("r1")
    (tmp_path / "r1" / "bkd.toml").write_text(
        WEB + 'bind = ["unix:./a.sock"]\n[workers.x]\nkind="python"\ntarget="a:b"\ncwd="./a/../b/"'
    )
    monkeypatch.chdir(tmp_path / "current")
    config = load("bkd.toml", {"PWD": str(tmp_path / "current")}, hostname="h")
    assert config.base == str(tmp_path / "current")
    assert config.workers["web"].cwd == str(tmp_path / "current")
    assert config.workers["x"].cwd == str(tmp_path / "current" / "a" / ".." / "b")
    assert config.workers["web"].bind == [f"unix:{tmp_path}/current/./a.sock"]
    assert load("bkd.toml", {"PWD": "/"}, hostname="h").base == str(tmp_path / "r1")


def test_run_needs_no_file(monkeypatch, tmp_path):
    folder = tmp_path / "My Blog"
    folder.mkdir()
    monkeypatch.chdir(folder)
    config = for_run("shop.web:app", 4, ["127.0.0.1:0", "127.0.0.1:0"], {}, hostname="h")
    web = config.workers["web"]
    assert (web.app, web.count, web.bind, web.cwd) == ("shop.web:app", 4, ["127.0.0.1:0"] * 2, str(folder))
    assert (config.path, config.base, config.app.name, config.app.exit_when) == ("", str(folder), "shop", "failed")
    alone = for_run("main:app", None, [], {}, hostname="h")
    assert alone.app.name == "My-Blog"
    assert (alone.workers["web"].count, alone.workers["web"].bind) == (processors(), ["127.0.0.1:8000"])


def test_faults_of_run_name_the_arguments():
    with pytest.raises(ConfigError) as caught:
        for_run("shop", -1, ["x"], {}, hostname="h")
    assert [fault.key for fault in caught.value.faults] == ["APP", "--workers", "--bind"]
    assert str(caught.value).startswith('bkd run: APP: expected MODULE:NAME such as shop.web:app, found "shop"')


SCALARS = st.one_of(
    st.integers(),
    st.booleans(),
    st.floats(allow_nan=True),
    st.dates(),
    st.sampled_from(["web", "command", "10s", "0s", "a:b", ":80", "${A}", "${B:-x}", "${", "auto", "512MB", "unix:x"]),
    st.text(max_size=8),
)
KEYS = st.sampled_from(
    [
        "app",
        "ping",
        "bus",
        "workers",
        "when",
        "tag",
        "host",
        "web",
        "kind",
        "bind",
        "count",
        "env",
        "drain",
        "h1",
        "x",
        "name",
    ]
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)


def toml(value):
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(toml(item) for item in value) + "]"
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(c):08x}" for c in value) + '"'
    return str(value).lower()


def outcome(path, content):
    path.write_bytes(content)
    try:
        config = load(str(path), {"A": "1\n2"}, hostname="h1")
    except ConfigError as error:
        assert error.faults
        assert len(str(error).split("\n")) == len(error.faults)
    else:
        assert isinstance(config, Config)


LENIENT = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


@LENIENT
@given(st.dictionaries(KEYS, VALUES, max_size=5))
def test_any_tree_is_a_config_or_faults(tmp_path, tree):
    outcome(tmp_path / "bkd.toml", "\n".join(f"{key} = {toml(value)}" for key, value in tree.items()).encode())


@LENIENT
@given(st.dictionaries(st.sampled_from(GroupSection.__struct_fields__), VALUES, max_size=5), st.sampled_from("hn"))
def test_any_group_is_a_config_or_faults(tmp_path, group, where):
    header = "[workers.web]" if where == "h" else f"{WEB}[when.host.h9.workers.web]"
    outcome(tmp_path / "bkd.toml", "\n".join([header, *(f"{k} = {toml(v)}" for k, v in group.items())]).encode())


@LENIENT
@given(st.binary(max_size=60) | st.text("[]{}=\"'.#\n\\ aw1", max_size=40).map(str.encode))
def test_any_garbage_is_a_config_or_faults(tmp_path, content):
    outcome(tmp_path / "bkd.toml", content)


def test_deep_tables_are_faults_not_crashes(faults):
    assert faults("x" + ".x" * 3000 + " = 1")
    assert faults(f"{WEB}env{'.x' * 3000} = 1\n[when.host.h1{'.x' * 3000}]")


@pytest.mark.parametrize("number", [0, 10_001, 10**9])
def test_concurrency_has_its_bounds(faults, number):
    [line] = faults(f'[workers.a]\nkind = "messages"\nhandlers = ["a.b"]\nconcurrency = {number}\n')
    assert line == f"bkd.toml: workers.a.concurrency: expected a whole number from 1 to 10000, found {number}"
