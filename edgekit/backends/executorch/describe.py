"""What a .pte file computes: its units with cost, precision and place, as JSON data beside the file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgekit.backends.executorch.program import first_tensor, op_name, unit_nodes, unit_of
from edgekit.types import OpCoverage, Unit

if TYPE_CHECKING:
    import torch

    from edgekit.backends.executorch.lowering import Lowered

_SHAPE_ONLY = """
    alias clone contiguous copy expand flatten permute reshape select slice split split_with_sizes squeeze
    stack t transpose unbind unflatten unsqueeze view chunk narrow unfold _to_copy to movedim
    """
SHAPE_ONLY = frozenset(_SHAPE_ONLY.split())
"""Operators without arithmetic, left out of the share of int8 operators."""


def describe(program: torch.export.ExportedProgram, lowered: Lowered) -> bytes:
    """Units of the float program ``program`` as ``lowered`` runs them, for :func:`read_units`."""
    constants = _constants(program)
    units = []
    for index, node in enumerate(unit_nodes(program.graph)):
        name = unit_of(node)
        placed = lowered.placed.get(name)  # None: folded away while lowering, nothing is left to run
        precision = placed.precision if placed else "float32"
        units.append(
            {
                "name": name,
                "op": op_name(node),
                "index": index,
                "macs": macs(node),
                "weight_bytes": sum(
                    _stored_bytes(constants[a.name], precision)
                    for a in node.all_input_nodes
                    if a.name in constants
                ),
                "output_shape": [int(d) for d in first_tensor(node.meta["val"]).shape],
                "precision": precision,
                "input_shapes": [
                    [int(d) for d in first_tensor(a.meta["val"]).shape]
                    for a in node.all_input_nodes
                    if a.name not in constants and first_tensor(a.meta.get("val")) is not None
                ],
                "channels": _channels(node),
                "groups": _groups(node),
                "accelerated": placed is None or placed.accelerated,
                "reason": placed.reason if placed else "",
                "arithmetic": placed is not None and op_name(node) not in SHAPE_ONLY,
            }
        )
    others = [{"op": op, "reason": reason} for op, reason in lowered.others]
    data = {
        "units": units,
        "others": others,
        "kernels": list(lowered.kernels),
        "partitions": lowered.partitions,
    }
    return json.dumps(data, sort_keys=True).encode()


def read_units(data: Mapping[str, Any]) -> list[Unit]:
    """Units from described data."""
    fields = ("name", "op", "index", "macs", "weight_bytes", "precision")
    return [
        Unit(
            **{f: u[f] for f in fields},
            output_shape=tuple(u["output_shape"]),
            input_shapes=tuple(tuple(shape) for shape in u.get("input_shapes", ())),
            channels=u.get("channels"),
            groups=u.get("groups", 1),
        )
        for u in data["units"]
    ]


def read_coverage(data: Mapping[str, Any]) -> list[OpCoverage]:
    """Every unit, and behind them the kernels that belong to none (conversions between precisions)."""
    found = [
        OpCoverage(index=u["index"], op=u["op"], accelerated=u["accelerated"], reason=u["reason"])
        for u in data["units"]
    ]
    start = len(found)
    found += [
        OpCoverage(index=start + i, op=o["op"], accelerated=False, reason=o["reason"])
        for i, o in enumerate(data["others"])
    ]
    return found


def macs(node: Any) -> int:
    """Multiply-accumulates of one operator, biases left out."""
    name = op_name(node)
    out = first_tensor(node.meta.get("val"))
    shapes = [
        tuple(a.meta["val"].shape)
        for a in node.all_input_nodes
        if first_tensor(a.meta.get("val")) is not None
    ]
    if name.startswith("conv_transpose"):
        return int(math.prod(shapes[0]) * math.prod(shapes[1][1:]))
    if name.startswith("conv"):
        return int(math.prod(out.shape) * math.prod(shapes[1][1:]))
    if name == "linear":
        return int(math.prod(out.shape) * shapes[1][1])
    if name in ("matmul", "mm", "bmm", "mv"):
        return int(math.prod(out.shape) * shapes[0][-1])
    if name in ("addmm", "baddbmm", "addmv"):
        return int(math.prod(out.shape) * shapes[1][-1])
    if name in ("lstm", "gru", "rnn_tanh", "rnn_relu"):
        return _recurrent_macs(node)
    if name.startswith("scaled_dot_product") or name.startswith("_scaled_dot_product"):
        query, key, value = shapes[:3]
        return int(math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1]))
    return 0


def _channels(node: Any) -> int | None:
    """Output channels: the second axis of a convolution, the last of a product with weights."""
    name, shape = op_name(node), first_tensor(node.meta["val"]).shape
    if name.startswith("conv"):
        return int(shape[1])
    return int(shape[-1]) if name in ("linear", "addmm") else None


def _groups(node: Any) -> int:
    """Groups of a convolution: channels that come in over channels that one filter reads."""
    if not op_name(node).startswith("conv") or op_name(node).startswith("conv_transpose"):
        return 1
    given, weight = (first_tensor(a.meta["val"]).shape for a in node.all_input_nodes[:2])
    return max(1, int(given[1]) // int(weight[1]))


def _recurrent_macs(node: Any) -> int:
    """Steps x batch x elements of the weight matrices: input (time, batch, size) or batch first."""
    given = node.args[0].meta["val"]
    weights = [a.meta["val"] for a in node.args[2]]
    steps = math.prod(given.shape[:-1])
    return int(steps * sum(math.prod(w.shape) for w in weights if w.dim() == 2))


def _constants(program: torch.export.ExportedProgram) -> dict[str, Any]:
    """Values of parameters, buffers and constants by the names of their placeholders."""
    signature = program.graph_signature
    targets = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    nodes = {n.name: n for n in program.graph.nodes if n.op == "placeholder"}
    names = [*targets, *signature.inputs_to_lifted_tensor_constants]
    return {name: nodes[name].meta["val"] for name in names if name in nodes}


def _stored_bytes(tensor: Any, precision: str) -> int:
    """int8 for the weights of quantised units; vectors (biases) stay at four bytes."""
    quantized = precision in ("int8", "dynamic") and tensor.dim() > 1
    return int(tensor.numel()) * (1 if quantized else int(tensor.element_size()))
