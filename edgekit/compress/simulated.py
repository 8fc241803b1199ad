"""A torch module with fake quantisation where int8 runtimes quantise; imported with torch and torchao loaded.

The graph is torchao's: :func:`prepare_qat_pt2e` with ExecuTorch's XNNPACKQuantizer, which fuses convolution,
batch norm and ReLU as every runtime does. Weights are quantised symmetrically from their largest value per
output channel, behind batch norm's scale, so that folding it changes nothing; activations affinely with a
scale whose logarithm is trained (Jain et al. 2020, "Trained Quantization Thresholds", arXiv:1903.08066; its
gradient by Esser et al. 2020, "Learned Step Size Quantization", arXiv:1902.08153) and a zero point that
stays, so that ranges which begin at zero go on doing so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import XNNPACKQuantizer
from torchao.quantization.pt2e import move_exported_model_to_eval, move_exported_model_to_train
from torchao.quantization.pt2e.fake_quantize import FakeQuantizeBase
from torchao.quantization.pt2e.quantizer import (
    QuantizationAnnotation,
    QuantizationConfig,
    QuantizationSpec,
)
from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

from edgekit.errors import StepFailed

_SMALLEST_SCALE = 2.0**-40
_KEPT_VALUES = 1 << 14
"""Values of each activation and batch on which clipping is chosen."""
_SHRINKS = tuple(1 - i / 40 for i in range(30))

Mode = Literal["watch", "pass", "simulate"]


class Activation(FakeQuantizeBase):  # type: ignore[misc]
    """Fake quantisation of one activation per tensor; watches ranges before it has one."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__()
        self.dtype, self.qscheme = kwargs["dtype"], kwargs["qscheme"]
        self.quant_min, self.quant_max = int(kwargs["quant_min"]), int(kwargs["quant_max"])
        self.is_dynamic = False
        self.mode: Mode = "watch"
        self.growth = torch.nn.Parameter(torch.zeros(1))
        self.first: torch.Tensor
        self.zero_point: torch.Tensor
        self.register_buffer("first", torch.ones(1))
        self.register_buffer("zero_point", torch.zeros(1))
        self.seen: tuple[float, float] | None = None
        self._values: list[torch.Tensor] = []

    @property
    def scale(self) -> torch.Tensor:
        """Its logarithm moves: a step of training changes large and small scales by the same share."""
        return self.first * self.growth.exp()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.mode == "simulate":
            factor = 1.0 / math.sqrt(max(1, x[0].numel()) * self.quant_max)
            played: torch.Tensor = torch._fake_quantize_learnable_per_tensor_affine(
                x, self.scale, self.zero_point, self.quant_min, self.quant_max, factor
            )
            return played
        if self.mode == "watch":
            self._watch(x.detach())
        return x

    def _watch(self, x: torch.Tensor) -> None:
        low, high = (float(v) for v in torch.aminmax(x))
        before = self.seen or (low, high)
        self.seen = (min(before[0], low), max(before[1], high))
        flat = x.reshape(-1)
        self._values.append(flat[:: max(1, flat.numel() // _KEPT_VALUES)])

    def forget(self) -> None:
        """Begin to watch anew."""
        self.seen, self._values = None, []

    def begin(self, method: str) -> None:
        """Take the range that was seen ("minmax"), or that within it with the least squared error ("mse")."""
        if self.seen is None:  # never reached: it quantises nothing
            return
        low, high = min(self.seen[0], 0.0), max(self.seen[1], 0.0)
        if method == "mse" and self._values:
            values = torch.cat(self._values)
            errors = []
            for share in _SHRINKS:
                self._set(low * share, high * share)
                played = torch.fake_quantize_per_tensor_affine(
                    values, float(self.scale), int(self.zero_point), self.quant_min, self.quant_max
                )
                errors.append(float((played - values).square().mean()))
            best = _SHRINKS[min(range(len(errors)), key=errors.__getitem__)]
            low, high = low * best, high * best
        self._set(low, high)

    def _set(self, low: float, high: float) -> None:
        levels = self.quant_max - self.quant_min
        symmetric = self.qscheme == torch.per_tensor_symmetric
        scale = 2 * max(-low, high) / levels if symmetric else (high - low) / levels
        scale = max(scale, _SMALLEST_SCALE)
        zero = 0 if symmetric else self.quant_min - round(low / scale)
        with torch.no_grad():
            self.first.fill_(scale)
            self.growth.zero_()
            self.zero_point.fill_(max(self.quant_min, min(self.quant_max, zero)))

    def range(self) -> tuple[float, float]:
        """The values of the lowest and the highest level."""
        scale, zero = float(self.scale.detach()), int(self.zero_point)
        return (self.quant_min - zero) * scale, (self.quant_max - zero) * scale

    def calculate_qparams(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.scale.detach(), self.zero_point.to(torch.int32)


class PerChannelWeight(FakeQuantizeBase):  # type: ignore[misc]
    """Fake quantisation of a weight from its largest value; by the name torchao knows to pass ``ch_axis``."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__()
        self.dtype, self.qscheme = kwargs["dtype"], kwargs["qscheme"]
        self.ch_axis = int(kwargs.get("ch_axis", 0))
        self.quant_min, self.quant_max = int(kwargs["quant_min"]), int(kwargs["quant_max"])
        self.is_dynamic = False
        self.mode: Mode = "watch"

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        if self.mode != "simulate":
            return weight
        flat = weight.detach().abs()
        if self.qscheme == torch.per_tensor_symmetric:
            scale = max(float(flat.max()) / self.quant_max, _SMALLEST_SCALE)
            return torch.fake_quantize_per_tensor_affine(weight, scale, 0, self.quant_min, self.quant_max)
        scales = flat.transpose(0, self.ch_axis).flatten(1).max(1).values / self.quant_max
        scales = scales.clamp_min(_SMALLEST_SCALE)
        zeros = torch.zeros_like(scales, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(
            weight, scales, zeros, self.ch_axis, self.quant_min, self.quant_max
        )

    def calculate_qparams(self) -> tuple[torch.Tensor, torch.Tensor]:
        raise AssertionError("the files' quantisers take scales from the weights themselves")


class Simulated(torch.nn.Module):
    """The prepared graph as a module that trains and validates like any other."""

    def __init__(self, graph: Any, norms: Mapping[str, tuple[float, float]]) -> None:
        super().__init__()
        self.graph = graph
        self._norms = norms
        self._frozen = False
        _restore_norms(graph, norms)

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.graph(*inputs)

    def train(self, mode: bool = True) -> Simulated:
        self.training = mode
        if mode and not self._frozen:
            move_exported_model_to_train(self.graph)
        else:
            move_exported_model_to_eval(self.graph)
        _restore_norms(self.graph, self._norms)
        return self

    def freeze_statistics(self) -> None:
        """From now on batch norm uses the statistics that it has, in training too."""
        self._frozen = True
        move_exported_model_to_eval(self.graph)
        _restore_norms(self.graph, self._norms)

    def activations(self) -> list[Activation]:
        """One for each range: tensors that share a range share it."""
        return [m for m in self.graph.modules() if isinstance(m, Activation)]

    def switch(self, mode: Mode) -> None:
        """All of them watch, let values pass, or simulate."""
        for part in self.graph.modules():
            if isinstance(part, Activation | PerChannelWeight):
                part.mode = mode


class _Quantizer(XNNPACKQuantizer):  # type: ignore[misc]
    """XNNPACKQuantizer, but global average pooling has a range of its own: its values are much smaller than
    its input's, and no file of edgekit's lets them share one."""

    def annotate(self, model: torch.fx.GraphModule) -> torch.fx.GraphModule:
        config = self.global_config
        assert config is not None
        for node in model.graph.nodes:
            if node.target == torch.ops.aten.mean.dim and node.args[0].meta["val"].dim() == 4:
                node.meta[Q_ANNOTATION_KEY] = QuantizationAnnotation(
                    input_qspec_map={node.args[0]: config.input_activation},
                    output_qspec=config.output_activation,
                    _annotated=True,
                )
        annotated: torch.fx.GraphModule = super().annotate(model)
        return annotated


def simulate(
    module: torch.nn.Module,
    example: Sequence[torch.Tensor],
    *,
    per_channel: bool,
    symmetric: bool,
    weight_max: int,
) -> Simulated:
    """``module`` with fake quantisation, its parameters copied. ``example`` has a batch of at least 2.
    Weights are played in -``weight_max``..``weight_max``.

    Raises StepFailed when torch.export cannot trace the module for any batch.
    """
    from torchao.quantization.pt2e.quantize_pt2e import prepare_qat_pt2e

    activation = QuantizationSpec(
        dtype=torch.int8,
        quant_min=-127 if symmetric else -128,
        quant_max=127,
        qscheme=torch.per_tensor_symmetric if symmetric else torch.per_tensor_affine,
        observer_or_fake_quant_ctr=Activation,
    )
    weight = QuantizationSpec(
        dtype=torch.int8,
        quant_min=-weight_max,
        quant_max=weight_max,
        qscheme=torch.per_channel_symmetric if per_channel else torch.per_tensor_symmetric,
        ch_axis=0,
        observer_or_fake_quant_ctr=PerChannelWeight,
    )
    free = tuple({0: torch.export.Dim.AUTO} for _ in example)
    try:
        program = torch.export.export(module, tuple(example), dynamic_shapes=free, strict=False)
        graph = program.module(check_guards=False)
    except Exception as exc:
        lines = str(exc).strip().splitlines() or [""]
        raise StepFailed(
            f"torch.export cannot trace the model for quantisation-aware training: {lines[0][:300]}",
            hint="leave qat.epochs away, or write the model for any batch size",
        ) from exc
    quantizer = _Quantizer()
    quantizer.set_global(QuantizationConfig(activation, activation, weight, None, True))
    norms = _norms(graph)
    prepared = prepare_qat_pt2e(graph, quantizer)
    return Simulated(prepared, norms).eval()


def _norms(graph: Any) -> dict[str, tuple[float, float]]:
    """Momentum and eps of each batch norm, by the name of its running variance."""
    nodes = [n for n in graph.graph.nodes if n.target == torch.ops.aten.batch_norm.default]
    return {str(n.args[4].target): (float(n.args[6]), float(n.args[7])) for n in nodes}


def _restore_norms(graph: Any, norms: Mapping[str, tuple[float, float]]) -> None:
    """Put the model's own momentum and eps back, there and where the variance is folded into weights.

    torchao 0.18 replaces subgraphs by patterns with torch's defaults (0.1 and 1e-5), when it fuses and again
    at each change between training and evaluation. Nets with another eps (MobileNetV3 and EfficientNet have
    0.001) would train as a net that computes something else.
    """
    for node in graph.graph.nodes:
        if node.target != torch.ops.aten.batch_norm.default:
            continue
        variance = node.args[4]
        momentum, eps = norms[str(variance.target)]
        node.args = (*node.args[:6], momentum, eps, *node.args[8:])
        for user in tuple(variance.users):
            if user.target == torch.ops.aten.add.Tensor and isinstance(user.args[1], float):
                user.args = (variance, eps)
    graph.recompile()
