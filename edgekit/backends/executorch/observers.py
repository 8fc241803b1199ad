"""Observers that PT2E puts into the graph: they watch calibration, then play candidates of quantisation.

torchao's own choose ranges while they watch. These keep what they saw, so that several ways to choose can be
tried on one calibrated graph: in mode "simulate" they return what the quantised graph would compute.
Imported where torch is loaded already.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torchao.quantization.pt2e.observer import ObserverBase, UniformQuantizationObserverBase

from edgekit.backends.calibration import BINS, Observed
from edgekit.errors import DataError

_MAX_ELEMENTS = 1 << 16
"""Values of one tensor of one sample that enter its histogram; larger tensors are strided."""

_SMALLEST_SCALE = 2.0**-40
_BIAS_LIMIT = 2.0**30
"""Biases are stored as int32 multiples of input scale x weight scale; half its range is left to sums."""

Mode = Literal["watch", "pass", "simulate"]


class ActivationObserver(UniformQuantizationObserverBase):  # type: ignore[misc]
    """Watches one activation per tensor; shared where PT2E shares quantisation parameters.

    The histogram lies on a grid of bins of width 2**k around zero. When a value falls outside, neighbours are
    merged and the width doubles, so one pass over the samples is enough and counts stay exact.
    """

    def __init__(self, **kwargs: Any) -> None:
        kwargs = {k: v for k, v in kwargs.items() if k in ("dtype", "quant_min", "quant_max", "qscheme")}
        super().__init__(**kwargs)
        self.mode: Mode = "watch"
        self.group = 0
        self.range = (0.0, 0.0)
        self._extremes: dict[int, tuple[float, float]] = {}
        self._sums: dict[int, tuple[float, float, int]] = {}
        self._counts: dict[int, torch.Tensor] = {}
        self._width = 0.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.mode == "simulate":
            scale, zero_point = self.parameters_of_range()
            return torch.fake_quantize_per_tensor_affine(
                x, scale, zero_point, int(self.quant_min), int(self.quant_max)
            )
        if self.mode == "watch" and x.numel():
            self._watch(x.detach())
        return x

    def _watch(self, x: torch.Tensor) -> None:
        low, high = (float(v) for v in torch.aminmax(x))
        if not (np.isfinite(low) and np.isfinite(high)):
            raise DataError(
                "a calibration sample makes an activation infinite or NaN",
                hint="look at the samples and at the model's weights",
            )
        before = self._extremes.get(self.group, (low, high))
        self._extremes[self.group] = (min(before[0], low), max(before[1], high))
        lows, highs, samples = self._sums.get(self.group, (0.0, 0.0, 0))
        self._sums[self.group] = (lows + low, highs + high, samples + 1)
        top = max(-low, high)
        if top == 0.0:
            return
        self._make_room(top)
        flat = x.reshape(-1)
        flat = flat[:: max(1, flat.numel() // _MAX_ELEMENTS)].float()
        half = self._width * BINS / 2
        counts = torch.histc(flat, bins=BINS, min=-half, max=half)
        counts[BINS // 2] -= (flat == 0).sum()  # exact zeros cost nothing
        kept = self._counts.get(self.group)
        self._counts[self.group] = counts.double() if kept is None else kept + counts

    def _make_room(self, top: float) -> None:
        if self._width == 0.0:
            self._width = float(2.0 ** np.ceil(np.log2(top * 2 / BINS)))
        while top >= self._width * BINS / 2:
            self._width *= 2
            for group, counts in self._counts.items():
                wider = torch.zeros_like(counts)
                wider[BINS // 4 : 3 * BINS // 4] = counts.reshape(-1, 2).sum(1)
                self._counts[group] = wider

    def observed(self, group: int) -> Observed | None:
        """What was seen of one group of samples; None when the tensor never had a value."""
        if group not in self._extremes:
            return None
        half = self._width * BINS / 2
        counts = self._counts.get(group)
        low, high = self._extremes[group]
        values = np.zeros(BINS) if counts is None else counts.numpy()
        lows, highs, samples = self._sums[group]
        return Observed(low, high, (-half, half), values, (lows, highs), samples)

    def parameters_of_range(self) -> tuple[float, int]:
        """Scale and zero point of ``range``, which is widened to hold zero."""
        low, high = min(self.range[0], 0.0), max(self.range[1], 0.0)
        levels = int(self.quant_max) - int(self.quant_min)
        scale = max((high - low) / levels, _SMALLEST_SCALE)
        zero_point = int(self.quant_min) - round(low / scale)
        return scale, max(int(self.quant_min), min(int(self.quant_max), zero_point))

    def calculate_qparams(self) -> tuple[torch.Tensor, torch.Tensor]:
        scale, zero_point = self.parameters_of_range()
        return torch.tensor([scale]), torch.tensor([zero_point], dtype=torch.int32)


class WeightObserver(UniformQuantizationObserverBase):  # type: ignore[misc]
    """Symmetric ranges of a weight, per output channel or for all of it.

    ``floor`` holds smallest admissible scales: a channel of tiny weights with a large bias would make a scale
    so small that the bias leaves int32.
    """

    def __init__(self, *, ch_axis: int = 0, **kwargs: Any) -> None:
        kwargs = {k: v for k, v in kwargs.items() if k in ("dtype", "quant_min", "quant_max", "qscheme")}
        super().__init__(**kwargs)
        self.mode: Mode = "watch"
        self.ch_axis = ch_axis
        self.floor: torch.Tensor | None = None
        self._top: torch.Tensor | None = None
        self._played: torch.Tensor | None = None

    @property
    def per_channel(self) -> bool:
        return bool(self.qscheme == torch.per_channel_symmetric)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        if self._top is None:
            self._top = self._largest(weight.detach())
        if self.mode != "simulate":
            return weight
        if self._played is None:
            self._played = self._play(weight.detach())
        return self._played

    def forget(self) -> None:
        """Play anew next time: a floor has changed."""
        self._played = None

    def raise_scales(self, bias: torch.Tensor, input_scale: float) -> None:
        """Keep ``bias`` / (``input_scale`` x weight scale) within half of int32's range."""
        least = bias.detach().abs() / (input_scale * _BIAS_LIMIT)
        self.floor = least if self.per_channel else least.max().reshape(1)
        self.forget()

    def calculate_qparams(self) -> tuple[torch.Tensor, torch.Tensor]:
        assert self._top is not None, "the graph was never run"
        scale = (self._top / float(self.quant_max)).clamp(min=_SMALLEST_SCALE)
        if self.floor is not None:
            scale = torch.maximum(scale, self.floor.to(scale.dtype))
        return scale, torch.zeros_like(scale, dtype=torch.int32)

    def _largest(self, weight: torch.Tensor) -> torch.Tensor:
        if not self.per_channel:
            return weight.abs().max().reshape(1)
        return weight.abs().transpose(0, self.ch_axis).flatten(1).max(1).values

    def _play(self, weight: torch.Tensor) -> torch.Tensor:
        scale, zero_point = self.calculate_qparams()
        low, high = int(self.quant_min), int(self.quant_max)
        if self.per_channel:
            return torch.fake_quantize_per_channel_affine(weight, scale, zero_point, self.ch_axis, low, high)
        return torch.fake_quantize_per_tensor_affine(weight, float(scale), 0, low, high)


def observers(graph: Any) -> dict[str, ObserverBase]:
    """Observers of a prepared graph by their names in it; a shared one under its first name only."""
    found: dict[str, ObserverBase] = {}
    seen: set[int] = set()
    for name, part in graph.named_modules(remove_duplicate=False):
        if isinstance(part, ActivationObserver | WeightObserver) and id(part) not in seen:
            seen.add(id(part))
            found[name] = part
    return found


def set_mode(graph: Any, mode: Mode, *, group: int = 0) -> None:
    """Switch all observers of a prepared graph."""
    for part in observers(graph).values():
        part.mode = mode
        part.group = group
