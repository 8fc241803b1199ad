"""Bias correction: take out of each layer's bias the mean error that quantisation puts into its output.

Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", section 4.2,
with the means measured on calibration samples. Imported where torch is loaded already.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from edgekit.backends import mean_errors
from edgekit.backends.executorch.observers import ActivationObserver, WeightObserver
from edgekit.backends.executorch.program import op_name

_CHANNEL_AXIS = {"conv1d": -2, "conv2d": -3, "linear": -1}

_Pair = tuple[Any, Any]
"""A node's value in the float graph and in the simulated one."""


def correct_biases(graph: Any, samples: Sequence[Sequence[torch.Tensor]]) -> None:
    """Correct the biases of a prepared graph in place, in execution order.

    Each layer is corrected with those before it corrected already: the graph is walked once, every node
    computed for all samples both in float and simulated.
    """
    last_use = {given: node for node in graph.graph.nodes for given in node.all_input_nodes}
    shared = _shared_biases(graph)
    values: dict[Any, list[_Pair]] = {}
    inputs = iter(range(len(samples[0])))
    for node in graph.graph.nodes:
        if node.op == "output":
            break
        if node.op == "placeholder":
            place = next(inputs)
            values[node] = [(s[place], s[place]) for s in samples]
        elif node.op == "get_attr":
            value = _attribute(graph, node.target)
            values[node] = [(value, value)] * len(samples)
        else:
            values[node] = _compute(graph, node, values, len(samples))
            _correct(graph, node, values, shared)
        for given in node.all_input_nodes:
            if last_use[given] is node:
                values.pop(given, None)


def _compute(graph: Any, node: Any, values: dict[Any, list[_Pair]], count: int) -> list[_Pair]:
    if node.op == "call_module":
        observer = graph.get_submodule(node.target)
        if isinstance(observer, WeightObserver):
            weight = values[node.args[0]][0][0]
            observer.mode = "simulate"
            return [(weight, observer(weight))] * count
        assert isinstance(observer, ActivationObserver)
        observer.mode = "simulate"
        return [(real, observer(played)) for real, played in values[node.args[0]]]
    found = []
    for k in range(count):
        pair = []
        for side in (0, 1):

            def pick(given: Any, k: int = k, side: int = side) -> Any:
                return values[given][k][side]

            args = torch.fx.node.map_arg(node.args, pick)
            kwargs = torch.fx.node.map_arg(node.kwargs, pick)
            pair.append(node.target(*args, **kwargs))
        found.append((pair[0], pair[1]))
    return found


def _correct(graph: Any, node: Any, values: dict[Any, list[_Pair]], shared: set[str]) -> None:
    axis = _CHANNEL_AXIS.get(op_name(node)) if node.op == "call_function" else None
    if axis is None or len(node.args) < 3 or node.args[2] is None or node.args[2].op != "get_attr":
        return
    if str(node.args[2].target) in shared or node.args[1].op != "call_module":
        return
    errors = [(real - played).movedim(axis, 0).flatten(1).mean(1).numpy() for real, played in values[node]]
    delta = torch.from_numpy(mean_errors.correction(errors)).to(values[node][0][0].dtype)
    _attribute(graph, node.args[2].target).data.add_(delta)
    shape = [1] * values[node][0][0].dim()
    shape[axis] = -1
    values[node] = [(real, played + delta.reshape(shape)) for real, played in values[node]]


def _shared_biases(graph: Any) -> set[str]:
    """Parameters that more than one operator reads: one correction cannot suit them all."""
    readers: dict[str, int] = {}
    for node in graph.graph.nodes:
        if node.op == "get_attr":
            readers[str(node.target)] = readers.get(str(node.target), 0) + len(node.users)
    return {name for name, count in readers.items() if count > 1}


def _attribute(graph: Any, target: str) -> Any:
    owner, _, leaf = target.rpartition(".")
    return getattr(graph.get_submodule(owner), leaf)
