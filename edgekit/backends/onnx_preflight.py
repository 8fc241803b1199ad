"""Operators of a torch model that cannot become ONNX, found before any conversion."""

from __future__ import annotations

import functools
import logging
import warnings
from typing import TYPE_CHECKING, Any

from edgekit.types import Problem

if TYPE_CHECKING:
    from edgekit.backends.torch_graph import TorchGraph, TorchOp

_TORCHSCRIPT_OPSET = 17
"""The opset of the exporter that is tried second, see onnx_export.py."""

_CHECKS = ("aten._assert", "aten.sym_constrain_range")
"""Operators that only check values; the exporter drops them."""

_HINT = (
    "write it with operators that ONNX has (https://onnx.ai/onnx/operators), or leave it out of the model "
    "and compute it before or after inference"
)
_HINT_COMPLEX = (
    "ONNX has no complex numbers: compute with real and imaginary parts as separate float tensors, or leave "
    "this part out of the model and compute it before or after inference"
)


def unsupported_by_onnx(graph: TorchGraph) -> list[Problem]:
    """Operators that neither of torch's ONNX exporters converts, one problem per operator and module.

    The graph is decomposed as torch.onnx.export would do it, then each operator is looked up in its
    registry; what is missing there counts only if the TorchScript based exporter does not know the user's
    own operator either. Empty when torch.export refused the module (``graph.error`` says why): the
    TorchScript based exporter may still take it. Seconds, even for large models; nothing is computed.
    """
    if graph.program is None:
        return []
    from torch.onnx._internal.exporter import _dispatching, _fx_passes

    registry = _registry()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = _fx_passes.decompose_with_registry(graph.program, registry)
    sources = _sources(graph)
    problems: dict[tuple[str, str], Problem] = {}
    for node in program.graph.nodes:
        if node.op != "call_function" or str(node.target).startswith(_CHECKS):
            continue
        if _dispatching.dispatch(node, registry)[0] is not None:
            continue
        is_complex = any(_is_complex(n.meta.get("val")) for n in node.all_input_nodes)
        source = sources.get(_root(node))
        name = source.op if source is not None else str(node.target)
        if not is_complex and _known_to_torchscript(name):
            continue
        where = source.where if source is not None else ""
        problems.setdefault((name, where), _problem(name, str(node.target), source, is_complex=is_complex))
    return list(problems.values())


@functools.cache
def _registry() -> Any:
    """torch.onnx's table of what it converts, under one second to fill."""
    from torch.onnx._internal.exporter import _registration

    logger = logging.getLogger(_registration.__name__)
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns of every torchvision operator when that is not installed
    try:
        return _registration.ONNXRegistry.from_torchlib()
    finally:
        logger.setLevel(level)


def _sources(graph: TorchGraph) -> dict[str, TorchOp]:
    """The user's operators by the names of their nodes in the exported program."""
    nodes = [n for n in graph.program.graph.nodes if n.op == "call_function"]
    return {node.name: op for node, op in zip(nodes, graph.ops, strict=True)}


def _root(node: Any) -> str:
    """Name of the node of the undecomposed program that ``node`` came from."""
    origin = (node.meta.get("from_node") or [None])[0]
    while origin is not None and origin.from_node:
        origin = origin.from_node[0]
    return origin.name if origin is not None else str(node.name)


def _is_complex(value: Any) -> bool:
    found = value if isinstance(value, (list, tuple)) else [value]
    return any(getattr(getattr(t, "dtype", None), "is_complex", False) for t in found)


def _known_to_torchscript(op: str) -> bool:
    """Whether the TorchScript based exporter has a rule for an operator such as "aten.roll.default"."""
    from torch.onnx._internal.torchscript_exporter import registration

    namespace, _, rest = op.partition(".")
    name = f"{namespace}::{rest.partition('.')[0]}"
    return bool(registration.registry.is_registered_op(name, _TORCHSCRIPT_OPSET))


def _problem(name: str, target: str, source: TorchOp | None, *, is_complex: bool) -> Problem:
    line = f" ({source.line})" if source is not None and source.line else ""
    through = f"becomes {target}, which " if target != name else ""
    what = "takes complex numbers here" if is_complex else "has no conversion to ONNX"
    return Problem(
        op=name,
        where=source.where if source is not None else "",
        reason=f"{through}{what}{line}",
        hint=_HINT_COMPLEX if is_complex else _HINT,
    )
