"""huey over SQLite (synchronised fully, as it is by default) or Redis; results are not kept."""

from datetime import datetime, timedelta
from time import monotonic

from huey import RedisHuey, SqliteHuey
from record import handle
from settings import DEADLINE, URL, VARIETY

kept = {"results": False}
huey = RedisHuey("bench", url=URL, **kept) if VARIETY == "redis" else SqliteHuey("bench", filename=URL, **kept)


@huey.task(**({"timeout": DEADLINE} if DEADLINE else {}))
def work(what: str, number: int) -> None:
    handle(what, number)


def send(what: str, number: int, due: float) -> None:
    if due:
        work.schedule((what, number), eta=datetime.now() + timedelta(seconds=due - monotonic()))
    else:
        work(what, number)
