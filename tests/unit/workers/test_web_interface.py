"""The application is found by its name and told apart by looking."""

import functools
import os
import threading

import pytest

from bkd.ipc.message import WebWork
from bkd.workers.web import AppError, prepare
from bkd.workers.web.interface import Interface, find, look, strict

SOURCE = """
import functools

async def app(scope, receive, send): ...
def wsgi(environ, start_response): ...
def create(): return app
def needy(settings): return app
async def slow(): return app
class Shop:
    api = app
shop = Shop()
number = 7
"""


@pytest.fixture
def shop(tmp_path, monkeypatch):
    name = f"shop_{os.urandom(4).hex()}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    (tmp_path / f"{name}_broken.py").write_text("import module_that_is_nowhere")
    monkeypatch.syspath_prepend(tmp_path)
    return name


async def asgi3(scope, receive, send): ...
def plain_asgi3(scope, receive, send): ...
def asgi2(scope): ...
def wsgi(environ, start_response): ...


def careful(inner):
    @functools.wraps(inner)
    def outer(*args, **kwargs):
        return inner(*args, **kwargs)

    return outer


async def anything(*args): ...
def open_wsgi(environ, *more): ...
def open_asgi(scope, *more): ...


class Asgi3:
    async def __call__(self, scope, receive, send): ...
    async def method(self, scope, receive, send): ...


class Asgi2:
    def __init__(self, scope): ...
    async def __call__(self, receive, send): ...


class Awaitable:
    def __init__(self, scope, receive, send): ...
    def __await__(self): ...


class Wsgi:
    def __call__(self, environ, start_response, exc_info=None): ...


class WsgiClass:
    def __init__(self, environ, start_response): ...
    def __iter__(self): ...


@pytest.mark.parametrize(
    ("app", "interface"),
    [
        (asgi3, Interface.ASGI3),
        (plain_asgi3, Interface.ASGI3),
        (asgi2, Interface.ASGI2),
        (wsgi, Interface.WSGI),
        (careful(asgi3), Interface.ASGI3),
        (careful(wsgi), Interface.WSGI),
        (anything, Interface.ASGI3),
        (open_wsgi, Interface.WSGI),
        (open_asgi, Interface.ASGI3),
        (Asgi3(), Interface.ASGI3),
        (Asgi3().method, Interface.ASGI3),
        (Asgi2, Interface.ASGI2),
        (Awaitable, Interface.ASGI3),
        (Wsgi(), Interface.WSGI),
        (WsgiClass, Interface.WSGI),
        (functools.partial(lambda settings, environ, start_response: None, {}), Interface.WSGI),
        (functools.partial(lambda settings, scope, receive, send: None, {}), Interface.ASGI3),
    ],
)
def test_the_interface_is_seen(app, interface):
    assert look(app, "shop:app") is interface


@pytest.mark.parametrize(
    ("app", "hint"),
    [
        (7, "int is not an application"),
        (lambda: None, r"if it makes one write shop:app\(\)"),
        (lambda *args: None, "cannot tell ASGI from WSGI"),
        (lambda a, b, c, d: None, "cannot tell ASGI from WSGI"),
    ],
)
def test_what_is_no_application_is_said(app, hint):
    with pytest.raises(AppError, match=hint):
        look(app, "shop:app")


def test_names_lead_to_attributes_and_factories(shop):
    app = find(f"{shop}:app")
    assert find(f"{shop}:create()") is app
    assert find(f"{shop}:shop.api").__func__ is app


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("{}", 'write it as "module:attribute"'),
        ("{}:", 'write it as "module:attribute"'),
        ("{}:create(1)", 'write it as "module:attribute"'),
        ("{}:ap", "has no attribute 'ap'; did you mean 'app'?"),
        ("{}:shop.apy", "has no attribute 'apy'; did you mean 'api'?"),
        ("{}x:app", "no module named"),
        ("{}:number()", "int cannot be called; leave the"),
        ("{}:needy()", "the factory needs arguments .settings."),
        ("{}:slow()", "an async function cannot be a factory"),
    ],
)
def test_names_that_lead_nowhere_say_what_to_change(shop, name, hint):
    with pytest.raises(AppError, match=hint) as raised:
        find(name.format(shop))
    assert "\n" not in str(raised.value)


def test_what_the_application_raises_passes_through(shop):
    with pytest.raises(ModuleNotFoundError, match="module_that_is_nowhere"):
        find(f"{shop}_broken:app")


def test_only_applications_that_take_anything_are_wrapped():
    assert strict(asgi3, Interface.ASGI3) is asgi3
    with pytest.raises(TypeError):
        strict(anything, Interface.ASGI3)()


@pytest.mark.parametrize("attribute", ["app", "wsgi"])
def test_preparing_starts_nothing_that_a_fork_would_break(shop, attribute):
    prepare(WebWork(app=f"{shop}:app"))  # imports what has to be imported
    threads, descriptors = threading.active_count(), os.listdir("/proc/self/fd")

    web = prepare(WebWork(app=f"{shop}:{attribute}"))

    assert web.config.loaded
    assert (threading.active_count(), os.listdir("/proc/self/fd")) == (threads, descriptors)
