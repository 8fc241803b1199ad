"""From a program to the bytes of a .pte file: XNNPACK takes what it can, portable kernels the rest."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgekit.backends.executorch.needed import needed_passes, partitioner
from edgekit.backends.executorch.program import first_tensor, unit_of
from edgekit.backends.executorch.toolchain import quiet, require_executorch
from edgekit.errors import ConversionError, Unsupported

if TYPE_CHECKING:
    import torch

_RULES = "executorch.backends.xnnpack.partition.config"
"""Logger under which ExecuTorch's partitioner says at level DEBUG why it leaves a node."""

_FUSED = ("aten::relu", "aten::hardtanh")
_PADDING = "aten::constant_pad_nd"
_RANK = {"float32": 0, "dynamic": 1, "int8": 2}


@dataclass(frozen=True)
class Placed:
    """Where the operators of one unit run. ``reason`` says why not in XNNPACK."""

    accelerated: bool
    precision: str
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Lowered:
    """A .pte file's bytes; units by name; kernels outside the delegate that belong to no unit."""

    data: bytes
    placed: Mapping[str, Placed]
    others: tuple[tuple[str, str], ...]
    """(operator, reason) of each."""
    kernels: tuple[str, ...]
    """Portable operators that the file calls, "aten::mean.out"."""
    partitions: int


@dataclass
class _Reasons:
    """Why the partitioner left a node, by the node's name; the first reason counts."""

    by_node: dict[str, str] = field(default_factory=dict)


def lower(program: torch.export.ExportedProgram) -> Lowered:
    """Lower a float or quantised program. Raises Unsupported for an operator without any kernel."""
    require_executorch()
    from executorch.exir import ExecutorchBackendConfig, to_edge_transform_and_lower

    with quiet(), _uncollected(), needed_passes(), _listening() as reasons:
        try:
            edge = to_edge_transform_and_lower(program, partitioner=[partitioner()])
            placed, others, partitions = _placement(edge.exported_program().graph_module, reasons)
            made = edge.to_executorch(ExecutorchBackendConfig())
        except Exception as exc:  # exir raises whatever its passes meet
            raise _translated(exc) from exc
        data = bytes(made.buffer)
        operators = made.executorch_program.execution_plan[0].operators
    kernels = tuple(f"{o.name}.{o.overload}" if o.overload else str(o.name) for o in operators)
    return Lowered(data=data, placed=placed, others=others, kernels=kernels, partitions=partitions)


def _translated(exc: Exception) -> Exception:
    text = next((line.strip() for line in str(exc).splitlines() if line.strip()), type(exc).__name__)
    if "out variant" in str(exc).lower():
        return Unsupported(
            f"ExecuTorch has no kernel for an operator of the model: {text}"[:400],
            hint="replace the operator, or compute it before or after inference",
        )
    return ConversionError(f"ExecuTorch cannot lower the model: {type(exc).__name__}: {text}"[:400])


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without the cyclic garbage collector: every pass builds the graph anew, and going through all objects
    of torch each time took a tenth of the work for 3 % less memory (MobileNetV2)."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def _listening() -> Iterator[_Reasons]:
    """Collect the partitioner's reasons; what it logs goes nowhere else."""
    reasons = _Reasons()

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            node, reason = getattr(record.msg, "node", None), getattr(record.msg, "reason", "")
            if node is not None:
                reasons.by_node.setdefault(str(node.name), str(reason))

    logger, handler = logging.getLogger(_RULES), Collect(level=logging.DEBUG)
    before = (logger.level, logger.propagate)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    logger.addHandler(handler)
    try:
        yield reasons
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]


def _placement(graph: Any, reasons: _Reasons) -> tuple[dict[str, Placed], tuple[tuple[str, str], ...], int]:
    inside: dict[str, list[str]] = {}
    partitions = 0
    for node in graph.graph.nodes:
        if node.op == "get_attr" and hasattr(getattr(graph, str(node.target), None), "original_module"):
            partitions += 1
            known: dict[Any, str] = {}
            for inner in getattr(graph, node.target).original_module.graph.nodes:
                if inner.op == "call_function" and unit_of(inner):
                    inside.setdefault(unit_of(inner), []).append(_precision(inner, known))
    outside: dict[str, str] = {}
    others = []
    for node in graph.graph.nodes:
        name = _edge_name(node)
        if not name:
            continue
        reason = reasons.by_node.get(node.name) or _reason(name)
        if unit_of(node):
            outside.setdefault(unit_of(node), reason)
        else:
            others.append((name, reason))
    placed = {
        unit: Placed(True, max(precisions, key=_RANK.__getitem__)) for unit, precisions in inside.items()
    }
    placed |= {unit: Placed(False, "float32", reason) for unit, reason in outside.items()}
    return placed, tuple(others), partitions


def _edge_name(node: Any) -> str:
    """ "mean.dim" for an operator outside the delegates, "" for anything else in the graph."""
    if node.op != "call_function" or not hasattr(node.target, "_schema"):
        return ""
    name = str(node.target._schema.name)
    if "call_delegate" in name:
        return ""
    overload = str(node.target._schema.overload_name)
    return name.removeprefix("aten::") + (f".{overload}" if overload else "")


def _reason(name: str) -> str:
    """For what the partitioner leaves without a word."""
    from executorch.backends.xnnpack.partition.config import ALL_PARTITIONER_CONFIGS

    plain = name if "." in name else f"{name}.default"
    if any(getattr(c, "target_name", None) == plain for c in ALL_PARTITIONER_CONFIGS):
        return f"xnnpack does not take {name} with these arguments"
    return f"xnnpack has no kernel for {name}"


def _precision(node: Any, known: dict[Any, str]) -> str:
    """In what XNNPACK computes an operator, read from the quantisers that the partitioner tied to it."""
    from executorch.backends.xnnpack.utils.quant_utils import (
        is_dequant,
        is_dynamic_qdq,
        is_tagged_as_implicit_q_dq,
    )

    if node in known:
        return known[node]
    found = "float32"
    for given in node.all_input_nodes:
        if first_tensor(given.meta.get("val")) is None or given.op != "call_function":
            continue
        if is_dequant(given):
            if not is_tagged_as_implicit_q_dq(given):
                continue
            if is_dynamic_qdq(given):
                found = "dynamic"
                break
            found = "int8"
        elif _base_name(node) in _FUSED or _base_name(given) == _PADDING:
            # An activation computes as the operator that it is fused with, a layer as its padding.
            found = _precision(given, known) if found == "float32" else found
    known[node] = found
    return found


def _base_name(node: Any) -> str:
    return str(getattr(getattr(node.target, "_schema", None), "name", ""))
