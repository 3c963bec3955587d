"""Which frame is to blame, for stacks as real applications have them."""

import pytest

import bkd.supervisor.forensics.culprit as module
import bkd.workers.web.web as workers_web
from bkd.ipc.stacks import Frame, OpenWork, Stacks, TaskStack, ThreadStack
from bkd.supervisor.forensics.culprit import (
    Home,
    culprit,
    is_own,
    library,
    of_hung,
    of_stacks,
    of_work,
    place,
    rests,
    shown,
    with_text,
)

CWD = "/srv/shop"
HOME = Home(CWD)
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
BKD = Frame(module.__file__.replace("forensics/culprit.py", "master.py"), 7, "run")
WEB = Frame(workers_web.__file__, 74, "serve")
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
    assert is_own(Frame(f"{home}/app.py", 3, "f"), Home(home))
    assert not is_own(Frame(f"{LIB}/site-packages/uvicorn/server.py", 3, "f"), Home(home))
    assert culprit([LOCK, Frame(f"{SITE}/shop/app.py", 3, "f"), STARLETTE], CWD).function == "f"


def test_without_a_folder_everything_that_is_no_library_is_own():
    assert is_own(APP, Home(""))
    assert not is_own(STARLETTE, Home(""))
    assert not is_own(ENTRY, Home(""))


def test_folders_are_compared_as_folders():
    assert not is_own(Frame("/srv/shopping/app.py", 3, "f"), HOME)
    assert not is_own(Frame("/srv/shop/../other/app.py", 3, "f"), HOME)
    assert is_own(Frame("/srv/shop/./web/../app.py", 3, "f"), Home(f"{CWD}/"))
    assert is_own(APP, Home("/"))


def test_a_main_thread_that_does_something_is_to_blame():
    stacks = Stacks([thread(VIEW, POOL), thread(LOCK, APP, STARLETTE, HANDLE, RUNNER, main=True)])
    assert of_stacks(stacks, HOME) == APP
    busy_library = Stacks([thread(REQUESTS, STARLETTE, RUNNER, main=True), thread(VIEW, POOL)])
    assert of_stacks(busy_library, HOME) == REQUESTS


def test_a_main_thread_that_waits_in_its_loop_is_not():
    wsgi = thread(RECV, REQUESTS, VIEW, POOL, name="ThreadPoolExecutor-0_1")
    resting = thread(POOL_WAITS, name="ThreadPoolExecutor-0_0")
    assert of_stacks(Stacks([IDLE_MAIN, resting, wsgi]), HOME) == VIEW
    own_main = thread(SELECT, RUNNER, APP, main=True)
    assert of_stacks(Stacks([own_main, wsgi]), HOME) == VIEW


def test_a_thread_in_a_lock_or_in_own_code_goes_before_one_that_computes_elsewhere():
    computes = thread(REQUESTS, APP, POOL)
    waits = thread(LOCK, VIEW, POOL)
    assert of_stacks(Stacks([IDLE_MAIN, computes, waits]), HOME) == VIEW


def test_tasks_of_requests_go_before_others_and_before_threads_of_the_application_itself():
    other = TaskStack("Task-2", [APP, HANDLE])
    request = TaskStack("Task-9", [Frame(f"{LIB}/asyncio/locks.py", 213, "wait"), VIEW, STARLETTE, RUN_ASGI])
    own = thread(LOCK, APP, name="refresher")
    assert of_stacks(Stacks([IDLE_MAIN, own], tasks=[other, request]), HOME) == VIEW


BACKGROUND = [
    Stacks([IDLE_MAIN, thread(LOCK, APP, name="refresher")]),
    Stacks([IDLE_MAIN], tasks=[TaskStack("Task-2", [APP, HANDLE], "sleep")]),
]


@pytest.mark.parametrize("stacks", BACKGROUND)
def test_what_waits_in_the_background_is_to_blame_for_a_hang_alone(stacks):
    assert of_stacks(stacks, HOME) is None
    assert of_hung(stacks, HOME) == APP


def test_a_background_thread_that_has_the_cpu_is():
    busy = ThreadStack("report", [VIEW], tid=7)
    stacks = Stacks([IDLE_MAIN, thread(LOCK, APP), busy])
    assert of_stacks(stacks, HOME, {7}) == VIEW
    assert of_hung(stacks, HOME, {7}) == VIEW
    assert of_stacks(stacks, HOME, {8}) is None


INSTALLED = Frame(f"{SITE}/myshop/orders.py", 31, "total")
DRIVER = Frame(f"{SITE}/psycopg2/extras.py", 146, "execute")
ELSEWHERE = Frame("/opt/myshop/orders.py", 31, "total")
MODULE = Frame("/opt/code/myshop.py", 31, "total")


