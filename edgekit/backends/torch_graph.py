"""The graph of a torch module as torch.export sees it: what preflight checks of all backends look at."""

from __future__ import annotations

import contextlib
import io
import logging
import traceback
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from edgekit.types import Array


_BRANCHES = ("GuardOnDataDependentSymNode", "DataDependentOutputException")
"""Errors of torch for an ``if``, a loop or an index that depends on the values of a tensor."""


@dataclass(frozen=True, kw_only=True)
class TorchOp:
    """One operator call: "aten.convolution.default", the module that made it and what it returns.

    ``where`` is the module's path ("features.3.conv", "" at the top), ``module_type`` its class,
    ``line`` the innermost line of the user's own code ("net.py:41"), "" when torch recorded none.
    ``shapes`` and ``dtypes`` are those of the returned tensors, ``input_dtypes`` of the tensor arguments.
    """

    op: str
    where: str
    module_type: str
    line: str
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]
    input_dtypes: tuple[str, ...]
    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class TorchGraph:
    """Operators in execution order; ``program`` is the torch.export.ExportedProgram they come from.

    ``error`` says why torch.export refused the module; ``ops`` is empty and ``program`` None then, and
    ``error_line`` is the line of the user's own code that it stopped at ("net.py:41"), "" if unknown.
    """

    ops: tuple[TorchOp, ...] = ()
    program: Any = None
    error: str | None = None
    error_line: str = ""


def tensors(sample: Sequence[Array]) -> tuple[torch.Tensor, ...]:
    """Arrays as tensors of their own memory, last axis innermost.

    torch.export writes the order of a sample's axes into the program, and ExecuTorch then runs on no other:
    samples in Fortran order, or cut out of a transposed array, must not decide that.
    """
    import numpy as np
    import torch

    return tuple(torch.from_numpy(np.array(x, order="C")) for x in sample)


def trace(module: torch.nn.Module, sample: Sequence[Array]) -> TorchGraph:
    """Export ``module`` (eval mode, static shapes) on one sample in source layout. Never raises."""
    import torch

    inputs = tensors(sample)
    try:
        with _quiet(), torch.no_grad():
            program = torch.export.export(module, inputs, strict=False)
    except Exception as exc:  # torch.export raises whatever the user's forward meets
        # Errors of torch.export quote the user's line; others have it in their traceback.
        text = str(exc) if 'File "' in str(exc) else traceback.format_exc()
        return TorchGraph(error=_reason(exc), error_line=_user_line(text))
    nodes = [n for n in program.graph.nodes if n.op == "call_function"]
    return TorchGraph(ops=tuple(_op(n) for n in nodes), program=program)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """torch.export prints the graph so far on standard error and logs advice before it raises."""
    logger = logging.getLogger("torch.fx.experimental.symbolic_shapes")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _op(node: Any) -> TorchOp:
    where, kind = _module_of(node)
    return TorchOp(
        op=str(node.target),
        where=where,
        module_type=kind,
        line=_user_line(node.meta.get("stack_trace") or ""),
        shapes=tuple(tuple(_dim(d) for d in t.shape) for t in _tensors(node.meta.get("val"))),
        dtypes=tuple(str(t.dtype).removeprefix("torch.") for t in _tensors(node.meta.get("val"))),
        input_dtypes=tuple(
            str(t.dtype).removeprefix("torch.")
            for n in node.all_input_nodes
            for t in _tensors(n.meta.get("val"))
        ),
        target=node.target,
        args=tuple(node.args),
        kwargs=dict(node.kwargs),
    )


def place_of(node: Any) -> tuple[str, str]:
    """Path of the module that made a node of an exported graph ("features.3.conv", "" at the top), and the
    line of the user's own code ("net.py:41"), "" where torch recorded none."""
    return _module_of(node)[0], _user_line(node.meta.get("stack_trace") or "")


def _module_of(node: Any) -> tuple[str, str]:
    """Path and class name of the innermost module: nn_module_stack maps keys to (path, class)."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    if not stack:
        return "", ""
    path, kind = stack[-1]
    name = kind if isinstance(kind, str) else kind.__name__
    return str(path).removeprefix("L['self']").lstrip("."), name.rpartition(".")[2]


def _user_line(trace: str) -> str:
    """The innermost frame outside torch: lines look like \'File "/x/net.py", line 41, in forward\'."""
    frames = [line.strip() for line in trace.splitlines() if line.strip().startswith("File ")]
    for frame in reversed(frames):
        path, _, rest = frame.removeprefix("File ").partition(", line ")
        path = path.strip('"')
        if "/torch/" not in path and path != __file__:
            return f"{path.rpartition('/')[2]}:{rest.partition(',')[0]}"
    return ""


def _tensors(value: Any) -> list[Any]:
    found = value if isinstance(value, (list, tuple)) else [value]
    return [t for t in found if hasattr(t, "dtype") and hasattr(t, "shape")]


def _dim(size: Any) -> int:
    return size if isinstance(size, int) else -1


def _reason(exc: Exception) -> str:
    """One line. Branches on values get words of their own: they are what users meet most."""
    if type(exc).__name__ in _BRANCHES:
        return "data-dependent control flow: a branch, loop or size depends on the values of the input"
    line = next((text.strip() for text in str(exc).splitlines() if text.strip()), "")
    return f"{type(exc).__name__}: {line}"[:300]
