"""Where a float .pte file first computes something else than the graph that it was lowered from."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.backends.executorch.lowering import lower
from edgekit.backends.executorch.program import first_tensor, load, reexport, unit_nodes, unit_of
from edgekit.backends.executorch.session import intermediate, runtime, tap_graph
from edgekit.backends.executorch.toolchain import quiet
from edgekit.backends.torch_graph import tensors
from edgekit.types import Artifact

if TYPE_CHECKING:
    from edgekit.types import Array


def first_divergence(artifact: Artifact, sample: Sequence[Array], *, tolerance: float) -> str | None:
    """Words for the first unit whose value differs by more than ``tolerance`` x its largest value.

    Delegates keep no intermediate values, so the graph is lowered once more with every unit as an output.
    None when all units agree: then torch.export's graph itself is not the user's module.
    """
    import torch

    graph = load(intermediate(artifact, "program_sha256")).module(check_guards=False)
    inputs = [np.ascontiguousarray(x, dtype=s.dtype) for x, s in zip(sample, artifact.inputs, strict=True)]
    nodes = [n for n in unit_nodes(graph.graph) if _is_plain_float(n)]
    names = [unit_of(n) for n in nodes]
    expected = tap_graph(graph, inputs, set(names))
    output = graph.graph.output_node()
    output.args = (tuple(nodes),)
    graph.graph._codegen = torch.fx.graph.CodeGen()
    graph.recompile()
    lowered = lower(reexport(graph, inputs))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "units.pte"
        path.write_bytes(lowered.data)
        with quiet():
            method = runtime().load_program(path).load_method("forward")
            found = method.execute(tensors(inputs))
        for name, value in zip(names, found, strict=True):
            error = _error(expected[name], value.numpy())
            if error > tolerance:
                return f"{name} ({error:.2g})"
    return None


def _is_plain_float(node: Any) -> bool:
    value = node.meta.get("val")
    return first_tensor(value) is value and str(value.dtype) == "torch.float32"


def _error(reference: Array, got: Array) -> float:
    top = max(float(np.abs(reference).max(initial=0.0)), 1e-12)
    return float(np.abs(reference - got).max(initial=0.0)) / top
