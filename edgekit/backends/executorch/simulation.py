"""Int8 files that only rank layers: played by the observers of one prepared graph, nothing is lowered.

Imported where executorch is loaded already.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e
from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

from edgekit.backends.executorch.calibration import Work, one_thread
from edgekit.backends.executorch.masks import masked_units
from edgekit.backends.executorch.observers import ActivationObserver, WeightObserver
from edgekit.backends.executorch.program import unit_of
from edgekit.backends.executorch.quantizer import UnitQuantizer
from edgekit.backends.executorch.toolchain import quiet
from edgekit.backends.torch_graph import tensors
from edgekit.types import ignore_events

if TYPE_CHECKING:
    from edgekit.types import Array


def simulator(
    program: torch.export.ExportedProgram,
    samples: Sequence[Sequence[Array]],
    heard: Sequence[Sequence[Array]],
    *,
    keep: Sequence[str],
    per_channel: bool,
    trained: Sequence[Sequence[float]],
) -> Callable[[frozenset[str]], list[Array]]:
    """See :class:`edgekit.backends.base.Simulating`; the units in ``keep`` stay in float always."""
    with quiet(), torch.no_grad(), one_thread():
        graph = program.module(check_guards=False)
        masked = masked_units(graph, tensors(samples[0]))
        graph = prepare_pt2e(graph, UnitQuantizer([*keep, *masked], per_channel=per_channel, dynamic=False))
        work = Work(graph, ignore_events, trained)
        work.watch([samples])
        work.apply("mse", [0], samples)
    asking = _asking(graph)

    def outputs(kept: frozenset[str]) -> list[Array]:
        for module, units in asking.values():
            module.mode = "pass" if units <= kept else "simulate"
        with torch.no_grad(), one_thread():
            return work.run(heard)

    return outputs


def _asking(graph: Any) -> dict[int, tuple[Any, set[str]]]:
    """Each observer, by identity, and the units whose quantisation asks for it: those that write a tensor
    with its range, and those that read it so."""
    found: dict[int, tuple[Any, set[str]]] = {}
    for node in graph.graph.nodes:
        module = graph.get_submodule(node.target) if node.op == "call_module" else None
        if not isinstance(module, ActivationObserver | WeightObserver):
            continue
        units = found.setdefault(id(module), (module, set()))[1]
        source = node.args[0]
        while source.op == "call_module":
            source = source.args[0]
        wanted = source.meta.get(Q_ANNOTATION_KEY)
        if wanted is not None and wanted.output_qspec is not None:
            units.add(unit_of(source))
        units.update(
            unit_of(user) for user in node.users if user.op == "call_function" and _reads(user, source)
        )
    return found


def _reads(user: Any, source: Any) -> bool:
    wanted = user.meta.get(Q_ANNOTATION_KEY)
    return wanted is not None and source in wanted.input_qspec_map
