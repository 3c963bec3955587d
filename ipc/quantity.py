"""So many of something, as it is said to people."""


def counted(count: int, one: str, several: str = "") -> str:
    """`1 worker`, `0 workers`, `12,000 workers`; `several` is said of all but one, without it `one` gets an s."""
    return f"{count:,} {one if count == 1 else several or f'{one}s'}"
