"""Caches in the memory of each process, whose deletions reach every process of the fleet."""

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from time import monotonic
from typing import Any, Generic, NamedTuple, TypeVar, overload

import msgspec

V = TypeVar("V")
D = TypeVar("D")

MOST_UNTOLD = 10_000
MOST_KEYS = 1000
MOST_BYTES = 32 << 10  # of the keys in one message: the bus takes 64 KiB of it
SIMPLE = (str, int, float, bytes, bool, type(None))
_encode = msgspec.msgpack.Encoder().encode


class _Item(NamedTuple):
    value: Any
    until: float


class Lru(Generic[V]):
    """Up to `maxsize` values for up to `ttl` seconds (0: until they are displaced); the least recently used goes first.

    Keys are texts, numbers, bytes, None, or tuples of them. Any thread may use it. What a process sets it has for
    itself; what it deletes is deleted everywhere, a moment later elsewhere. `told` is called with the key, or with no
    key for all of them.
    """

    def __init__(self, maxsize: int, ttl: float, told: Callable[..., None]) -> None:
        if maxsize < 1 or not (math.isfinite(ttl) and ttl >= 0):
            raise ValueError("a cache needs a maxsize of at least 1 and a ttl of 0 seconds (no end) or more")
        self.maxsize, self.ttl = maxsize, ttl
        self._told = told
        self._lock = threading.RLock()  # a value that is displaced may use the cache once more as it goes
        self._items: OrderedDict[Hashable, _Item] = OrderedDict()

    @overload
    def get(self, key: Hashable) -> V | None: ...

    @overload
    def get(self, key: Hashable, default: D) -> V | D: ...

    def get(self, key: Hashable, default: Any = None) -> Any:
        """The value, or `default` when there is none any more."""
        with self._lock:
            item = self._items.get(key)
            if item is None:
                return default
            if item.until <= monotonic():
                del self._items[key]
                return default
            self._items.move_to_end(key)
            return item.value

    def set(self, key: Hashable, value: V) -> None:
        """Keep the value in this process. Raises TypeError for a key that could not be deleted elsewhere."""
        _check(key)
        item = _Item(value, monotonic() + self.ttl if self.ttl else math.inf)
        with self._lock:
            self._items[key] = item
            self._items.move_to_end(key)
            if len(self._items) > self.maxsize:
                self._items.popitem(last=False)

    __setitem__ = set

    def delete(self, key: Hashable) -> None:
        """Forget the value, here and everywhere; whether it is here makes no difference."""
        _check(key)
        self.forget([key])
        self._told(key)

    __delitem__ = delete

    def clear(self) -> None:
        """Forget all values, here and everywhere."""
        self.forget()
        self._told()

    def forget(self, keys: list[Hashable] | None = None) -> None:
        """Forget these in this process alone; None: all."""
        with self._lock:
            if keys is None:
                self._items.clear()
            else:
                for key in keys:
                    self._items.pop(key, None)

    def forked(self) -> None:
        """Called in a forked child: empty."""
        self._lock, self._items = threading.RLock(), OrderedDict()

    def __getitem__(self, key: Hashable) -> V:
        missing = object()
        value = self.get(key, missing)
        if value is missing:
            raise KeyError(key)
        return value  # type: ignore[return-value]

    def __contains__(self, key: Hashable) -> bool:
        with self._lock:
            item = self._items.get(key)
            return item is not None and item.until > monotonic()

    def __len__(self) -> int:
        """How many are kept, those included that are too old and were not asked for since."""
        with self._lock:
            return len(self._items)


class Caches:
    """Those of one process by name, and the deletions that the others have not been told of yet.

    While there is no master they are kept: MOST_UNTOLD keys, then it is the whole cache. `untold` is called in whatever
    thread when there are the first ones.
    """

    def __init__(self, untold: Callable[[], None]) -> None:
        self._caches: dict[str, Lru[Any]] = {}
        self._pending: dict[str, dict[Hashable, None] | None] = {}
        self._lock = threading.RLock()
        self._untold = untold

    def __len__(self) -> int:
        return len(self._caches)

    def get(self, name: str, maxsize: int, ttl: float) -> Lru[Any]:
        """The cache of that name, made if it is new. Raises ValueError when it is there with another size or time."""
        with self._lock:
            cache = self._caches.get(name)
            if cache is None:
                cache = self._caches[name] = Lru(maxsize, ttl, lambda *key: self._note(name, *key))
        if (cache.maxsize, cache.ttl) != (maxsize, ttl):
            raise ValueError(f"the cache {name} is there already, with maxsize={cache.maxsize} and ttl={cache.ttl:g}")
        return cache

    def heard(self, data: Any) -> None:
        """Another process has deleted: the data of an `ipc:lru:del`, for all caches if it names none.

        What makes no sense is passed over.
        """
        if data == {"all": True}:
            self.forget()
        cache = self._caches.get(str(data.get("cache"))) if isinstance(data, dict) else None
        if cache is None:
            return
        if data.get("all") is True:
            cache.forget()
        elif isinstance(data.get("keys"), list):
            try:
                keys = [_key(key) for key in data["keys"]]
            except RecursionError:
                keys = None
            cache.forget(keys)

    def forget(self) -> None:
        """Deletions may have been missed: forget everything in this process."""
        for cache in list(self._caches.values()):
            cache.forget()

    def forked(self) -> None:
        """Called in a forked child: nobody tells it what was deleted before it joins, and threads that held a lock are
        its parent's. What the parent has not told yet the parent tells."""
        self._lock, self._pending = threading.RLock(), {}
        for cache in self._caches.values():
            cache.forked()

    def take(self) -> list[dict[str, Any]]:
        """What the others are to be told, as data of `ipc:lru:del`; it counts as told then."""
        with self._lock:
            pending, self._pending = self._pending, {}
        letters: list[dict[str, Any]] = []
        for name, keys in pending.items():
            pieces = _pieces(keys) if keys is not None else None
            if pieces is None:
                letters.append({"cache": name, "all": True})
            else:
                letters += [{"cache": name, "keys": piece} for piece in pieces]
        return letters

    def _note(self, name: str, *key: Hashable) -> None:
        with self._lock:
            first = not self._pending
            keys = self._pending.setdefault(name, {})
            if not key or (keys is not None and len(keys) >= MOST_UNTOLD):
                self._pending[name] = None
            elif keys is not None:
                keys[key[0]] = None
        if first:
            self._untold()


def _check(key: Hashable) -> None:
    parts = key if isinstance(key, tuple) else (key,)
    for part in parts:
        if isinstance(part, tuple):
            _check(part)
        elif not isinstance(part, SIMPLE):
            raise TypeError(f"a key is a text, a number, bytes or a tuple of them, not a {type(part).__name__}")


def _pieces(keys: Iterable[Hashable]) -> list[list[Hashable]] | None:
    """As many keys as fit into a message each; None when one of them fits into none, or cannot be sent at all."""
    pieces: list[list[Hashable]] = []
    size = 0
    for key in keys:
        try:
            length = len(_encode(key))
        except (TypeError, ValueError, OverflowError, RecursionError):  # lone surrogates, more than 64 bits …
            return None
        if length > MOST_BYTES:
            return None
        size += length
        if not pieces or size > MOST_BYTES or len(pieces[-1]) >= MOST_KEYS:
            pieces.append([])
            size = length
        pieces[-1].append(key)
    return pieces


def _key(key: Any) -> Hashable:
    """As it was before it was sent."""
    return tuple(map(_key, key)) if isinstance(key, list) else key if isinstance(key, SIMPLE) else None