@pytest.mark.parametrize("frame", [INSTALLED, ELSEWHERE, MODULE])
def test_an_application_that_lies_elsewhere_is_known_by_its_name(frame):
    home = Home.of("/srv", "myshop.main:app")
    stacks = Stacks([thread(RECV, DRIVER, frame, STARLETTE, RUN_ASGI, main=True)])
    assert is_own(frame, home)
    assert of_stacks(stacks, home) == frame
    assert of_stacks(stacks, Home("/srv")) == DRIVER


def test_no_library_and_not_bkd_becomes_own_by_its_name():
    assert not is_own(BKD, Home(CWD, "bkd"))
    assert not is_own(LOCK, Home(CWD, "threading"))
    assert not is_own(STARLETTE, Home(CWD, "myshop"))


@pytest.mark.parametrize(
    ("reference", "package"),
    [("myshop.main:app", "myshop"), ("main:app", "main"), ("myshop.tasks", "myshop"), ("", ""), (":app", "")],
)
def test_the_package_of_a_reference(reference, package):
    assert Home.of(CWD, reference) == (CWD, package)


def test_a_lifespan_is_to_blame_as_long_as_it_starts():
    server = Frame(f"{SITE}/uvicorn/lifespan/on.py", 86, "main")
    starts = TaskStack("Task-2", [APP, server])
    lives = TaskStack("Task-2", [Frame(f"{SITE}/uvicorn/lifespan/on.py", 140, "receive"), APP, server])
    assert of_stacks(Stacks([IDLE_MAIN], tasks=[starts]), HOME) == APP
    assert of_stacks(Stacks([IDLE_MAIN], tasks=[lives]), HOME) is None


def test_a_request_in_a_library_names_the_library():
    wsgi = thread(RECV, REQUESTS, POOL)
    assert of_stacks(Stacks([IDLE_MAIN, thread(POOL_WAITS), wsgi]), HOME) == REQUESTS


def test_nobody_is_to_blame_where_everybody_waits_for_work():
    resting = Stacks([IDLE_MAIN, thread(POOL_WAITS), thread(LOCK, BKD)], tasks=[TaskStack("Task-1", [BKD])])
    assert of_stacks(resting, HOME) is None
    assert rests(resting, HOME)
    assert of_stacks(Stacks(), HOME) is None
    assert not rests(Stacks(), HOME)


def test_without_a_main_thread_something_is_named():
    assert of_stacks(Stacks([thread(LOCK)]), HOME) == LOCK
    assert of_stacks(Stacks([thread(main=True), thread(VIEW)]), HOME) == VIEW


def test_a_frame_is_shown_short_but_not_ambiguous():
    assert shown(APP, CWD) == "app.py:31 in block: time.sleep(600)"
    assert shown(VIEW, CWD) == "views/pay.py:12 in pay"
    assert shown(APP, "/opt") == "/srv/shop/app.py:31 in block: time.sleep(600)"
    assert place(STARLETTE, CWD) == "starlette/routing.py:73"
    assert place(LOCK, CWD) == "threading.py:324"
    assert place(BKD, CWD) == "bkd/supervisor/master.py:7"
    assert place(WEB, CWD) == "bkd/workers/web/web.py:74"
    assert shown(Frame("/srv/shop/app.py", 1, "f", "x" * 999), CWD).endswith("x…")


def test_lines_of_source_are_read_for_files_alone():
    asked = []

    def read(file, line):
        asked.append((file, line))
        return "pay()"

    assert with_text([APP, ENTRY, VIEW], read) == [APP, ENTRY, Frame(VIEW.file, 12, "pay", "pay()")]
    assert asked == [(VIEW.file, 12)]


MESSAGES = [TaskStack("order.pack 8", [VIEW, BKD], "sleep"), TaskStack("order.pack 7", [APP, BKD], "sleep")]


@pytest.mark.parametrize(
    ("stacks", "name", "expected"),
    [
        (Stacks([IDLE_MAIN, thread(VIEW, name="order.pack 8"), thread(APP, name="order.pack 7")]), "order.pack 7", APP),
        (Stacks([IDLE_MAIN], MESSAGES), "order.pack 7", APP),
        (Stacks([IDLE_MAIN], MESSAGES), "order.pack 8", VIEW),
        (Stacks([thread(RECV, VIEW, main=True)], MESSAGES), "order.pack 7", VIEW),
        (Stacks([thread(RECV, VIEW, main=True)]), "order.pack 7", VIEW),
    ],
)
def test_the_message_that_does_not_end_is_to_blame_unless_the_loop_does_not_let_it(stacks, name, expected):
    assert of_work(stacks, HOME, name) == expected


def test_of_what_is_open_the_oldest_is_named():
    work = [OpenWork("order.pack 8", 1.0), OpenWork("order.pack 7", 9.0)]

    assert of_stacks(Stacks([IDLE_MAIN], MESSAGES, work), HOME) == APP
    assert of_stacks(Stacks([IDLE_MAIN], MESSAGES), HOME) is None
