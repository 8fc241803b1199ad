"""Quantisation-aware training: fine-tuning while int8 is played (Jacob et al. 2018, arXiv:1712.05877).

Begins from the best of what post-training quantisation offers (two calibrations, channels as they came or
equalised), trains weights and activation scales together, freezes batch norm's statistics late, and gives
back the user's own module with the trained weights, and the trained ranges. A runtime's quantiser knows its
tensors by other names than torch does; a range is therefore given together with the smallest and the largest
value that the float model shows there on the calibration samples, by which the tensor is found in any
runtime's graph.
"""

from __future__ import annotations

import contextlib
import copy
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from edgekit.compress.samples import Samples
from edgekit.compress.training import Run
from edgekit.compress.tuning import EpochRecord, Settings
from edgekit.errors import StepFailed, Unsupported, UserError
from edgekit.sources.arrays import Data
from edgekit.sources.splits import hold_back
from edgekit.types import Emit, Event, Task, ignore_events

if TYPE_CHECKING:
    import torch
    from torch import nn

    from edgekit.compress.simulated import Simulated

    Batches = Sequence[Sequence[torch.Tensor]]

VALIDATION_SHARE = 0.1
METHODS = ("minmax", "mse")
_BATCH = 32
_SAME = 1e-3
_EQUALIZED_ON = 32
"""Samples that channel ranges are taken from."""
_TIMED_BATCHES = 4
"""Batches on which the time of an epoch is told."""


@dataclass(frozen=True, kw_only=True)
class TrainedRange:
    """A trained range [lo, hi], and the extremes that the float model shows there on calibration data."""

    seen_lo: float
    seen_hi: float
    lo: float
    hi: float


@dataclass(frozen=True, kw_only=True)
class QuantizationAware:
    """The trained module in its original structure, eval mode, and what was trained besides.

    ``simulated`` computes what the int8 file should: batches in, outputs of the module's own structure
    out. ``start`` is the calibration that training began from, "equalised minmax" where channels were
    equalised first. ``best_epoch`` 0 is that start.
    """

    module: nn.Module
    simulated: nn.Module
    ranges: tuple[TrainedRange, ...]
    start: str
    history: tuple[EpochRecord, ...]
    best_epoch: int
    train_n: int
    val_n: int


def qat(
    module: nn.Module,
    teacher: nn.Module | None,
    train: Data,
    calibration: Data,
    *,
    task: Task,
    settings: Settings,
    per_channel: bool = True,
    symmetric: bool = False,
    weight_max: int = 127,
    val: Data | None = None,
    emit: Emit = ignore_events,
) -> QuantizationAware:
    """Train a copy of ``module`` for int8; ``calibration`` are the samples that files are calibrated on.

    ``settings`` are those of fine-tuning, of which distillation by outputs and float32 arithmetic are
    used; ``freeze_bn`` says when batch norm freezes. ``symmetric`` is for targets whose activations have
    no zero point, ``weight_max`` the largest int8 weight of the target's files. Raises StepFailed
    when the model cannot be traced or does not come back as it was, UserError when there is nothing to learn
    from.
    """
    import torch

    if teacher is None and (task != "classification" or train.labels is None):
        raise UserError("quantisation-aware training has neither labels nor a teacher")
    settings = replace(settings, kinds=("response",), precision="float32")
    if val is None:
        train, val = hold_back(train, max(1, round(VALIDATION_SHARE * len(train))), seed=settings.seed)
    samples = _batches(calibration)
    example = [torch.from_numpy(x[:2]) for x in train.inputs]
    original = copy.deepcopy(module).eval()
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings(action="ignore"):
        torch.manual_seed(settings.seed)
        original, played, start = _start(
            original,
            example,
            samples,
            per_channel=per_channel,
            symmetric=symmetric,
            weight_max=weight_max,
        )
        emit(Event(kind="info", step="qat", message=f"starts from {start} ranges"))
        played.switch("simulate")
        run = Run(played, teacher, task, settings, emit)
        try:
            tuned = run.fit(Samples(train), Samples(val))
        finally:
            run.close()
        played.eval()
        result = _weights_back(original, played, example)
        ranges = _ranges(played, samples)
        played.switch("simulate")
    return QuantizationAware(
        module=result,
        simulated=played,
        ranges=ranges,
        start=start,
        history=tuned.history,
        best_epoch=tuned.best_epoch,
        train_n=tuned.train_n,
        val_n=tuned.val_n,
    )


