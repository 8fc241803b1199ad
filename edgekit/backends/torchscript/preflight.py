"""What TorchScript and its int8 cannot take, said before anything is converted."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.backends.torchscript.session import zeros
from edgekit.types import ModelSpec, Problem, Scheme

if TYPE_CHECKING:
    from edgekit.backends.torch_graph import TorchGraph, TorchOp

_OWN = ("aten", "prim", "prims", "higher_order")
"""Namespaces of operators that every torch has."""
_LAYERS = ("conv", "linear", "addmm", "matmul", "lstm", "gru")
_DYNAMIC = ("linear", "addmm", "matmul", "lstm", "gru")
_DATA_DEPENDENT = ("data-dependent", "datadependent", "data dependent", "guardondata", "unbacked")


def problems(source: Any, spec: ModelSpec, graph: TorchGraph | None, scheme: Scheme) -> list[Problem]:
    """See :meth:`edgekit.backends.base.Backend.preflight`."""
    if isinstance(source, Path):
        return [
            Problem(
                op="onnx",
                where=source.name,
                reason="a TorchScript file is traced from a torch module, and this is an ONNX file",
                hint="give the torch model, or choose the target tflite or onnx",
            )
        ]
    if graph is None or graph.error is not None:
        return _of_untraced(source, spec, graph)
    found = _foreign(graph.ops)
    if scheme.precision == "int8":
        found += _complex_values(graph.ops)
    wanted = {"int8": _LAYERS, "dynamic": _DYNAMIC}.get(scheme.precision)
    if wanted is not None and not any(any(w in op.op for w in wanted) for op in graph.ops):
        layers = "convolution, linear or recurrent" if scheme.precision == "int8" else "linear or recurrent"
        found.append(
            Problem(
                op="",
                where="",
                reason=f"the model has no {layers} layer, so {scheme.precision} would change nothing",
                hint="choose another precision",
            )
        )
    return found


def _foreign(ops: Sequence[TorchOp]) -> list[Problem]:
    """Operators that are not torch's own, by module: the file does not hold their code."""
    found: dict[tuple[str, str], Problem] = {}
    for op in ops:
        namespace = getattr(op.target, "namespace", "aten")
        if namespace in _OWN:
            continue
        at = f" ({op.line})" if op.line else ""
        found.setdefault(
            (op.op, op.where),
            Problem(
                op=op.op,
                where=op.where,
                reason=f"the file loads only where the library that registers {namespace} is installed{at}",
                hint="write it with operators of torch itself, or leave it out of the model and compute it "
                "before or after inference",
            ),
        )
    return list(found.values())


def _complex_values(ops: Sequence[TorchOp]) -> list[Problem]:
    """Operators on complex numbers, by module."""
    found: dict[tuple[str, str], Problem] = {}
    for op in ops:
        if not any("complex" in dtype for dtype in (*op.dtypes, *op.input_dtypes)):
            continue
        at = f" ({op.line})" if op.line else ""
        found.setdefault(
            (op.op, op.where),
            Problem(
                op=op.op,
                where=op.where,
                reason=f"complex numbers have no int8 form{at}",
                hint="compute the transform outside the model, write it as a convolution with fixed weights, "
                "or choose dynamic or float32, which leave it in float",
            ),
        )
    return list(found.values())


def _of_untraced(source: Any, spec: ModelSpec, graph: TorchGraph | None) -> list[Problem]:
    """Problems of a module that torch.export refused; a trace may still take it."""
    reason = "" if graph is None or graph.error is None else graph.error
    if any(word in reason.lower() for word in _DATA_DEPENDENT):
        return [
            Problem(
                op="control flow",
                where="",
                reason=f"forward decides by the values of a tensor, which a trace cannot hold: {reason}",
                hint="replace the branch by torch.where, or move it out of the model",
            )
        ]
    error = _trace_error(source, spec)
    if error is None:
        return []
    return [
        Problem(
            op="forward",
            where="",
            reason=f"torch.jit.trace refuses the model: {error}",
            hint="run forward on one input of this shape and mend what it reports",
        )
    ]


def _trace_error(source: Any, spec: ModelSpec) -> str | None:
    import torch

    try:
        with warnings.catch_warnings(action="ignore"), torch.no_grad():
            torch.jit.trace(source, zeros(spec.inputs), check_trace=False, strict=False)  # type: ignore[no-untyped-call]
    except Exception as exc:  # whatever the user's forward raises
        line = next((text.strip() for text in str(exc).splitlines() if text.strip()), "")
        return f"{type(exc).__name__}: {line}"[:300]
    return None
