"""What is known of libraries and forks: a line of advice each. Pure."""

from .finding import Finding
from .seen import Inside, Outside

AT_STARTUP = "make it in the application's startup, not at import"
LOOP = "asyncio.AbstractEventLoop"
RANDOM = "random.Random"

OBJECTS = {
    LOOP: f"workers share what the kernel keeps for it; {AT_STARTUP}",
    "aiohttp.ClientSession": f"belongs to the loop it was made in; {AT_STARTUP}",
    "asyncpg.Connection": f"workers would talk over one connection; {AT_STARTUP}",
    "concurrent.ProcessPoolExecutor": f"its processes belong to the loader; {AT_STARTUP}",
    "confluent_kafka.Consumer": f"its threads are not there after a fork; {AT_STARTUP}",
    "confluent_kafka.Producer": f"its threads are not there after a fork; {AT_STARTUP}",
    "grpc.Channel": f"does not work after a fork; {AT_STARTUP}",
    "multiprocessing.BaseManager": f"its process belongs to the loader; {AT_STARTUP}",
    "multiprocessing.Pool": f"its threads are not there after a fork; {AT_STARTUP}",
    "MySQLdb.Connection": f"workers would talk over one connection; {AT_STARTUP}",
    "psycopg.Connection": f"workers would talk over one connection; {AT_STARTUP}",
    "psycopg2.connection": f"workers would talk over one connection; {AT_STARTUP}",
    "pymongo.MongoClient": f"its locks and threads do not survive a fork; {AT_STARTUP}",
    "pymysql.Connection": f"workers would talk over one connection; {AT_STARTUP}",
    RANDOM: f"draws the same numbers in every worker; {AT_STARTUP}",
    "sqlalchemy.Engine": "connections it has by now are shared: engine.dispose(close=False) in the startup",
    "sqlite3.Connection": f"must not be used after a fork; {AT_STARTUP}",
}
HARMLESS = ("random.SystemRandom",)  # counted as random.Random too
CLASSES = sorted([*OBJECTS, *HARMLESS])

PACKAGES = {
    "cv2": "has threads of its own once it is used: cv2.setNumThreads(0), or use nothing of it at import",
    "gevent": "its hub must not run before the fork: import and patch only",
    "grpc": "channels of before a fork do not work after it: none at import",
    "jax": "has threads once it computes: compute nothing at import",
    "matplotlib": 'a backend with windows does not survive a fork: matplotlib.use("Agg")',
    "numpy": "numpy.random draws the same numbers in every worker: seed it in the application's startup",
    "PyQt5": "no QApplication before a fork",
    "PyQt6": "no QApplication before a fork",
    "PySide6": "no QApplication before a fork",
    "ray": "ray.init() after the fork, in the application's startup",
    "rpy2": "R does not know of forks: preload = false if it is started at import",
    "tensorflow": "has threads once it computes: load models in the startup, or preload = false",
    "torch": "no GPU before a fork, and torch.set_num_threads(1) where models are loaded at import",
}
LIBRARIES = {
    "libopenblas": ("OpenBLAS", 'starts a thread for each CPU when it is loaded: env = { OPENBLAS_NUM_THREADS = "1" }'),
    "libscipy_openblas": (
        "OpenBLAS",
        'starts a thread for each CPU when it is loaded: env = { OPENBLAS_NUM_THREADS = "1" }',
    ),
    "libmkl": ("MKL", 'has threads once it computes: env = { MKL_NUM_THREADS = "1" }'),
    "libgomp": ("OpenMP", "hangs after a fork if it was used before: compute nothing at import"),
    "libcuda": ("CUDA", "does not survive a fork: no GPU at import"),
    "librdkafka": ("librdkafka", "has threads as soon as a client is made: none at import"),
    "libR.so": ("R", "does not know of forks: preload = false if it is started at import"),
}


def findings(inside: Inside, outside: Outside, loop: str) -> list[Finding]:
    """What was imported or made that is known for it: made is worse than imported. `loop`: where one was made."""
    found = [
        Finding(name, "degraded", f"{count} made at import{f', {loop}' if name == LOOP and loop else ''}", advice)
        for name, advice in OBJECTS.items()
        if (count := _made(name, inside.objects)) > 0
    ]
    found += [Finding(name, "ok", "imported", PACKAGES[name]) for name in inside.packages if name in PACKAGES]
    native = {known for prefix, known in LIBRARIES.items() if any(lib.startswith(prefix) for lib in outside.libraries)}
    return found + [Finding(name, "ok", "loaded", advice) for name, advice in sorted(native)]


def _made(name: str, counts: dict[str, int]) -> int:
    """Generators that ask the kernel each time are of a class made from the other."""
    harmless = sum(counts.get(other, 0) for other in HARMLESS) if name == RANDOM else 0
    return counts.get(name, 0) - harmless
