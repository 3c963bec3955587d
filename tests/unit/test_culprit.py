"""Which frame is to blame, for stacks as real applications have them."""

import pytest

import bkd.supervisor.forensics.culprit as module
from bkd.ipc.stacks import Frame, Stacks, TaskStack, ThreadStack
from bkd.supervisor.forensics.culprit import culprit, is_own, library, of_stacks, place, rests, shown, with_text

CWD = "/srv/shop"
LIB = "/usr/lib/python3.11"
SITE = "/srv/shop/.venv/lib/python3.11/site-packages"

APP = Frame("/srv/shop/app.py", 31, "block", "time.sleep(600)")
VIEW = Frame("/srv/shop/views/pay.py", 12, "pay")
LOCK = Frame(f"{LIB}/threading.py", 324, "wait")
RECV = Frame(f"{LIB}/socket.py", 718, "readinto")
REQUESTS = Frame(f"{SITE}/requests/sessions.py", 703, "send")
STARLETTE = Frame(f"{SITE}/starlette/routing.py", 73, "app")
RUN_ASGI = Frame(f"{SITE}/uvicorn/protocols/http/httptools_impl.py", 409, "run_asgi")
HANDLE = Frame(f"{LIB}/asyncio/events.py", 80, "_run")
SELECT = Frame(f"{LIB}/selectors.py", 468, "select")
RUNNER = Frame(f"{LIB}/asyncio/runners.py", 118, "run")
POOL = Frame(f"{LIB}/concurrent/futures/thread.py", 58, "run")
POOL_WAITS = Frame(f"{LIB}/concurrent/futures/thread.py", 81, "_worker")
BKD = Frame(module.__file__.replace("culprit.py", "master.py"), 7, "run")
ENTRY = Frame("<string>", 1, "<module>")


def thread(*frames, name="T", main=False):
    return ThreadStack(name, list(frames), main=main)


IDLE_MAIN = thread(SELECT, HANDLE, RUNNER, BKD, ENTRY, name="MainThread", main=True)


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        ([APP, STARLETTE, HANDLE, ENTRY], APP),
        ([LOCK, APP, VIEW, STARLETTE], APP),
        ([RECV, REQUESTS, VIEW, RUN_ASGI], VIEW),
        ([RECV, REQUESTS, STARLETTE, RUN_ASGI], REQUESTS),
        ([LOCK, STARLETTE, RUN_ASGI, BKD], LOCK),
        ([ENTRY], ENTRY),
        ([Frame("<frozen importlib._bootstrap>", 241, "_call"), APP], APP),
        ([Frame("uvloop/loop.pyx", 1517, "run"), VIEW], VIEW),
        ([Frame("asyncpg/protocol.pyx", 3, "query"), STARLETTE], Frame("asyncpg/protocol.pyx", 3, "query")),
        ([Frame("/opt/shared/lib/pay.py", 4, "pay"), STARLETTE], Frame("/opt/shared/lib/pay.py", 4, "pay")),
        ([Frame("shop/app.py", 4, "pay"), STARLETTE], Frame("shop/app.py", 4, "pay")),
        ([], None),
    ],
)
def test_the_innermost_frame_of_the_application_is_to_blame(frames, expected):
    assert culprit(frames, CWD) == expected


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("/srv/shop/app.py", ""),
        (f"{SITE}/uvicorn/server.py", "uvicorn"),
        (f"{SITE}/six.py", "six"),
        ("/usr/lib/python3/dist-packages/yaml/__init__.py", "yaml"),
        (f"{LIB}/threading.py", "threading"),
        (f"{LIB}/asyncio/events.py", "asyncio"),
        ("/usr/lib64/python3.12/json/decoder.py", "json"),
        ("<frozen importlib._bootstrap>", "importlib"),
        ("<string>", "bkd"),
        ("<attrs generated init shop.Cart>", "attrs"),
        (BKD.file, "bkd"),
        ("uvloop/loop.pyx", "uvloop"),
        ("app.py", ""),
        ("", ""),
    ],
)
def test_files_have_a_package(file, expected):
    assert library(file, CWD) == expected


def test_an_application_may_itself_be_installed():
    home = f"{LIB}/site-packages/shop"
    assert is_own(Frame(f"{home}/app.py", 3, "f"), home)
    assert not is_own(Frame(f"{LIB}/site-packages/uvicorn/server.py", 3, "f"), home)
    assert culprit([LOCK, Frame(f"{SITE}/shop/app.py", 3, "f"), STARLETTE], CWD).function == "f"


def test_without_a_folder_everything_that_is_no_library_is_own():
    assert is_own(APP, "")
    assert not is_own(STARLETTE, "")
    assert not is_own(ENTRY, "")


