"""Static int8: calibrate once, try every way to choose ranges on the calibrated graph, keep the best.

Candidates are true min/max and MSE-optimal clipping, and the better of them with bias correction. All are
played by the observers in the graph and compared with the float graph on samples held back from calibration.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

from edgekit.backends import calibration, calibration_choice, ties, trained_ranges
from edgekit.backends.calibration_choice import CORRECTED
from edgekit.backends.calibration_methods import methods_of
from edgekit.backends.executorch.correction import correct_biases
from edgekit.backends.executorch.masks import masked_units
from edgekit.backends.executorch.observers import (
    ActivationObserver,
    WeightObserver,
    observers,
    set_mode,
)
from edgekit.backends.executorch.program import op_name
from edgekit.backends.executorch.quantizer import UnitQuantizer
from edgekit.backends.executorch.toolchain import quiet
from edgekit.backends.torch_graph import tensors
from edgekit.errors import DataError
from edgekit.types import Event

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgekit.types import Array, Emit

LAYERS = ("conv1d", "conv2d", "conv_transpose1d", "conv_transpose2d", "linear")


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """A quantised graph and how its ranges were chosen (JSON data)."""

    graph: Any
    calibration: Mapping[str, Any]


def quantize_static(
    program: torch.export.ExportedProgram,
    samples: Sequence[Sequence[Array]],
    *,
    keep: Sequence[str],
    per_channel: bool,
    method: str,
    refit: bool,
    emit: Emit,
    trained: Sequence[Sequence[float]] = (),
) -> Calibrated:
    """The program's graph in int8 but for the units in ``keep``. ``method``: a scheme's calibration.
    With ``trained`` ranges (see Scheme) those are taken, and nothing is corrected.

    Units around infinite constants (see :mod:`edgekit.backends.executorch.masks`) stay in float too. Raises
    DataError for too few samples and for other values that are not finite.
    """
    if len(samples) < calibration_choice.MIN_SAMPLES:
        raise DataError(
            f"int8 needs at least {calibration_choice.MIN_SAMPLES} calibration samples, got {len(samples)}",
            hint="give more with --calib",
        )
    fit, held = calibration_choice.split(samples)
    groups = [fit, held] if fit is not held else [fit]
    with quiet(), torch.no_grad(), one_thread():
        graph = program.module(check_guards=False)
        masked = masked_units(graph, tensors(samples[0]))
        if masked:
            told = f"{', '.join(masked)} stay in float around an infinite constant of the model (a mask)"
            emit(Event(kind="info", step="quantize", message=told))
        quantizer = UnitQuantizer([*keep, *masked], per_channel=per_channel, dynamic=False)
        graph = prepare_pt2e(graph, quantizer)
        work = Work(graph, emit, trained)
        reference = work.watch(groups)
        names = [calibration_choice.TRAINED] if trained else list(methods_of(method))
        tried = work.compare(names, reference, fit, held)
        _, _, chosen, _ = calibration_choice.choose(tried, len(held))
        refitted = refit and len(groups) > 1
        work.apply(chosen, list(range(len(groups))) if refitted else [0], samples if refitted else fit)
        set_mode(graph, "pass")
        converted = convert_pt2e(graph)
    return Calibrated(
        graph=converted,
        calibration={
            "chosen": chosen,
            "samples": len(samples) if refit else len(fit),
            "held_back": len(held),
            "refit": refitted,
            "candidates": work.rows,
        },
    )


def quantize_dynamic(program: torch.export.ExportedProgram, *, keep: Sequence[str]) -> Any:
    """The program's graph with int8 weights and activations that are quantised at run time."""
    with quiet(), torch.no_grad():
        graph = prepare_pt2e(
            program.module(check_guards=False), UnitQuantizer(keep, per_channel=True, dynamic=True)
        )
        # Observers of weights have to see them once.
        for node in graph.graph.nodes:
            if node.op == "call_module" and isinstance(graph.get_submodule(node.target), WeightObserver):
                graph.get_submodule(node.target)(_tensor_of(graph, node.args[0]))
        return convert_pt2e(graph)


