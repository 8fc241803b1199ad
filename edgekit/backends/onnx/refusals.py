"""Operators that ONNX has and the delegate has not."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.backends.onnx import openvino
from edgekit.backends.onnx.graph import read_graph
from edgekit.backends.onnx.session import open_session
from edgekit.errors import StepFailed, Unsupported
from edgekit.types import Artifact, Problem

if TYPE_CHECKING:
    from edgekit.backends.torch_graph import TorchGraph
    from edgekit.types import Scheme

_HINT = "write it with other operators, or leave it out of the model and compute it before or after inference"
_AS_ONNX: Mapping[str, str] = {
    "aten.fft_": "DFT",
    "aten.stft": "STFT",
    "aten.det": "Det",
    "aten.linalg_det": "Det",
    "aten.unique": "Unique",
    "aten._unique": "Unique",
    "aten.bernoulli": "Bernoulli",
    "aten.multinomial": "Multinomial",
    "aten.bitwise_and": "BitwiseAnd",
    "aten.bitwise_or": "BitwiseOr",
    "aten.bitwise_xor": "BitwiseXor",
    "aten.bitwise_not": "BitwiseNot",
}
"""torch operators (how their names begin) whose ONNX form is not everywhere."""


_QUANTIZED = ("conv", "linear", "addmm", "matmul", "aten.mm", "einsum")
"""Parts of the names of torch operators with weights, which int8 begins at."""


def in_torch(graph: TorchGraph, scheme: Scheme) -> list[Problem]:
    """Operators of a torch model that become ONNX operators which TensorRT's parser does not import; and a
    model in which there is nothing to quantise."""
    if scheme.precision == "int8" and graph.ops and not any(q in o.op for o in graph.ops for q in _QUANTIZED):
        nothing = "the model has no convolution or matrix product with weights, so int8 would change nothing"
        return [Problem(op="int8", where="", reason=nothing, hint="choose another precision")]
    if scheme.delegate != "tensorrt":
        return []
    from edgekit.backends.onnx.tensorrt import operators

    problems: dict[tuple[str, str], Problem] = {}
    for op in graph.ops:
        onnx_op = next((o for start, o in _AS_ONNX.items() if op.op.startswith(start)), None)
        reason = operators.refuse(onnx_op, scheme.delegate_version) if onnx_op else None
        if reason is not None:
            problem = Problem(op=op.op, where=op.where, reason=f"becomes {onnx_op}: {reason}", hint=_HINT)
            problems.setdefault((op.op, op.where), problem)
    return list(problems.values())


def in_file(path: Path, scheme: Scheme) -> list[Problem]:
    """Operators of an ONNX file that the delegate does not take."""
    if scheme.delegate == "tensorrt":
        from edgekit.backends.onnx.tensorrt import rules

        kinds = {op.name: op.op for op in read_graph(path).ops}
        return [
            Problem(op=kinds.get(v.node, "a tensor"), where=v.node, reason=v.reason, hint=v.change)
            for v in rules.violations(path, scheme.delegate_version)
            if v.rule in ("operator", "dtype")
        ]
    try:
        open_session(path, optimize=False)
    except StepFailed as exc:
        return [_problem(str(exc))]
    return []


def check_loads(artifact: Artifact, scheme: Scheme) -> None:
    """Raise Unsupported when the delegate, or ONNX Runtime that stands for it here, refuses a float file."""
    problems = in_file(artifact.path, scheme)
    if scheme.delegate == "tensorrt" and not problems:
        problems = in_file(artifact.path, _on_host(scheme))
    if problems:
        first = problems[0]
        more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise Unsupported(f"{first.where or 'the model'}: {first.reason}{more}", hint=first.hint)
    if scheme.delegate == "openvino":
        try:
            openvino.compiled(artifact)
        except StepFailed as exc:
            raise Unsupported(str(exc), hint=_HINT) from exc


def _on_host(scheme: Scheme) -> Scheme:
    return replace(scheme, delegate="cpu", delegate_version="")


def _problem(message: str) -> Problem:
    """A problem from ONNX Runtime's words: "... Could not find an implementation for DFT(17) node with name
    'node_dft'"."""
    found = re.search(r"implementation for (\w+)(?:\(\d+\))? node with name '([^']*)'", message)
    op, where = (found[1], found[2]) if found else ("the file", "")
    return Problem(op=op, where=where, reason=message, hint=_HINT)
