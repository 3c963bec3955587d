"""What the dispatcher has to tell operators, as facts. `text` is its own line."""

from .fact import Fact


class StoreAway(Fact, frozen=True):
    """Told once, however often it is tried in vain."""

    line = "the store of messages does not answer, it is tried again and again: {text}"
    severity = "error"
    text: str


class StoreBack(Fact, frozen=True):
    line = "the store of messages answers again: {text}"
    text: str


class LoopFound(Fact, frozen=True):
    """A message is retried over and over; told once of each."""

    line = "{text}"
    severity = "warning"
    text: str


class MessageDead(Fact, frozen=True):
    """A message will not run again by itself."""

    line = "{text}"
    severity = "warning"
    text: str


class StoreFault(Fact, frozen=True):
    """Trying again does not help."""

    line = "the store of messages cannot be used: {text}"
    severity = "error"
    text: str


class NodeLost(Fact, frozen=True):
    """Another host did not say in time that it lives; what it held is settled here."""

    line = "{text}"
    severity = "warning"
    text: str


class MessageAlarm(Fact, frozen=True):
    """Something else, by its short `word`."""

    line = "messages: {word}: {text}"
    severity = "warning"
    word: str
    text: str


KINDS: dict[str, type[StoreAway | StoreBack | StoreFault | LoopFound | MessageDead | NodeLost]] = {
    "store-away": StoreAway,
    "store-back": StoreBack,
    "store-error": StoreFault,
    "loop": LoopFound,
    "dead-letter": MessageDead,
    "node-lost": NodeLost,
}


def told(word: str, text: str) -> Fact:
    """The fact of an alarm."""
    kind = KINDS.get(word)
    return kind(text=text) if kind is not None else MessageAlarm(word=word, text=text)