@contextmanager
def one_thread() -> Iterator[None]:
    """Batch-1 layers gain nothing from torch's thread pool, and lose a lot when other work is running."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Work:
    """A prepared graph and what its observers have seen."""

    def __init__(self, graph: Any, emit: Emit, trained: Sequence[Sequence[float]] = ()) -> None:
        self.graph = graph
        self._trained = trained
        self.rows: list[dict[str, Any]] = []
        self._emit = emit
        found = observers(graph)
        self._activations = {k: o for k, o in found.items() if isinstance(o, ActivationObserver)}
        self._inputs = _input_observers(graph, self._activations)
        self._outputs = _output_observers(graph, self._activations)
        self._biases = {name: graph_tensor.detach().clone() for name, graph_tensor in _biases(graph).items()}

    def watch(self, groups: Sequence[Sequence[Sequence[Array]]]) -> list[Array]:
        """Let the observers see all samples, group by group; float outputs of the last group."""
        done, total = 0, sum(map(len, groups))
        for number, samples in enumerate(groups):
            set_mode(self.graph, "watch", group=number)
            rows = []
            for sample in samples:
                rows.append(_arrays(self.graph(*tensors(sample))))
                done += 1
                self._emit(Event(kind="progress", step="quantize", data={"done": done, "total": total}))
        every = calibration.merge([self._seen(number) for number in range(len(groups))])
        self._found = trained_ranges.find(every, self._trained)
        return _joined(rows)

    def compare(
        self,
        names: Sequence[str],
        reference: Sequence[Array],
        fit: Sequence[Sequence[Array]],
        held: Sequence[Sequence[Array]],
    ) -> list[tuple[float, float, str, Any]]:
        """Agreement, SQNR and name of every candidate. Only the best ranges are tried with bias correction:
        it costs as much as all the rest, and mends what rounding does, not what ranges cut off. Ranges of a
        training, or without held-back samples to judge them by, are not corrected."""
        tried = [self._try(name, reference, fit, held) for name in names]
        if self._trained or fit is held:
            return tried
        best = calibration_choice.choose(tried, len(held))[2]
        return [*tried, self._try(best + CORRECTED, reference, fit, held)]

    def _try(
        self,
        name: str,
        reference: Sequence[Array],
        fit: Sequence[Sequence[Array]],
        held: Sequence[Sequence[Array]],
    ) -> tuple[float, float, str, Any]:
        self.apply(name, [0], fit)
        set_mode(self.graph, "simulate")
        sqnr, agreement = calibration_choice.compare(reference, self.run(held))
        self.rows.append({"name": name, "sqnr_db": sqnr, "agreement": agreement})
        message = f"calibration {name}: SQNR {sqnr:.1f} dB on held-back samples"
        self._emit(Event(kind="info", step="quantize", message=message))
        return agreement if agreement is not None else 0.0, sqnr, name, None

    def apply(self, name: str, groups: Sequence[int], samples: Sequence[Sequence[Array]]) -> None:
        """Set all ranges by one candidate, from what was seen of ``groups``."""
        for key, bias in self._biases.items():
            _biases(self.graph)[key].data.copy_(bias)
        method = name.removesuffix(CORRECTED)
        seen = calibration.merge([self._seen(g) for g in groups])
        if self._trained:
            method = "minmax"
            seen = trained_ranges.given(seen, self._found)
        chosen = ties.avoided(methods_of(method)[method](seen), ties.values_of(self._inputs, samples))
        for key, observer in self._activations.items():
            if key in seen:
                # The outputs keep their true range: a clipped logit ties with its rival.
                true = (seen[key].lo, seen[key].hi)
                observer.range = true if key in self._outputs else chosen[key]
        for weight, bias_name, scale in _layers(self.graph):
            weight.floor = None
            weight.forget()
            if bias_name is not None and scale is not None:
                weight.raise_scales(_biases(self.graph)[bias_name], scale)
        if name.endswith(CORRECTED):
            correct_biases(self.graph, [tensors(s) for s in calibration_choice.some(samples)])

    def _seen(self, group: int) -> dict[str, calibration.Observed]:
        found = {k: o.observed(group) for k, o in self._activations.items()}
        return {k: o for k, o in found.items() if o is not None}

    def run(self, samples: Sequence[Sequence[Array]]) -> list[Array]:
        return _joined([_arrays(self.graph(*tensors(s))) for s in samples])


def _joined(rows: Sequence[Sequence[Array]]) -> list[Array]:
    """Outputs of samples one behind the other."""
    return [np.concatenate([np.atleast_1d(x) for x in column]) for column in zip(*rows, strict=True)]


def _arrays(outputs: Any) -> list[Array]:
    from torch.utils import _pytree

    return [t.numpy() for t in _pytree.tree_leaves(outputs) if isinstance(t, torch.Tensor)]


def _input_observers(graph: Any, known: Mapping[str, Any]) -> list[str]:
    """Observers of the model's inputs in their order, of each the first; "" for an input without one. Others
    of one input have its range, and get what that gets."""
    modules = {id(o): k for k, o in known.items()}
    found = []
    for node in graph.graph.find_nodes(op="placeholder"):
        own = [modules.get(id(_observer(graph, user)), "") for user in node.users]
        found.append(next(filter(None, own), ""))
    return found


def _output_observers(graph: Any, known: Mapping[str, Any]) -> set[str]:
    """Observers whose values are outputs of the model."""
    nodes = graph.graph.output_node().all_input_nodes
    modules = {id(o): k for k, o in known.items()}
    found = [graph.get_submodule(n.target) for n in nodes if n.op == "call_module"]
    return {modules[id(m)] for m in found if id(m) in modules}


def _tensor_of(graph: Any, node: Any) -> torch.Tensor:
    owner, _, leaf = str(node.target).rpartition(".")
    value: torch.Tensor = getattr(graph.get_submodule(owner), leaf)
    return value


def _layer_nodes(graph: Any) -> Iterator[Any]:
    for node in graph.graph.nodes:
        if node.op == "call_function" and op_name(node) in LAYERS:
            yield node


def _biases(graph: Any) -> dict[str, torch.Tensor]:
    """Biases of layers by name, those that several layers share left out."""
    nodes = [n.args[2] for n in _layer_nodes(graph) if len(n.args) > 2 and n.args[2] is not None]
    names = [str(b.target) for b in nodes if b.op == "get_attr"]
    return {str(b.target): _tensor_of(graph, b) for b in nodes if names.count(str(b.target)) == 1}


def _layers(graph: Any) -> Iterator[tuple[WeightObserver, str | None, float | None]]:
    """Each quantised layer's weight observer, name of its bias and scale of its input."""
    biases = _biases(graph)
    for node in _layer_nodes(graph):
        weight = _observer(graph, node.args[1])
        if not isinstance(weight, WeightObserver):
            continue
        name = str(node.args[2].target) if len(node.args) > 2 and node.args[2] is not None else None
        given = node.args[0]
        if op_name(given) in ("pad", "constant_pad_nd"):
            given = given.args[0]
        before = _observer(graph, given)
        scale = before.parameters_of_range()[0] if isinstance(before, ActivationObserver) else None
        yield weight, name if name in biases else None, scale


def _observer(graph: Any, node: Any) -> Any:
    return graph.get_submodule(node.target) if node.op == "call_module" else None
