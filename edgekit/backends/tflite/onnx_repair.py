"""Repairs of an ONNX file that onnx2tf 1.28 would convert wrongly, or into what no delegate takes.

Layouts: behind a Reshape (GroupNorm is written as one, a normalisation and one back) onnx2tf leaves a tensor
channels-first, and a convolution that reads it is given a TRANSPOSE whose axes are found by comparing
lengths. Where the number of channels equals height or width the guess may be wrong: ConvTranspose and grouped
Conv then read mixed up axes, or LiteRT cannot load the file.

HardSigmoid becomes RELU_0_TO_1, which neither XNNPACK nor NNAPI takes and ai-edge-quantizer leaves in float:
a MobileNetV3 of 19 partitions in XNNPACK has 10 of them for this alone. Spelt out it becomes a RELU6, which
melts into the convolution before it, and a multiplication.
"""

from __future__ import annotations

from math import isclose
from pathlib import Path
from typing import Any

TO_LAST, TO_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)

_CONVOLUTIONS = ("Conv", "ConvTranspose")
_PASSING = frozenset(
    """Abs Add BatchNormalization Cast Clip Div Dropout Elu Erf Exp Gelu HardSigmoid HardSwish Identity
    LeakyRelu Max Min Mul Neg PRelu Pow Reciprocal Relu Sigmoid Softplus Sqrt Sub Tanh""".split()  # noqa: SIM905
)
"""Operators that compute value by value: what they read and write has one layout."""


def repair(path: Path) -> list[str]:
    """Repair the file in place; what was done, in words."""
    import onnx

    model = onnx.load(path)
    pinned, spelt = pin_layouts(model), spell_hard_sigmoids(model)
    if not pinned and not spelt:
        return []
    onnx.save(model, path)
    notes = [f"the layout of {len(pinned)} tensors was stated by Transposes"] if pinned else []
    return notes + ([f"{spelt} HardSigmoid operators were written as Clip and Mul"] if spelt else [])


def spell_hard_sigmoids(model: Any) -> int:
    """Write every HardSigmoid of slope 1/6 as clip(x + 3, 0, 6) / 6; how many there were."""
    import numpy as np
    from onnx import helper, numpy_helper

    graph = model.graph
    nodes, count = [], 0
    for node in graph.node:
        given = {a.name: a.f for a in node.attribute}
        thirds = isclose(given.get("alpha", 0.2), 1 / 6, rel_tol=1e-4) and given.get("beta", 0.5) == 0.5
        if node.op_type != "HardSigmoid" or not thirds:
            nodes.append(node)
            continue
        out, source = node.output[0], node.input[0]
        nodes += [
            helper.make_node("Add", [source, _CONSTANTS[0]], [f"{out}.shifted"], name=f"{out}.shifted"),
            helper.make_node(
                "Clip", [f"{out}.shifted", *_CONSTANTS[1:3]], [f"{out}.clipped"], name=f"{out}.clipped"
            ),
            helper.make_node("Mul", [f"{out}.clipped", _CONSTANTS[3]], [out], name=node.name or out),
        ]
        count += 1
    if count:
        for name, value in zip(_CONSTANTS, (3.0, 0.0, 6.0, 1 / 6), strict=True):
            graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), name))
        _replace_nodes(graph, nodes)
    return count


_CONSTANTS = ("hard_sigmoid.three", "hard_sigmoid.zero", "hard_sigmoid.six", "hard_sigmoid.sixth")


def _replace_nodes(graph: Any, nodes: list[Any]) -> None:
    copies = [type(n).FromString(n.SerializeToString()) for n in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def pin_layouts(model: Any) -> list[str]:
    """State the layout of ambiguous tensors by a pair of Transposes; names of those tensors.

    onnx2tf turns the pair into the one TRANSPOSE that it would have needed anyway.
    """
    import onnx

    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output}
    shapes = _shapes(onnx.shape_inference.infer_shapes(model).graph)
    pinned: dict[str, str] = {}
    nodes = []
    for node in graph.node:
        tensor = node.input[0] if node.input else ""
        if node.op_type in _CONVOLUTIONS and _ambiguous(shapes.get(tensor)) and _reshaped(tensor, makers):
            if tensor not in pinned:
                last, first = f"{tensor}.channels_last", f"{tensor}.channels_first"
                nodes.append(onnx.helper.make_node("Transpose", [tensor], [last], name=last, perm=TO_LAST))
                nodes.append(onnx.helper.make_node("Transpose", [last], [first], name=first, perm=TO_FIRST))
                pinned[tensor] = first
            node.input[0] = pinned[tensor]
        nodes.append(node)
    if pinned:
        _replace_nodes(graph, nodes)
    return list(pinned)


def _shapes(graph: Any) -> dict[str, tuple[int, ...]]:
    found = {}
    for value in (*graph.value_info, *graph.input, *graph.output):
        tensor = value.type.tensor_type
        if tensor.HasField("shape"):
            found[value.name] = tuple(int(d.dim_value) for d in tensor.shape.dim)
    return found


def _ambiguous(shape: tuple[int, ...] | None) -> bool:
    """A feature map whose number of channels is also its height or width."""
    return shape is not None and len(shape) == 4 and shape[1] > 1 and shape[1] in shape[2:]


def _reshaped(tensor: str, makers: dict[str, Any]) -> bool:
    """Whether a tensor comes from a Reshape by operators that keep the layout."""
    seen: set[str] = set()
    todo = [tensor]
    while todo:
        name = todo.pop()
        maker = makers.get(name)
        if maker is None or name in seen:
            continue
        seen.add(name)
        if maker.op_type == "Reshape":
            return True
        if maker.op_type in _PASSING:
            todo += list(maker.input)
    return False
