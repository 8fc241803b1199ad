"""Static and dynamic int8 with torch's FX quantiser, on the module that lift.py makes."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgekit.backends.torchscript.layers import PASSING
from edgekit.backends.torchscript.lift import Lifted
from edgekit.errors import StepFailed
from edgekit.types import Scheme

if TYPE_CHECKING:
    import torch

ENGINE = "qnnpack"

Ranges = Mapping[str, tuple[float, float]]


@contextlib.contextmanager
def qnnpack() -> Iterator[None]:
    """Quantised operators run by QNNPACK inside the block; the engine before is set again after it."""
    import torch

    engines = torch.backends.quantized
    before = engines.engine
    engines.engine = ENGINE
    try:
        yield
    finally:
        engines.engine = before


def static_int8(
    lifted: Lifted, samples: Sequence[torch.Tensor], ranges: Ranges, scheme: Scheme
) -> torch.fx.GraphModule:
    """The module in int8 with the activation ranges given by value of the file; weights per channel unless
    the scheme says otherwise. Layers that cannot be static (LSTM, GRU) are dynamic."""
    import torch
    from torch.ao.quantization import quantize_fx

    with _quietly(), qnnpack():
        mapping = _static_mapping(scheme.per_channel)
        prepared = quantize_fx.prepare_fx(
            lifted.module, mapping, tuple(samples), backend_config=_backend_config()
        )
        _set_ranges(prepared, lifted, ranges)
        converted = quantize_fx.convert_fx(prepared, qconfig_mapping=mapping, backend_config=_backend_config())
        _keep_quantized(converted)
    made: torch.fx.GraphModule = converted.eval()
    return made


def dynamic_int8(lifted: Lifted, samples: Sequence[torch.Tensor], scheme: Scheme) -> torch.fx.GraphModule:
    """The module with int8 weights in its linear and recurrent layers, whose inputs are quantised by their
    range in each run."""
    import torch
    from torch.ao.quantization import (
        QConfigMapping,
        default_dynamic_qconfig,
        per_channel_dynamic_qconfig,
        quantize_fx,
    )

    linear = per_channel_dynamic_qconfig if scheme.per_channel else default_dynamic_qconfig
    with _quietly(), qnnpack():
        mapping = QConfigMapping().set_object_type(torch.nn.Linear, linear)
        for kind in (torch.nn.LSTM, torch.nn.GRU):
            mapping = mapping.set_object_type(kind, default_dynamic_qconfig)
        prepared = quantize_fx.prepare_fx(lifted.module, mapping, tuple(samples))
        converted = quantize_fx.convert_fx(prepared)
    made: torch.fx.GraphModule = converted.eval()
    return made


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """torch.ao.quantization announces its end in every call; it is there in the torch that is pinned."""
    with warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning, UserWarning):
            warnings.simplefilter("ignore", category)
        yield


def _static_mapping(per_channel: bool) -> Any:
    import torch
    from torch.ao.quantization import (
        PlaceholderObserver,
        QConfig,
        default_dynamic_qconfig,
        default_per_channel_weight_observer,
        default_weight_observer,
        get_default_qconfig_mapping,
    )

    del PlaceholderObserver
    activation = _range_observer().with_args(dtype=torch.quint8)
    weight = default_per_channel_weight_observer if per_channel else default_weight_observer
    # Its object types hold fixed ranges of sigmoid and the like.
    mapping = get_default_qconfig_mapping(ENGINE)
    mapping = mapping.set_global(QConfig(activation=activation, weight=weight))
    per_tensor = QConfig(activation=activation, weight=default_weight_observer)
    for kind in (torch.nn.ConvTranspose1d, torch.nn.ConvTranspose2d):  # no per-channel kernel
        mapping = mapping.set_object_type(kind, per_tensor)
    for recurrent in (torch.nn.LSTM, torch.nn.GRU):
        mapping = mapping.set_object_type(recurrent, default_dynamic_qconfig)
    return mapping


def _range_observer() -> Any:
    """Class of an observer that observes nothing: its range is set from outside."""
    from torch.ao.quantization import MinMaxObserver

    class RangeObserver(MinMaxObserver):
        def forward(self, x: Any) -> Any:
            return x

    return RangeObserver


def _backend_config() -> Any:
    """torch's own rules, and the operators that work on quantised tensors as they are."""
    import torch
    from torch.ao.quantization.backend_config import (
        BackendPatternConfig,
        DTypeConfig,
        ObservationType,
        get_native_backend_config,
    )

    config = get_native_backend_config()
    same = DTypeConfig(input_dtype=torch.quint8, output_dtype=torch.quint8)
    for overload in passing_overloads():
        config.set_backend_pattern_config(
            BackendPatternConfig(overload)
            .set_observation_type(ObservationType.OUTPUT_SHARE_OBSERVER_WITH_INPUT)
            .set_dtype_configs([same])
        )
    return config


