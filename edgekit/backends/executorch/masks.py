"""Units around infinite constants: the minus infinity of an attention mask has no place in an int8 range.

Imported where torch is loaded already.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from edgekit.backends.executorch.program import unit_of


def masked_units(graph: Any, inputs: Sequence[torch.Tensor]) -> list[str]:
    """Units that make or read infinite values which the model's own constants bring in, on ``inputs``.

    They have to stay in float; a softmax makes the values finite again. Values that become infinite in any
    other way (a broken sample, an overflow) are not among them.
    """
    if not any(_brings_infinity(graph, node) for node in graph.graph.nodes):
        return []
    walk = _Walk(graph)
    walk.run(*inputs)
    return list(dict.fromkeys(unit_of(node) for node in walk.found if unit_of(node)))


class _Walk(torch.fx.Interpreter):
    """Runs the graph and follows infinite values from the constants on."""

    def __init__(self, graph: Any) -> None:
        super().__init__(graph)
        self.found: list[torch.fx.Node] = []
        self._infinite: set[torch.fx.Node] = set()

    def run_node(self, n: torch.fx.Node) -> Any:
        value = super().run_node(n)
        reads = any(given in self._infinite for given in n.all_input_nodes)
        if (reads or _brings_infinity(self.module, n)) and any(map(_has_infinity, pytree.tree_leaves(value))):
            self._infinite.add(n)
        if n.op == "call_function" and (reads or n in self._infinite):
            self.found.append(n)
        return value


def _brings_infinity(graph: Any, node: torch.fx.Node) -> bool:
    """A constant tensor with infinite values, or an operator with such a number for an argument."""
    if node.op == "get_attr":
        owner, _, leaf = str(node.target).rpartition(".")
        return _has_infinity(getattr(graph.get_submodule(owner), leaf))
    given = pytree.tree_leaves((node.args, node.kwargs)) if node.op == "call_function" else []
    return any(isinstance(v, float) and math.isinf(v) for v in given)


def _has_infinity(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point() and bool(torch.isinf(value).any())
