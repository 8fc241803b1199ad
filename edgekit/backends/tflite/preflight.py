"""Operators of a model that no TFLite exporter takes, found before any conversion."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.backends import onnx_export
from edgekit.backends.onnx_preflight import unsupported_by_onnx
from edgekit.backends.tflite import limits
from edgekit.backends.tflite.exporters import DTYPES, EXTRA, has_litert_torch
from edgekit.types import ModelSpec, Problem

if TYPE_CHECKING:
    from edgekit.backends.torch_graph import TorchGraph, TorchOp

_STANDARD = ("", "ai.onnx", "com.microsoft")
_OWN = "write it with operators of torch itself, or leave it out of the model and compute it before or after"
_OTHER_EXPORTER = f"or install another exporter, which may take it: {EXTRA}"


def problems(source: Any, spec: ModelSpec, graph: TorchGraph | None) -> list[Problem]:
    """What stands in the way of a .tflite of a torch module, or of an ONNX file.

    An operator is a problem when it becomes no ONNX operator, or one that onnx2tf or TFLite does not take,
    and litert-torch is not installed or does not take it either. Empty for a module that torch.export
    refuses: the TorchScript based exporter may still take it.
    """
    found = _inputs(spec)
    if isinstance(source, Path):
        return found + _nodes_of(source, spec)
    if graph is None or graph.program is None:
        return found
    unknown = {(p.op, p.where): p for p in unsupported_by_onnx(graph)}
    limited = {(p.op, p.where): p for p in _limits_of_onnx2tf(graph)}
    blocked = [*{**limited, **unknown}.values()]
    return found + _sizes_from_values(graph) + _left_over(blocked, graph)


def _inputs(spec: ModelSpec) -> list[Problem]:
    return [
        Problem(
            op=f"input {t.name}",
            where="",
            reason=f"it is {t.dtype}, and edgekit writes TFLite files with float32, int32 and int64 inputs",
            hint="let forward take float32, or int64 for indices, and convert inside",
        )
        for t in spec.inputs
        if t.dtype not in DTYPES
    ]


def _sizes_from_values(graph: TorchGraph) -> list[Problem]:
    """Operators such as nonzero, whose result is as long as the values of a tensor say."""
    found = {}
    for node, op in _called(graph):
        free = any(d < 0 for shape in op.shapes for d in shape)
        if free and not any(_is_free(n.meta.get("val")) for n in node.all_input_nodes):
            found[op.op, op.where] = Problem(
                op=op.op,
                where=op.where,
                reason=f"the size of its result depends on values{_line(op)}; a TFLite file has fixed shapes",
                hint="keep the full size: torch.where or a product with the mask instead of an index by it, "
                "topk instead of nonzero",
            )
    return list(found.values())


def _is_free(value: Any) -> bool:
    shape = getattr(value, "shape", ())
    return any(not isinstance(d, int) for d in shape)


def _called(graph: TorchGraph) -> Iterable[tuple[Any, TorchOp]]:
    nodes = [n for n in graph.program.graph.nodes if n.op == "call_function"]
    return zip(nodes, graph.ops, strict=True)


def _limits_of_onnx2tf(graph: TorchGraph) -> list[Problem]:
    found = []
    for _, op in _called(graph):
        limit = limits.of_onnx2tf(op)
        if limit is not None:
            reason = f"{limit.reason}{_line(op)}"
            found.append(Problem(op=op.op, where=op.where, reason=reason, hint=limit.hint))
    return found


def _left_over(blocked: list[Problem], graph: TorchGraph) -> list[Problem]:
    """The problems that litert-torch does not solve."""
    if not blocked:
        return []
    own = [p for p in blocked if _is_own(p.op)]
    others = [p for p in blocked if not _is_own(p.op)]
    found = [
        replace(
            p, reason=f"{p.reason}; TFLite exporters know no operators of {p.op.split('.')[0]}", hint=_OWN
        )
        for p in own
    ]
    if not has_litert_torch():
        return found + [replace(p, hint=f"{p.hint}; {_OTHER_EXPORTER}".removeprefix("; ")) for p in others]
    refused = {op.op for node, op in _called(graph) if not _lowered(op, node)}
    also = "; litert-torch does not take it either"
    # With an operator of the user's own, the rest is a problem too: litert-torch never gets that far.
    return found + [replace(p, reason=p.reason + also) for p in others if own or p.op in refused]


def _lowered(op: TorchOp, node: Any) -> bool:
    """Whether litert-torch takes a call that becomes no ONNX operator, or none that onnx2tf takes."""
    limit = limits.of_onnx2tf(op)
    return limit is not None and limit.other(op, node)


def _is_own(op: str) -> bool:
    """Whether the operator is registered by the user or a package: known to no exporter's process."""
    return "." in op and not op.startswith(("aten.", "prims.", "prim."))


def _nodes_of(path: Path, spec: ModelSpec) -> list[Problem]:
    """Nodes of an ONNX file that onnx2tf does not convert."""
    import onnx

    proto = onnx.load(str(path))
    constants = {i.name for i in proto.graph.initializer}
    names = [i.name for i in proto.graph.input if i.name not in constants]
    shapes = {n: list(t.shape) for n, t in zip(names, spec.inputs, strict=True)}
    try:
        proto = onnx_export.simplify(proto, shapes)  # what it folds away is no problem
    except Exception as exc:
        reason = f"ONNX's own tools cannot simplify the file: {type(exc).__name__}: {exc}"[:300]
        return [Problem(op=path.name, where="", reason=reason, hint="check it with onnx.checker.check_model")]
    known = _known_to_onnx2tf()
    found: dict[tuple[str, str], Problem] = {}
    for node in proto.graph.node:
        if node.op_type not in known or node.domain not in _STANDARD:
            domain = f" of {node.domain}" if node.domain not in _STANDARD else ""
            reason, hint = f"onnx2tf has no conversion for {node.op_type}{domain}", limits.REPLACE
        else:
            limit = limits.of_node(node)
            if limit is None:
                continue
            reason, hint = limit.reason, limit.hint
        found[node.op_type, node.name] = Problem(
            op=node.op_type,
            where=node.name or node.output[0],
            reason=reason,
            hint=f"{hint}, or give the torch model: litert-torch takes those",
        )
    return list(found.values())


@functools.cache
def _known_to_onnx2tf() -> frozenset[str]:
    """ONNX operators with a converter, by the names of the package's files: importing it takes seconds."""
    package = importlib.util.find_spec("onnx2tf")
    assert package is not None and package.origin is not None
    return frozenset(p.stem for p in (Path(package.origin).parent / "ops").glob("[A-Z]*.py"))


def _line(op: TorchOp) -> str:
    return f" ({op.line})" if op.line else ""
