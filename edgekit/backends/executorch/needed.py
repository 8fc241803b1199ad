"""Lowering without the work that a program does not need.

ExecuTorch traces the whole graph anew for every one of XNNPACK's passes, whether or not the graph has what
the pass rewrites, and decomposes it three times to keep single operators whole. Of MobileNetV2's lowering
that was more than half; the file is the same to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_CONVOLUTION = "aten.convolution.default"
_NORMS = frozenset({"aten.native_batch_norm.default", "aten._native_batch_norm_legit_no_training.default"})
_NEEDS: Mapping[str, frozenset[str]] = {
    "ConvertToUpsampleBilinear2d": frozenset(
        {"aten.index.Tensor", "aten._unsafe_index.Tensor", "aten.upsample_bilinear2d.vec"}
    ),
    "ConvertToSDPAPass": frozenset({"aten._softmax.default"}),
    "FuseBatchNormPass": _NORMS,
    "DecomposeBatchNorm": _NORMS,
    "DecomposeConcatenate": frozenset({"aten.cat.default"}),
    "RemoveGetItemPass": frozenset({"getitem"}),
    "Conv1dUnsqueezePass": frozenset({f"{_CONVOLUTION} 1d"}),
    "PReLUReshapePass": frozenset({"aten._prelu_kernel.default"}),
}
"""XNNPACK's passes that only rewrite certain operators; a pass that is not named here always runs."""


def partitioner() -> Any:
    """XnnpackPartitioner, which asks for one decomposition where it would keep every candidate whole.

    ExecuTorch decomposes twice more to filter candidates by the partitioner's own check; where the check
    refuses none of the program's operators there is nothing to filter.
    """
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner

    class Partitioner(XnnpackPartitioner):  # type: ignore[misc]
        def ops_to_not_decompose(
            self, ep: torch.export.ExportedProgram
        ) -> tuple[list[Any], Callable[[Any], bool] | None]:
            operators, check = super().ops_to_not_decompose(ep)
            kept = set(operators)
            candidates = [n for n in ep.graph.nodes if n.op == "call_function" and n.target in kept]
            if check is None or all(check(n) for n in candidates):
                return operators, None
            return operators, check

    return Partitioner()


@contextmanager
def needed_passes() -> Iterator[None]:
    """XNNPACK's passes, without those whose operators the graph does not have."""
    from executorch.backends.xnnpack import xnnpack_preprocess

    whole = xnnpack_preprocess.XNNPACKPassManager

    class Needed(whole):  # type: ignore[misc,valid-type]
        passes: list[Any]

        def __init__(self, exported_program: torch.export.ExportedProgram, passes: Any = None) -> None:
            super().__init__(exported_program, passes)
            present = _operators(exported_program)
            if not passes:
                self.passes = [p for p in self.passes if _is_needed(p.__name__, present)]

    xnnpack_preprocess.XNNPACKPassManager = Needed
    try:
        yield
    finally:
        xnnpack_preprocess.XNNPACKPassManager = whole


def _is_needed(name: str, present: frozenset[str]) -> bool:
    return name not in _NEEDS or bool(_NEEDS[name] & present)


def _operators(program: torch.export.ExportedProgram) -> frozenset[str]:
    """Names of all operators of a graph, "aten.cat.default"; convolutions of 3-D tensors by a name more."""
    found = set()
    for node in program.graph.nodes:
        if node.op != "call_function":
            continue
        name = str(getattr(node.target, "__name__", node.target))
        found.add(name)
        if name == _CONVOLUTION and node.args[0].meta["val"].dim() != 4:
            found.add(f"{name} 1d")
    return frozenset(found)
