"""Operators of a torch model that ExecuTorch cannot run, found before any conversion."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.backends.executorch.toolchain import quiet, require_executorch
from edgekit.types import Problem

if TYPE_CHECKING:
    from edgekit.backends.torch_graph import TorchGraph, TorchOp

ONNX_REASON = "ExecuTorch needs the torch module, and this model is an ONNX file"
ONNX_HINT = "give the model as file.py:callable or as a .pt2 program, or choose another runtime"

_HINT = (
    "replace it by operators that ExecuTorch has (docs.pytorch.org/executorch, portable kernels), or leave "
    "it out of the model and compute it before or after inference"
)
_HINT_COMPLEX = (
    "compute with real and imaginary parts as separate float tensors, or leave this part out of the model "
    "and compute it before or after inference"
)


def problems(source: Any, graph: TorchGraph | None) -> list[Problem]:
    """One problem per operator and module that has no kernel; seconds, nothing is computed."""
    if isinstance(source, Path):
        return [Problem(op="ONNX", where="", reason=ONNX_REASON, hint=ONNX_HINT)]
    if graph is None:
        return []
    if graph.program is None:
        line = f" ({graph.error_line})" if graph.error_line else ""
        return [
            Problem(
                op="torch.export",
                where="",
                reason=f"torch.export refuses the model: {graph.error}{line}",
                hint="ExecuTorch needs a graph with static control flow: use torch.where instead of a branch",
            )
        ]
    return _complex(graph) or _without_kernel(graph)


def _complex(graph: TorchGraph) -> list[Problem]:
    """Operators on complex numbers: ExecuTorch's passes do not read such a graph at all."""
    found: dict[tuple[str, str], Problem] = {}
    for op in graph.ops:
        if any(t.startswith("complex") for t in (*op.dtypes, *op.input_dtypes)):
            found.setdefault((op.op, op.where), _problem(op.op, op, is_complex=True))
    return list(found.values())


def _without_kernel(graph: TorchGraph) -> list[Problem]:
    require_executorch()
    from executorch.exir import EdgeCompileConfig, to_edge

    from edgekit.backends.executorch.session import known_kernels

    preserved = _preserved()
    with quiet():
        try:
            edge = to_edge(
                graph.program,
                compile_config=EdgeCompileConfig(_check_ir_validity=False, preserve_ops=preserved),
            ).exported_program()
        except Exception as exc:  # exir raises whatever its passes meet
            text = next((x.strip() for x in str(exc).splitlines() if x.strip()), "")
            reason = f"ExecuTorch cannot read the exported graph: {type(exc).__name__}: {text}"[:300]
            return [Problem(op="torch.export", where="", reason=reason, hint=_HINT)]
    known, sources = known_kernels(), _sources(graph)
    found: dict[tuple[str, str], Problem] = {}
    for node in edge.graph.nodes:
        target = getattr(node.target, "_op", None)
        if node.op != "call_function" or target is None or target in preserved:
            continue
        if _kernel(target) in known:
            continue
        problem = _problem(str(target), sources.get(_root(node)), is_complex=False)
        found.setdefault((problem.op, problem.where), problem)
    return list(found.values())


def _preserved() -> list[Any]:
    """Operators that XNNPACK takes whole, which are therefore not taken apart."""
    from executorch.backends.xnnpack.partition.config import ALL_PARTITIONER_CONFIGS

    found = [config().get_original_aten() for config in ALL_PARTITIONER_CONFIGS]
    return [op for op in found if op is not None]


def _kernel(target: Any) -> str:
    """The kernel that runs an operator, "aten::add.out"; "" when there can be none."""
    from executorch.exir.operator.convert import to_out_variant

    schema = target._schema
    if str(schema.name).startswith(("executorch_prim::", "aten::sym_", "aten::_assert")):
        return str(schema.name)
    try:
        out = to_out_variant(target)[0]._schema
    except (RuntimeError, KeyError, AttributeError):
        return ""
    return f"{out.name}.{out.overload_name}" if out.overload_name else str(out.name)


def _problem(target: str, source: TorchOp | None, *, is_complex: bool) -> Problem:
    op = source.op if source is not None else target
    line = f" ({source.line})" if source is not None and source.line else ""
    through = f"becomes {target}, which " if target != op else ""
    what = "takes complex numbers here" if is_complex else "has no kernel in ExecuTorch"
    return Problem(
        op=op,
        where=source.where if source is not None else "",
        reason=f"{through}{what}{line}",
        hint=_HINT_COMPLEX if is_complex else _HINT,
    )


def _sources(graph: TorchGraph) -> dict[str, TorchOp]:
    """The user's operators by the names of their nodes in the exported program."""
    nodes = [n for n in graph.program.graph.nodes if n.op == "call_function"]
    return {node.name: op for node, op in zip(nodes, graph.ops, strict=True)}


def _root(node: Any) -> str:
    """Name of the node of the exported program that ``node`` came from."""
    origin = (node.meta.get("from_node") or [None])[0]
    while origin is not None and origin.from_node:
        origin = origin.from_node[0]
    return origin.name if origin is not None else str(node.name)
