"""Which operators a delegate takes, and how LiteRT cuts the graph into partitions for it.

The cut is that of tflite/graph_info.cc, PartitionGraphIntoIndependentNodeSubsets: the graph is run through
again and again; a run takes every operator whose inputs are there and that is of the kind (taken or not) of
the first one that it met.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgekit.backends.tflite.rules.view import Links, View, is_unpacking

if TYPE_CHECKING:
    from edgekit.backends.tflite.flatbuffer import Graph, Op
    from edgekit.backends.tflite.rules.model import Delegate

ELSEWHERE = "the operator that reads it is left to the CPU"


@dataclass(frozen=True)
class Placement:
    """What a delegate does with a graph.

    ``refused`` has the reason for every operator by index, None for one that runs in the delegate;
    ``partitions`` the operators of each partition in order of execution.
    """

    refused: Mapping[int, str | None]
    partitions: tuple[tuple[int, ...], ...]

    @property
    def ranges(self) -> list[list[int]]:
        """First and last operator of each partition; what lies between may belong to another one."""
        return [[ops[0], ops[-1]] for ops in self.partitions]


def place(graph: Graph, delegate: Delegate) -> Placement:
    """What the delegate takes of a graph and the partitions that it makes of it."""
    links = Links.of(graph)
    refused: dict[int, str | None] = {
        op.index: None if is_unpacking(graph, op) else delegate.refusal(View(graph, op, links))
        for op in graph.ops
    }
    _follow_readers(graph, links, refused)
    partitions = cut(graph, [i for i, reason in refused.items() if reason is None])
    if delegate.partitions is not None and len(partitions) > delegate.partitions:
        count = delegate.partitions
        by_size = sorted(partitions, key=lambda ops: -_weight(graph, ops))
        kept = {op for ops in by_size[:count] for op in ops}
        limit = "the largest partition" if count == 1 else f"the {count} largest partitions"
        for index, reason in refused.items():
            if reason is None and index not in kept:
                refused[index] = (
                    f"{delegate.title} takes {limit} of a graph only, and this operator is in another one"
                )
        _follow_readers(graph, links, refused)
        partitions = [ops for ops in partitions if ops[0] in kept]
    return Placement(refused, tuple(tuple(ops) for ops in partitions))


def _follow_readers(graph: Graph, links: Links, refused: dict[int, str | None]) -> None:
    """What only unpacks a constant goes where its readers go: unpacked once when all are taken."""
    for op in reversed(graph.ops):
        if is_unpacking(graph, op) and refused[op.index] is None:
            readers = links.readers.get(op.outputs[0], [])
            if any(refused[r.index] is not None for r in readers):
                refused[op.index] = ELSEWHERE


def _weight(graph: Graph, ops: Collection[int]) -> int:
    """Operators of a partition, without those that only unpack a constant."""
    return sum(not is_unpacking(graph, graph.ops[i]) for i in ops)


def cut(graph: Graph, taken: Collection[int]) -> list[list[int]]:
    """Partitions of the taken operators, each in order of execution."""
    wanted = set(taken)
    missing = {t for op in graph.ops for t in op.outputs}
    waiting: list[Op] = list(graph.ops)
    found: list[list[int]] = []
    while waiting:
        kind, subset = _next_subset(waiting, missing, wanted)
        if not subset:  # a cycle: LiteRT would refuse the file
            break
        members = set(subset)
        waiting = [op for op in waiting if op.index not in members]
        if kind:
            found.append(sorted(subset))
    return found


def _next_subset(waiting: list[Op], missing: set[int], wanted: set[int]) -> tuple[bool, list[int]]:
    """One run: takes ready operators of one kind until none is left, and their outputs from ``missing``."""
    kind: bool | None = None
    subset: list[int] = []
    left = list(waiting)
    while True:
        later = []
        for op in left:
            ready = not any(t in missing for t in op.inputs)
            if ready and kind is None:
                kind = op.index in wanted
            if ready and (op.index in wanted) == kind:
                subset.append(op.index)
                missing.difference_update(op.outputs)
            else:
                later.append(op)
        if len(later) == len(left):
            return bool(kind), subset
        left = later
