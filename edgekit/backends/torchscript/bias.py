"""Bias correction: the mean error of rounded weights and inputs is taken out of the biases.

Nagel et al. 2019, "Data-free quantization through weight equalization and bias correction", section 4.2, with
means measured on calibration samples: each layer is computed in float, and with the rounded weights on the
rounded input of the float model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from edgekit.backends import mean_errors

_CHANNEL_AXIS: dict[type[Any], int] = {
    torch.nn.Conv1d: -2,
    torch.nn.Conv2d: -3,
    torch.nn.ConvTranspose1d: -2,
    torch.nn.ConvTranspose2d: -3,
    torch.nn.Linear: -1,
}


def correct_biases(
    prepared: Any, limits: Mapping[str, float], samples: Sequence[Sequence[torch.Tensor]]
) -> None:
    """Correct the biases of a module with observers, whose ranges are set, in place.

    ``limits``: by node, where a value ends whose ReLU6 is written as a ReLU.
    """
    watch = _Watch(prepared, limits)
    with torch.no_grad():
        for sample in samples:
            watch.run(*sample)
        for name, errors in watch.errors.items():
            layer = watch.layers[name]
            delta = torch.from_numpy(mean_errors.correction(errors)).to(layer.weight.dtype)
            layer.bias = torch.nn.Parameter(delta if layer.bias is None else layer.bias + delta)


class _Watch(torch.fx.Interpreter):
    """Runs the float module and notes the mean error of each layer, by channel."""

    def __init__(self, prepared: Any, limits: Mapping[str, float]) -> None:
        super().__init__(prepared)
        self._limits = limits
        self.errors: dict[str, list[Any]] = {}
        self.layers: dict[str, Any] = {}
        self._observers: dict[str, Any] = {}
        self._weights: dict[str, torch.Tensor] = {}
        calls = [node for node in prepared.graph.nodes if node.op == "call_module"]
        for node in calls:
            name, layer = str(node.target), _layer(prepared.get_submodule(node.target))
            given: Any = node.args[0] if node.args else None
            if layer is None or getattr(given, "op", "") != "call_module":
                continue
            observer = prepared.get_submodule(given.target)
            if hasattr(observer, "calculate_qparams") and [c.target for c in calls].count(name) == 1:
                self.layers[name], self._observers[name] = layer, observer
                self._weights[name] = _rounded_weight(layer)

    def run_node(self, n: Any) -> Any:
        result, limit = super().run_node(n), self._limits.get(n.name)
        return result if limit is None else result.clamp(max=limit)

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        layer = self.layers.get(target)
        if layer is not None:
            observer = self._observers[target]
            scale, zero_point = observer.calculate_qparams()
            rounded = torch.fake_quantize_per_tensor_affine(
                args[0], float(scale), int(zero_point), observer.quant_min, observer.quant_max
            )
            played = torch.func.functional_call(layer, {"weight": self._weights[target]}, (rounded,))
            error = (layer.forward(args[0]) - played).movedim(_CHANNEL_AXIS[_kind(layer)], 0)
            self.errors.setdefault(target, []).append(error.flatten(1).mean(1).numpy())
        return super().call_module(target, args, kwargs)


def _layer(module: Any) -> Any:
    """The layer with weights that a module is, itself or fused with a ReLU; None for others and for those
    that stay in float."""
    layer = module[0] if isinstance(module, torch.nn.Sequential) and len(module) else module
    return layer if _kind(layer) and getattr(layer, "qconfig", None) is not None else None


def _kind(layer: Any) -> Any:
    """Which of the classes above a layer is of; None for another one."""
    return next((kind for kind in _CHANNEL_AXIS if isinstance(layer, kind)), None)


def _rounded_weight(layer: Any) -> torch.Tensor:
    observer = layer.qconfig.weight()
    observer(layer.weight)
    scale, zero_point = observer.calculate_qparams()
    low, high = observer.quant_min, observer.quant_max
    if scale.numel() == 1:
        played = torch.fake_quantize_per_tensor_affine(layer.weight, float(scale), int(zero_point), low, high)
    else:
        played = torch.fake_quantize_per_channel_affine(
            layer.weight, scale, zero_point.to(torch.int32), observer.ch_axis, low, high
        )
    return played.detach()
