"""Static and dynamic int8 with torch's FX quantiser, on the module that lift.py makes."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgekit.backends.ties import without_ties
from edgekit.backends.torchscript.lift import Lifted
from edgekit.backends.torchscript.sharing import PASSING
from edgekit.errors import StepFailed
from edgekit.types import Scheme

if TYPE_CHECKING:
    import torch

    from edgekit.types import Array

ENGINE = "qnnpack"

_LEAST_PER_CHANNEL = 64
"""Inputs of a dynamic linear layer from which on each row has a scale: it takes 16 bytes in the file."""

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
    lifted: Lifted,
    samples: Sequence[torch.Tensor],
    ranges: Ranges,
    scheme: Scheme,
    given: Mapping[str, Array],
    correct: Sequence[Sequence[torch.Tensor]] = (),
) -> torch.fx.GraphModule:
    """The module in int8 with the activation ranges given by value of the file; weights per channel unless
    the scheme says otherwise. Layers that cannot be static (LSTM, GRU) are dynamic.

    ``given`` holds calibration data by input of the file, in any shape: its values are kept from lying
    half-way between two levels. Biases are corrected on the samples ``correct``.
    """
    from torch.ao.quantization import quantize_fx

    from edgekit.backends.torchscript.bias import correct_biases

    with _quietly(), qnnpack():
        prepared, mapping = _prepared(lifted, samples, scheme)
        _set_ranges(prepared, lifted, ranges, given)
        if correct:
            prepared = copy.deepcopy(prepared)  # its layers are those of ``lifted``
            ends = {node: lifted.limits[v] for node, v in lifted.values.items() if v in lifted.limits}
            correct_biases(prepared, ends, correct)
        converted = quantize_fx.convert_fx(
            prepared, qconfig_mapping=mapping, backend_config=_backend_config()
        )
        _keep_quantized(converted, lifted.kept)
        _use_whole_range(converted)
    made: torch.fx.GraphModule = converted.eval()
    return made


def observed_values(lifted: Lifted, samples: Sequence[torch.Tensor], scheme: Scheme) -> frozenset[str]:
    """Values of the file whose ranges :func:`static_int8` will ask for."""
    with _quietly(), qnnpack():
        prepared, _ = _prepared(lifted, samples, scheme)
    sources = [node.args[0].name for node in _observers(prepared)]
    return frozenset(lifted.values[name] for name in sources if name in lifted.values)


def _prepared(lifted: Lifted, samples: Sequence[torch.Tensor], scheme: Scheme) -> tuple[Any, Any]:
    """The module with observers in it, and what is to become of each operator."""
    from torch.ao.quantization import quantize_fx

    mapping = _static_mapping(scheme.per_channel)
    for function, place in lifted.floats:
        mapping = mapping.set_module_name_object_type_order("", function, place, None)
    prepared = quantize_fx.prepare_fx(
        lifted.module, mapping, tuple(samples), backend_config=_backend_config()
    )
    return prepared, mapping


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
        for path, layer in lifted.module.named_modules():
            if isinstance(layer, torch.nn.Linear) and layer.in_features < _LEAST_PER_CHANNEL:
                mapping = mapping.set_module_name(path, default_dynamic_qconfig)
        prepared = quantize_fx.prepare_fx(lifted.module, mapping, tuple(samples))
        converted = quantize_fx.convert_fx(prepared)
        _use_whole_range(converted)
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
    from torch.ao import quantization
    from torch.ao.quantization import (
        default_dynamic_qconfig,
        get_default_qconfig_mapping,
    )

    make: Any = quantization.QConfig
    activation = _range_observer().with_args(dtype=torch.quint8)
    # -127..127 and not -128..127: the scale is the largest weight / 127, which is what other tools use, so
    # that weights that were int8 before stay what they are.
    limits: dict[str, Any] = {"dtype": torch.qint8, "quant_min": -127, "quant_max": 127}
    tensor = quantization.MinMaxObserver.with_args(qscheme=torch.per_tensor_symmetric, **limits)
    channel = quantization.PerChannelMinMaxObserver.with_args(qscheme=torch.per_channel_symmetric, **limits)
    weight = channel if per_channel else tensor
    # Its object types hold fixed ranges of sigmoid and the like.
    mapping = get_default_qconfig_mapping(ENGINE)
    mapping = mapping.set_global(make(activation=activation, weight=weight))
    per_tensor = make(activation=activation, weight=tensor)
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


def _set_ranges(prepared: Any, lifted: Lifted, ranges: Ranges, given: Mapping[str, Array]) -> None:
    """Give every observer the range of its values; observers whose scales must agree get their union, those
    of an input one without ties."""
    import torch

    observers = _observers(prepared)
    leader = {id(prepared.get_submodule(t)): id(prepared.get_submodule(t)) for t in observers.values()}

    def find(key: int) -> int:
        while leader[key] != key:
            key = leader[key]
        return key

    def of(node: Any) -> list[int]:
        return [id(prepared.get_submodule(observers[n])) for n in (node, *node.users) if n in observers]

    for node in prepared.graph.nodes:
        if _shares(node, lifted.kept):
            inputs = node.args[0] if isinstance(node.args[0], (list, tuple)) else [node.args[0]]
            alike = [key for source in (*inputs, node) for key in of(source)]
            for key in alike:
                leader[find(key)] = find(alike[0])
    members: dict[int, list[Any]] = {}
    for node, target in observers.items():
        members.setdefault(find(id(prepared.get_submodule(target))), []).append(node.args[0])
    found: dict[int, tuple[float, float]] = {}
    for key, sources in members.items():
        known = [r for r in (_range_of(s, prepared, lifted, ranges) for s in sources) if r is not None]
        if not known:
            raise StepFailed(f"calibration saw no values of {', '.join(s.name for s in sources)}")
        names = [lifted.values.get(source.name, "") for source in sources]
        limits = (min(r[0] for r in known), max(r[1] for r in known))
        found[key] = without_ties(limits, [given[name] for name in names if name in given])
    for target in observers.values():
        observer = prepared.get_submodule(target)
        low, high = found[find(id(observer))]
        observer.min_val, observer.max_val = torch.tensor(low), torch.tensor(high)


def _observers(prepared: Any) -> dict[Any, str]:
    """Calls of observers whose range is set from outside, and the path of each."""
    return {
        node: str(node.target)
        for node in prepared.graph.nodes
        if node.op == "call_module" and type(prepared.get_submodule(node.target)).__name__ == "RangeObserver"
    }


def _shares(node: Any, kept: Sequence[str]) -> bool:
    """Whether a call gives values of its inputs, in their scale."""
    import torch

    if node.op != "call_function" or node.name in kept:
        return False
    return node.target is torch.cat or node.target in set(passing_overloads())


def _range_of(node: Any, prepared: Any, lifted: Lifted, ranges: Ranges) -> tuple[float, float] | None:
    if node.op == "get_attr":
        value = getattr(prepared, node.target)
        return float(value.min()), float(value.max())
    value = lifted.values.get(node.name)
    if value is None or value not in ranges:
        return None
    low, high = ranges[value]
    limit = lifted.limits.get(value)
    return (low, high) if limit is None else (low, min(high, limit))


def _keep_quantized(module: Any, kept: Sequence[str]) -> None:
    """Run operators on quantised tensors directly that FX leaves between dequantize and quantize.

    FX knows only operators of its own list there. Where the scale behind is that of the input,
    quantize(op(dequantize(x))) is op(x). Nodes ``kept`` in float are left alone.
    """
    graph = module.graph
    for node in list(graph.nodes):
        if not _shares(node, kept) or isinstance(node.args[0], (list, tuple)):
            continue
        source, users = node.args[0], list(node.users)
        if not _is_dequantize(source) or not users or not all(_is_quantize(u) for u in users):
            continue
        before = _scale(module, source.args[0])
        if before is None or any(_scale(module, user) != before for user in users):
            continue
        node.replace_input_with(source, source.args[0])
        for user in users:
            user.replace_all_uses_with(node)
            graph.erase_node(user)
        if not source.users:
            graph.erase_node(source)
    graph.eliminate_dead_code()
    graph.lint()
    module.recompile()


def _scale(module: Any, node: Any) -> tuple[float, int] | None:
    """Scale and zero point of a quantised value, None where they cannot be told."""
    import torch

    def number(value: Any) -> Any:
        return getattr(module, value.target) if getattr(value, "op", "") == "get_attr" else value

    if _is_quantize(node):
        return float(number(node.args[1])), int(number(node.args[2]))
    if node.op == "call_module":
        layer = module.get_submodule(node.target)
        if hasattr(layer, "scale") and hasattr(layer, "zero_point"):
            return float(layer.scale), int(layer.zero_point)
        return None
    if node.target is torch.cat:
        return _scale(module, node.args[0][0])
    if _shares(node, ()):
        return _scale(module, node.args[0])
    name = str(getattr(node.target, "__name__", node.target))
    if name in ("add", "add_relu", "mul", "mul_relu", "quantized.add", "add.default") and len(node.args) == 4:
        return float(number(node.args[2])), int(number(node.args[3]))
    return None


def _use_whole_range(module: Any) -> None:
    """Let dynamic layers use all eight bits: they ask for seven, which only the engines of x86 need."""
    import torch
    from torch.ao.nn.intrinsic.quantized import dynamic as fused
    from torch.ao.nn.quantized import dynamic

    functions: dict[Any, Any] = {
        dynamic.Linear: torch.ops.quantized.linear_dynamic.default,
        fused.LinearReLU: torch.ops.quantized.linear_relu_dynamic.default,
    }
    for layer in module.modules():
        if isinstance(layer, (dynamic.LSTM, dynamic.GRU)):
            cells: Any = layer._all_weight_values
            for weights in cells:
                state: Any = weights.param.__getstate__()
                (_, biases, _, _, packed), _ = state
                make = torch.ops.quantized.make_quantized_cell_params_dynamic
                weights.param = make(packed[0], packed[1], biases[0], biases[1], False)
    graph = module.graph
    for node in list(graph.nodes):
        layer = module.get_submodule(node.target) if node.op == "call_module" else None
        function = functions.get(type(layer))
        if function is None:
            continue
        with graph.inserting_before(node):
            packed = graph.get_attr(f"{node.target}._packed_params._packed_params")
            node.replace_all_uses_with(graph.call_function(function, (node.args[0], packed, False)))
        graph.erase_node(node)
    graph.lint()
    module.recompile()


def _is_dequantize(node: Any) -> bool:
    return getattr(node, "op", "") == "call_method" and node.target == "dequantize"


def _is_quantize(node: Any) -> bool:
    import torch

    return bool(node.op == "call_function" and node.target is torch.quantize_per_tensor)
