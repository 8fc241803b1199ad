"""What is quantised and what shares a range: ExecuTorch's XNNPACKQuantizer with the rules that it lacks.

It knows ReLU behind a convolution but not ReLU6, whose input then gets a range that the clamp throws away;
it quantises both sides of a zero padding, which makes it run in float; it gives a mean the range of its
input. Imported where executorch is loaded already.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, ClassVar

import torch
from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import XNNPACKQuantizer
from torchao.quantization.pt2e import PlaceholderObserver
from torchao.quantization.pt2e.quantizer import (
    QuantizationAnnotation,
    QuantizationConfig,
    QuantizationSpec,
    SharedQuantizationSpec,
)
from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

from edgekit.backends.executorch.observers import ActivationObserver, WeightObserver
from edgekit.backends.executorch.program import op_name, unit_of
from edgekit.backends.executorch.shortcuts import SELECTION

_GEMMS = ("conv1d", "conv2d", "linear")
_CONVS = ("conv1d", "conv2d")
_PADS = ("pad", "constant_pad_nd")
_IMAGE_AXES = {"conv1d": 1, "conv2d": 2}


def activation_spec() -> QuantizationSpec:
    """Asymmetric int8 per tensor."""
    return QuantizationSpec(
        dtype=torch.int8,
        quant_min=-128,
        quant_max=127,
        qscheme=torch.per_tensor_affine,
        observer_or_fake_quant_ctr=ActivationObserver,
    )


def weight_spec(*, per_channel: bool, axis: int = 0) -> QuantizationSpec:
    """Symmetric int8, per output channel or per tensor."""
    return QuantizationSpec(
        dtype=torch.int8,
        quant_min=-127,
        quant_max=127,
        qscheme=torch.per_channel_symmetric if per_channel else torch.per_tensor_symmetric,
        ch_axis=axis,
        observer_or_fake_quant_ctr=WeightObserver,
    )


def configuration(*, per_channel: bool, dynamic: bool) -> QuantizationConfig:
    """Static int8, or int8 weights with activations quantised at run time."""
    weight = weight_spec(per_channel=per_channel or dynamic)  # XNNPACK has no dynamic kernels per tensor
    if not dynamic:
        return QuantizationConfig(activation_spec(), activation_spec(), weight, None, False)
    activation = QuantizationSpec(
        dtype=torch.int8,
        quant_min=-128,
        quant_max=127,
        qscheme=torch.per_tensor_affine,
        is_dynamic=True,
        observer_or_fake_quant_ctr=PlaceholderObserver.with_args(eps=2.0**-12),
    )
    return QuantizationConfig(activation, None, weight, None, False)


class UnitQuantizer(XNNPACKQuantizer):  # type: ignore[misc]
    """XNNPACKQuantizer that leaves the units named in ``keep`` in float."""

    # Batch norms are folded already, and looking for them costs more than all other patterns together.
    SUPPORTED_PATTERNS: ClassVar[list[Any]] = [
        p for p in XNNPACKQuantizer.SUPPORTED_PATTERNS if "bn" not in p.name.split("_")
    ]

    def __init__(self, keep: Collection[str], *, per_channel: bool, dynamic: bool) -> None:
        super().__init__()
        self._keep = frozenset(keep)
        self._dynamic = dynamic
        self.set_global(configuration(per_channel=per_channel, dynamic=dynamic))

    def annotate(self, model: torch.fx.GraphModule) -> torch.fx.GraphModule:
        for node in model.graph.nodes:
            if unit_of(node) in self._keep or (self._dynamic and _stays_float(node)):
                node.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation(_annotated=True)
        if not self._dynamic:
            for node in model.graph.nodes:
                self._annotate_selection(node)
                self._annotate_clamp(node)
                self._annotate_sub(node)
                self._annotate_mean(node)
            for node in model.graph.nodes:
                self._move_before_padding(node)
        super().annotate(model)
        if not self._dynamic:
            for node in model.graph.nodes:
                self._move_before_padding(node)
        return model

    def _annotate_clamp(self, clamp: Any) -> None:
        """A layer with weights and the ReLU6 or hardtanh that follows it: one range, behind the clamp."""
        if op_name(clamp) != "hardtanh" or not isinstance(clamp.args[0], torch.fx.Node):
            return
        layer = clamp.args[0]
        if op_name(layer) not in _GEMMS or len(layer.users) != 1 or _annotated(layer) or _annotated(clamp):
            return
        config = self.global_config
        assert config is not None
        layer.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation(
            input_qspec_map={layer.args[0]: config.input_activation, layer.args[1]: config.weight},
            _annotated=True,
        )
        clamp.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation(
            output_qspec=config.output_activation, _annotated=True
        )

    def _annotate_selection(self, node: Any) -> None:
        """A convolution that only selects keeps the scale of its input, and so every value exactly."""
        if not _is_selection(node) or _annotated(node):
            return
        config, given = self.global_config, node.args[0]
        assert config is not None
        node.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation(
            input_qspec_map={given: config.input_activation, node.args[1]: config.weight},
            output_qspec=SharedQuantizationSpec((given, node)),
            _annotated=True,
        )

    def _annotate_sub(self, node: Any) -> None:
        if op_name(node) != "sub" or _annotated(node) or node.kwargs.get("alpha", 1) != 1:
            return
        inputs = node.args[:2]
        if any(not _is_float_activation(i) for i in inputs):
            return
        self._annotate(node, inputs)

    def _annotate_mean(self, node: Any) -> None:
        """Global average pooling: its output has a much smaller range than its input."""
        if op_name(node) != "mean" or _annotated(node) or len(node.args) < 3 or not node.args[2]:
            return
        given = node.args[0].meta["val"]
        if given.dim() == 4 and sorted(a % 4 for a in node.args[1]) == [2, 3]:
            self._annotate(node, node.args[:1])

    def _annotate(self, node: Any, inputs: Any) -> None:
        config = self.global_config
        assert config is not None
        node.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation(
            input_qspec_map=dict.fromkeys(inputs, config.input_activation),
            output_qspec=config.output_activation,
            _annotated=True,
        )

    def _move_before_padding(self, layer: Any) -> None:
        """Quantise before a zero padding instead of behind it: XNNPACK then pads with the zero point."""
        if op_name(layer) not in _CONVS or not _annotated(layer):
            return
        pad = layer.args[0]
        wanted = layer.meta[Q_ANNOTATION_KEY].input_qspec_map
        if pad not in wanted or not _is_spatial_padding(pad, _IMAGE_AXES[op_name(layer)]) or _annotated(pad):
            return
        pad.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation(
            input_qspec_map={pad.args[0]: wanted.pop(pad)}, _annotated=True
        )


def _stays_float(node: Any) -> bool:
    """Convolutions that are not quantised dynamically: XNNPACK refuses one behind a padding operator at run
    time, and one that only selects has no weights to make smaller."""
    return _is_selection(node) or (op_name(node) in _CONVS and op_name(node.args[0]) in _PADS)


def _is_selection(node: Any) -> bool:
    return op_name(node) == "conv2d" and str(node.args[1].target).startswith(SELECTION)


def _annotated(node: Any) -> bool:
    found = node.meta.get(Q_ANNOTATION_KEY)
    return found is not None and bool(found._annotated)


def _is_float_activation(node: Any) -> bool:
    value = node.meta.get("val") if isinstance(node, torch.fx.Node) else None
    return isinstance(value, torch.Tensor) and value.dtype == torch.float32 and value.dim() > 0


def _is_spatial_padding(node: Any, axes: int) -> bool:
    """Zeros around the image axes only, for one layer only."""
    if op_name(node) not in _PADS or len(node.users) != 1:
        return False
    amounts = node.args[1]
    if any(a < 0 for a in amounts) or any(amounts[2 * axes :]):
        return False
    if op_name(node) == "pad":
        mode = node.args[2] if len(node.args) > 2 else "constant"
        value = node.args[3] if len(node.args) > 3 else None
        return mode == "constant" and not value
    return not (len(node.args) > 2 and node.args[2])