def seconds_per_epoch(
    module: nn.Module,
    teacher: nn.Module | None,
    train: Data,
    calibration: Data,
    *,
    task: Task,
    settings: Settings,
    per_channel: bool = True,
    symmetric: bool = False,
    weight_max: int = 127,
) -> float:
    """About how long an epoch of :func:`qat` takes here, by the clock: a few batches of a copy, the first
    thrown away, scaled to all of ``train``. Raises what :func:`qat` raises."""
    import torch

    settings = replace(settings, kinds=("response",), precision="float32", epochs=1, freeze_bn=1.0)
    example = [torch.from_numpy(x[:2]) for x in train.inputs]
    size = settings.batch_size
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings(action="ignore"):
        played = _played(module, example, per_channel=per_channel, symmetric=symmetric, weight_max=weight_max)
        _begin(played, _batches(calibration.take(range(min(size, len(calibration))))))
        played.switch("simulate")
        seconds = 0.0
        for count in (1, _TIMED_BATCHES):
            timed = train.take(range(min(count * size, len(train))))
            run = Run(played, teacher, task, settings, ignore_events)
            started = time.perf_counter()
            try:
                run.fit(Samples(timed), Samples(timed.take(range(min(size, len(timed))))))
            finally:
                run.close()
            seconds = (time.perf_counter() - started) / len(timed)
    return seconds * len(train)


def _played(
    module: nn.Module,
    example: Sequence[torch.Tensor],
    *,
    per_channel: bool,
    symmetric: bool,
    weight_max: int,
) -> Simulated:
    from edgekit.compress.simulated import simulate

    copied = copy.deepcopy(module).eval()
    played = simulate(copied, example, per_channel=per_channel, symmetric=symmetric, weight_max=weight_max)
    if not played.activations():
        raise StepFailed("the model has nothing that int8 runtimes quantise", hint="leave qat.epochs away")
    return played


def _batches(data: Data) -> Batches:
    import torch

    starts = range(0, len(data), _BATCH)
    return [[torch.from_numpy(x[i : i + _BATCH]) for x in data.inputs] for i in starts]


def _start(
    original: nn.Module,
    example: Sequence[torch.Tensor],
    samples: Batches,
    *,
    per_channel: bool,
    symmetric: bool,
    weight_max: int,
) -> tuple[nn.Module, Simulated, str]:
    """The module to begin with, as it came or with equalised channels, what plays it in int8, and the
    calibration that it begins from: of all these the one that computes best on the samples."""
    from edgekit.compress.equalize import equalize

    single = [[x[i : i + 1] for x in batch] for batch in samples for i in range(len(batch[0]))]
    starts = [(original, "")]
    with contextlib.suppress(Unsupported):
        starts.append((equalize(original, single[:_EQUALIZED_ON]).module, "equalised "))
    found = []
    for module, words in starts:
        played = _played(module, example, per_channel=per_channel, symmetric=symmetric, weight_max=weight_max)
        method, noise = _begin(played, samples)
        found.append((noise, module, played, f"{words}{method}"))
    _, module, played, start = min(found, key=lambda f: f[0])
    return module, played, start


def _begin(played: Simulated, samples: Batches) -> tuple[str, float]:
    """Give every activation the range of the calibration that computes best on the samples; its name and
    its noise."""
    import torch

    with torch.no_grad():
        _watch(played, samples)
        played.switch("pass")
        wanted = [_flat(played(*x)) for x in samples]
        noise: dict[str, float] = {}
        for method in METHODS:
            for part in played.activations():
                part.begin(method)
            played.switch("simulate")
            found = [_flat(played(*x)) for x in samples]
            noise[method] = sum(float((a - b).square().sum()) for a, b in zip(found, wanted, strict=True))
        best = min(METHODS, key=noise.__getitem__)
        for part in played.activations():
            part.begin(best)
            part.forget()
    return best, noise[best]


def _watch(played: Simulated, samples: Batches) -> None:
    played.switch("watch")
    for part in played.activations():
        part.forget()
    for x in samples:
        played(*x)


def _flat(outputs: Any) -> torch.Tensor:
    import torch

    from edgekit.sources.inspection import flatten_outputs

    return torch.cat([t.float().flatten() for _, t in flatten_outputs(outputs)])


def _ranges(played: Simulated, samples: Batches) -> tuple[TrainedRange, ...]:
    """What was trained, each with what the trained float model shows there."""
    import torch

    with torch.no_grad():
        _watch(played, samples)
    found = []
    for part in played.activations():
        if part.seen is not None:
            low, high = part.range()
            found.append(TrainedRange(seen_lo=part.seen[0], seen_hi=part.seen[1], lo=low, hi=high))
        part.forget()
    return tuple(found)


def _weights_back(original: nn.Module, played: Simulated, example: Sequence[torch.Tensor]) -> nn.Module:
    """The original module with the trained weights. Raises StepFailed unless both compute the same."""
    import torch

    result = copy.deepcopy(original)
    trained = played.graph.state_dict()
    with torch.no_grad():
        for name, tensor in result.state_dict().items():
            if name in trained:
                tensor.copy_(trained[name])
        played.switch("pass")
        ours, theirs = _flat(result(*example)), _flat(played(*example))
    scale = max(float(theirs.abs().max()), 1e-6)
    if not float((ours - theirs).abs().max()) <= _SAME * scale:
        raise StepFailed(
            "the trained weights do not give the trained model when put back into the original",
            hint="leave qat.epochs away for this model",
        )
    return result