def test_folders_are_compared_as_folders():
    assert not is_own(Frame("/srv/shopping/app.py", 3, "f"), CWD)
    assert not is_own(Frame("/srv/shop/../other/app.py", 3, "f"), CWD)
    assert is_own(Frame("/srv/shop/./web/../app.py", 3, "f"), f"{CWD}/")
    assert is_own(APP, "/")


def test_a_main_thread_that_does_something_is_to_blame():
    stacks = Stacks([thread(VIEW, POOL), thread(LOCK, APP, STARLETTE, HANDLE, RUNNER, main=True)])
    assert of_stacks(stacks, CWD) == APP
    busy_library = Stacks([thread(REQUESTS, STARLETTE, RUNNER, main=True), thread(VIEW, POOL)])
    assert of_stacks(busy_library, CWD) == REQUESTS


def test_a_main_thread_that_waits_in_its_loop_is_not():
    wsgi = thread(RECV, REQUESTS, VIEW, POOL, name="ThreadPoolExecutor-0_1")
    resting = thread(POOL_WAITS, name="ThreadPoolExecutor-0_0")
    assert of_stacks(Stacks([IDLE_MAIN, resting, wsgi]), CWD) == VIEW
    own_main = thread(SELECT, RUNNER, APP, main=True)
    assert of_stacks(Stacks([own_main, wsgi]), CWD) == VIEW


def test_a_thread_in_a_lock_or_in_own_code_goes_before_one_that_computes_elsewhere():
    computes = thread(REQUESTS, APP, POOL)
    waits = thread(LOCK, VIEW, POOL)
    assert of_stacks(Stacks([IDLE_MAIN, computes, waits]), CWD) == VIEW


def test_tasks_of_requests_go_before_others_and_before_threads_of_the_application_itself():
    other = TaskStack("Task-2", [APP, HANDLE])
    request = TaskStack("Task-9", [Frame(f"{LIB}/asyncio/locks.py", 213, "wait"), VIEW, STARLETTE, RUN_ASGI])
    own = thread(LOCK, APP, name="refresher")
    assert of_stacks(Stacks([IDLE_MAIN, own], tasks=[other, request]), CWD) == VIEW
    assert of_stacks(Stacks([IDLE_MAIN, own]), CWD) == APP
    assert of_stacks(Stacks([IDLE_MAIN], tasks=[other]), CWD) == APP


def test_a_lifespan_is_to_blame_as_long_as_it_starts():
    server = Frame(f"{SITE}/uvicorn/lifespan/on.py", 86, "main")
    starts = TaskStack("Task-2", [APP, server])
    lives = TaskStack("Task-2", [Frame(f"{SITE}/uvicorn/lifespan/on.py", 140, "receive"), APP, server])
    assert of_stacks(Stacks([IDLE_MAIN], tasks=[starts]), CWD) == APP
    assert of_stacks(Stacks([IDLE_MAIN], tasks=[lives]), CWD) is None


def test_a_request_in_a_library_names_the_library():
    wsgi = thread(RECV, REQUESTS, POOL)
    assert of_stacks(Stacks([IDLE_MAIN, thread(POOL_WAITS), wsgi]), CWD) == REQUESTS


def test_nobody_is_to_blame_where_everybody_waits_for_work():
    resting = Stacks([IDLE_MAIN, thread(POOL_WAITS), thread(LOCK, BKD)], tasks=[TaskStack("Task-1", [BKD])])
    assert of_stacks(resting, CWD) is None
    assert rests(resting, CWD)
    assert of_stacks(Stacks(), CWD) is None
    assert not rests(Stacks(), CWD)


def test_without_a_main_thread_something_is_named():
    assert of_stacks(Stacks([thread(LOCK)]), CWD) == LOCK
    assert of_stacks(Stacks([thread(main=True), thread(VIEW)]), CWD) == VIEW


def test_a_frame_is_shown_short_but_not_ambiguous():
    assert shown(APP, CWD) == "app.py:31 in block: time.sleep(600)"
    assert shown(VIEW, CWD) == "views/pay.py:12 in pay"
    assert shown(APP, "/opt") == "/srv/shop/app.py:31 in block: time.sleep(600)"
    assert place(STARLETTE, CWD) == "starlette/routing.py:73"
    assert place(LOCK, CWD) == "threading.py:324"
    assert place(BKD, CWD) == "bkd/supervisor/master.py:7"
    assert shown(Frame("/srv/shop/app.py", 1, "f", "x" * 999), CWD).endswith("x…")


def test_lines_of_source_are_read_for_files_alone():
    asked = []

    def read(file, line):
        asked.append((file, line))
        return "pay()"

    assert with_text([APP, ENTRY, VIEW], read) == [APP, ENTRY, Frame(VIEW.file, 12, "pay", "pay()")]
    assert asked == [(VIEW.file, 12)]