def passing_overloads() -> list[Any]:
    """Every overload of the operators in PASSING that takes and gives one tensor."""
    import torch

    found = []
    for name in sorted(PASSING):
        packet = getattr(torch.ops.aten, name)
        for overload in packet.overloads():
            schema = getattr(packet, overload)._schema
            plain = len(schema.returns) == 1 and str(schema.returns[0].type) == "Tensor"
            if plain and str(schema.arguments[0].type) == "Tensor" and "out" not in overload:
                found.append(getattr(packet, overload))
    return found


def _set_ranges(prepared: Any, lifted: Lifted, ranges: Ranges) -> None:
    """Give every observer the union of the ranges of the values that it stands for."""
    import torch
    from torch.ao.quantization import MinMaxObserver

    nodes: dict[str, list[Any]] = {}
    for node in prepared.graph.nodes:
        if node.op == "call_module" and isinstance(prepared.get_submodule(node.target), MinMaxObserver):
            nodes.setdefault(str(node.target), []).append(node.args[0])
    by_module: dict[int, list[Any]] = {}
    for target, sources in nodes.items():
        by_module.setdefault(id(prepared.get_submodule(target)), []).extend(sources)
    for target in nodes:
        observer = prepared.get_submodule(target)
        if type(observer).__name__ != "RangeObserver":
            continue
        found = [_range_of(source, prepared, lifted, ranges) for source in by_module[id(observer)]]
        known = [r for r in found if r is not None]
        if not known:
            names = ", ".join(source.name for source in by_module[id(observer)])
            raise StepFailed(f"calibration saw no values of {names}")
        observer.min_val = torch.tensor(min(r[0] for r in known))
        observer.max_val = torch.tensor(max(r[1] for r in known))


def _range_of(
    node: Any, prepared: Any, lifted: Lifted, ranges: Ranges
) -> tuple[float, float] | None:
    if node.op == "get_attr":
        value = getattr(prepared, node.target)
        return float(value.min()), float(value.max())
    value = lifted.values.get(node.name)
    if value is None or value not in ranges:
        return None
    low, high = ranges[value]
    limit = lifted.limits.get(value)
    return (low, high) if limit is None else (low, min(high, limit))


def _keep_quantized(module: Any) -> None:
    """Run operators on quantised tensors directly that FX leaves between dequantize and quantize.

    FX knows only operators of its own list there. These share the scale of their input, so that
    quantize(op(dequantize(x))) is op(x).
    """
    import torch

    known = set(passing_overloads())
    graph = module.graph
    changed = True
    while changed:
        changed = False
        for node in list(graph.nodes):
            if node.op != "call_function" or node.target not in known:
                continue
            source = node.args[0]
            users = list(node.users)
            if not _is_dequantize(source) or not users or not all(_is_quantize(u) for u in users):
                continue
            node.replace_input_with(source, source.args[0])
            for user in users:
                user.replace_all_uses_with(node)
                graph.erase_node(user)
            if not source.users:
                graph.erase_node(source)
            changed = True
    graph.eliminate_dead_code()
    graph.lint()
    module.recompile()
    del torch


def _is_dequantize(node: Any) -> bool:
    return getattr(node, "op", "") == "call_method" and node.target == "dequantize"


def _is_quantize(node: Any) -> bool:
    import torch

    return bool(node.op == "call_function" and node.target is torch.quantize_per_tensor)
