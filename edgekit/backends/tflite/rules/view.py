"""What a rule looks at: one operator of a graph with its tensors by position."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from edgekit.backends.tflite.flatbuffer import op_precision

if TYPE_CHECKING:
    import numpy as np

    from edgekit.backends.tflite.flatbuffer import Graph, Op, Tensor

UNPACKING = frozenset({"DEQUANTIZE", "DENSIFY"})
"""Operators that, on a constant, only spell out how it is stored."""

FLOATS = frozenset({"float32", "float16"})
QUANTIZED = frozenset({"int8", "uint8"})


@dataclass(frozen=True)
class Links:
    """Who writes and who reads each tensor of a graph, by its index."""

    makers: dict[int, Op]
    readers: dict[int, list[Op]]

    @classmethod
    def of(cls, graph: Graph) -> Links:
        readers: dict[int, list[Op]] = {}
        for op in graph.ops:
            for tensor in dict.fromkeys(op.inputs):
                readers.setdefault(tensor, []).append(op)
        return cls({t: op for op in graph.ops for t in op.outputs}, readers)


@dataclass(frozen=True)
class View:
    """One operator. Positions count the operands of the schema, also those that were left out."""

    graph: Graph
    op: Op
    links: Links

    @cached_property
    def precision(self) -> str:
        return op_precision(self.graph, self.op)

    @cached_property
    def operands(self) -> tuple[Tensor | None, ...]:
        """Operands by position, None for one that was left out."""
        places = self.op.operands or self.op.inputs
        return tuple(self.graph.tensors[t] if t >= 0 else None for t in places)

    @property
    def present(self) -> list[Tensor]:
        """Operands that are there."""
        return [t for t in self.operands if t is not None]

    @property
    def outputs(self) -> list[Tensor]:
        return [self.graph.tensors[t] for t in self.op.outputs]

    @property
    def runtime(self) -> list[Tensor]:
        """Operands that are computed or given at run time."""
        return [t for t in self.present if not self.is_static(t)]

    def operand(self, position: int) -> Tensor | None:
        """The operand at a position, None where there is none."""
        return self.operands[position] if position < len(self.operands) else None

    def is_static(self, tensor: Tensor) -> bool:
        """A constant, or one that an operator unpacks (fp16 or int8 weights before a float operator)."""
        if tensor.constant:
            return True
        maker = self.links.makers.get(tensor.index)
        return maker is not None and is_unpacking(self.graph, maker)

    def values(self, position: int) -> np.ndarray[Any, Any] | None:
        """Numbers of a constant operand, None for anything else."""
        tensor = self.operand(position)
        return None if tensor is None else tensor.values()

    def option(self, name: str, default: Any = 0) -> Any:
        """A builtin attribute by its name in the schema."""
        return self.op.options.get(name, default)


def is_unpacking(graph: Graph, op: Op) -> bool:
    """Whether an operator unpacks a constant: delegates read the constant itself and never run it."""
    return op.op in UNPACKING and len(op.inputs) == 1 and graph.tensors[op.inputs[0]].constant
