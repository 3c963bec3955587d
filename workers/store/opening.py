"""Which store a url means."""

from pathlib import Path

from .protocol import Store, StoreError


def opened(url: str, base: str) -> Store:
    """The store of `sqlite:PATH`, `postgresql://…` or `memory:`, to be opened by whoever uses it. `base` is the folder
    that a relative path is in. Raises StoreError for another url, or when what it needs is not installed."""
    scheme, _, rest = url.partition(":")
    if scheme == "sqlite" and rest.lstrip("/"):
        from .sqlite import SqliteStore

        return SqliteStore(Path(base, _path(rest)).absolute())
    if scheme in ("postgresql", "postgres"):
        try:
            from .postgres import PostgresStore
        except ImportError as error:
            raise StoreError(f"PostgreSQL needs psycopg ({error}): install bkd[postgres]") from error
        return PostgresStore(url)
    if scheme == "memory":
        from .memory import MemoryStore

        return MemoryStore()
    raise StoreError(f"[store] url of scheme {scheme!r} is unknown: use sqlite:run/bkd.db or postgresql://…")


def _path(rest: str) -> str:
    """`sqlite:run/bkd.db` and `sqlite:///srv/bkd.db` are what they look like."""
    return rest[2:] if rest.startswith("///") else rest
