"""Dispatchers and executors of a store in memory."""

from dataclasses import dataclass

from .protocol import Node


@dataclass
class Executor:
    """Where runs are."""

    number: int
    node: int
    slot: str
    pid: int
    start: int


class Nodes:
    """All that were ever there."""

    def __init__(self) -> None:
        self._nodes: dict[int, Node] = {}
        self._executors: list[Executor] = []
        self._until: dict[int, int] = {}
        self._lost: set[int] = set()

    def register(self, name: str, until: int) -> Node:
        known = next((node for node in self._nodes.values() if node.name == name), None)
        node = Node(known.number, name, known.generation + 1) if known else Node(len(self._nodes) + 1, name, 1)
        self._nodes[node.number] = node
        self._until[node.number] = until
        self._lost.discard(node.number)
        return node

    def enlist(self, node: int, slot: str, pid: int, start: int) -> int:
        for executor in self._executors:
            if (executor.node, executor.slot, executor.pid, executor.start) == (node, slot, pid, start):
                return executor.number
        self._executors.append(Executor(len(self._executors) + 1, node, slot, pid, start))
        return len(self._executors)

    def executor(self, number: int) -> Executor:
        """The one of this number; an empty one if there is none."""
        there = (executor for executor in self._executors if executor.number == number)
        return next(there, Executor(number, 0, "", 0, 0))

    def worker(self, number: int) -> str:
        """An executor as operators see it, such as `jobs.1@h1`."""
        executor = self.executor(number)
        return f"{executor.slot}@{self.name(executor.node).partition('/')[0]}" if executor.node else ""

    def name(self, node: int) -> str:
        return self._nodes[node].name

    def is_known(self, node: int) -> bool:
        """It may hold leases."""
        return node in self._nodes and node not in self._lost

    def is_living(self, node: int, now: int) -> bool:
        """It is known, and was renewed in time."""
        return self.is_known(node) and self._until[node] >= now

    def renew(self, node: int, until: int) -> bool:
        if self.is_known(node):
            self._until[node] = until
        return self.is_known(node)

    def lose(self, now: int) -> None:
        """Those that were not renewed in time are dead."""
        self._lost |= {node for node, until in self._until.items() if until < now}

    def leave(self, node: int) -> None:
        self._lost.add(node)
