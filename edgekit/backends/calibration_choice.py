"""Quantising with the calibration that measures best, whatever the backend.

Candidates (ranges by different methods) are written and compared with the float file on calibration
samples that were held back from calibration. The best one is then fitted to all samples, unless the
held-back ones are needed again as samples that calibration has not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.backends import calibration, ties, trained_ranges
from edgekit.backends.calibration_methods import Method
from edgekit.errors import DataError
from edgekit.types import Artifact, Emit, Event

if TYPE_CHECKING:
    from edgekit.types import Array

HOLD_BACK = 0.2
"""Share of the calibration samples on which candidates are compared."""

MIN_SAMPLES = 2

CORRECTED = "+bias"
"""Behind a method's name: with bias correction."""

_CORRECTION_SAMPLES = 32

_CLEARLY = 5
"""Samples by which a candidate's agreement has to be behind to count against its SQNR."""

TRAINED = "trained"
"""Name of the method when ranges come from quantisation-aware training."""

Samples = Sequence[Sequence["Array"]]
Observe = Callable[
    [calibration.Read, Sequence[Sequence[Sequence["Array"]]], Emit], list[dict[str, calibration.Observed]]
]
Tried = tuple[float, float, str, Artifact]
"""Agreement in percent (0 where it means nothing), SQNR in dB, method, file."""


def quantize_best(
    artifact: Artifact,
    samples: Samples,
    methods: Mapping[str, Method],
    *,
    read: calibration.Read,
    write: Callable[[calibration.Ranges], Artifact],
    run: Callable[[Artifact, Samples], list[Array]],
    refit: bool,
    emit: Emit,
    trained: Sequence[Sequence[float]] = (),
    observe: Observe = calibration.observe,
    inputs: Sequence[str] = (),
    correct: Callable[[Artifact, calibration.Ranges, Samples], Artifact] | None = None,
) -> Artifact:
    """The file of the method that measures best; ``meta["calibration"]`` tells what was tried and chosen.

    ``read`` gives activations of the float file ``artifact``, ``write`` makes a file from ranges, ``run``
    its outputs on samples. ``observe`` is calibration.observe or something that remembers what it gave. With
    ``trained`` ranges (see Scheme) those are taken, and true extremes where there is none; ``methods`` must
    have "minmax" then. ``inputs``: names of the model's inputs, where their ranges are asymmetric, to keep
    their values from ties (see :mod:`edgekit.backends.ties`). ``correct`` gives a file with biases that
    are corrected on some of the samples that its ranges come from (see :func:`some`); the best one is tried
    with it where samples were held back to judge it by, unless its ranges were trained. Raises DataError for
    too few samples.
    """
    if len(samples) < MIN_SAMPLES:
        raise DataError(
            f"int8 needs at least {MIN_SAMPLES} calibration samples, got {len(samples)}",
            hint="give more with --calib",
        )
    fit, held = split(samples)
    groups = [fit, held] if fit is not held else [fit]
    observed = observe(read, groups, emit)
    if trained:
        found = trained_ranges.find(calibration.merge(observed), trained)
        observed = [trained_ranges.given(part, found) for part in observed]
        methods = {TRAINED: methods["minmax"]}
    given = ties.values_of(inputs, samples)

    def file_of(
        name: str, seen: Mapping[str, calibration.Observed], fitted: Samples, *, corrected: bool = False
    ) -> Artifact:
        ranges = ties.avoided(methods[name](seen), given)
        made = write(ranges)
        return correct(made, ranges, some(fitted)) if correct is not None and corrected else made

    reference = run(artifact, held)
    tried: list[Tried] = []
    rows: list[dict[str, Any]] = []

    def measure(name: str, candidate: Artifact) -> None:
        sqnr, agreement = compare(reference, run(candidate, held))
        rows.append({"name": name, "sqnr_db": sqnr, "agreement": agreement})
        tried.append((agreement if agreement is not None else 0.0, sqnr, name, candidate))
        told = f"calibration {name}: SQNR {sqnr:.1f} dB on held-back samples"
        emit(Event(kind="info", step="quantize", message=told))

    for name in methods:
        measure(name, file_of(name, observed[0], fit))
    if correct is not None and len(groups) > 1 and not trained:
        _, _, name, plain = choose(tried, len(held))
        candidate = file_of(name, observed[0], fit, corrected=True)
        if candidate.sha256 != plain.sha256:
            measure(name + CORRECTED, candidate)
    _, _, chosen, best = choose(tried, len(held))
    if refit and len(groups) > 1:
        corrected = chosen.endswith(CORRECTED)
        name = chosen.removesuffix(CORRECTED)
        best = file_of(name, calibration.merge(observed), samples, corrected=corrected)
    report = {
        "chosen": chosen,
        "samples": len(samples) if refit else len(fit),
        "held_back": len(held),
        "refit": refit and len(groups) > 1,
        "candidates": rows,
    }
    return replace(best, meta={**best.meta, "calibration": report})


def split(samples: Samples) -> tuple[list[Sequence[Array]], list[Sequence[Array]]]:
    """Every fifth sample is held back; all of them serve for both when there are fewer than five."""
    step = round(1 / HOLD_BACK)
    if len(samples) < step:
        every = list(samples)
        return every, every
    return [s for i, s in enumerate(samples) if i % step != step - 1], list(samples[step - 1 :: step])


def some(samples: Samples) -> Samples:
    """The samples that biases are corrected with, spread over all."""
    count = min(_CORRECTION_SAMPLES, len(samples))
    return [samples[i * len(samples) // count] for i in range(count)]


def choose(tried: Sequence[Tried], held: int) -> Tried:
    """The candidate with the highest SQNR, unless its agreement is clearly behind.

    SQNR moves with every value; agreement counts a few samples that lie near a border. It decides only
    when a candidate loses more than two standard deviations of a binomial at the best agreement, and at
    least five samples: of fewer, all on one side, chance is too likely a cause (sign test, 1 in 32).
    """
    top = max(t[0] for t in tried) / 100
    margin = max(2 * sqrt(top * (1 - top) / held), (_CLEARLY - 0.5) / held)
    return max((t for t in tried if t[0] / 100 >= top - margin), key=lambda t: t[1])


def compare(reference: Sequence[Array], got: Sequence[Array]) -> tuple[float, float | None]:
    """SQNR in dB over all outputs, and the agreement of the arg max in percent where outputs are (n, C).

    Not finite values in ``got`` are an SQNR of minus infinity decibels, written as -300.
    """
    signal = sum(float((r.astype(np.float64) ** 2).sum()) for r in reference)
    noise = sum(float(((r.astype(np.float64) - g) ** 2).sum()) for r, g in zip(reference, got, strict=True))
    if not np.isfinite(noise):
        return -300.0, 0.0
    sqnr = float(10 * np.log10(max(signal, 1e-30) / max(noise, 1e-30)))
    first, other = reference[0], got[0]
    agreement = None
    if len(reference) == 1 and first.ndim == 2 and first.shape[1] > 1:
        agreement = float(100 * (first.argmax(1) == other.argmax(1)).mean())
    return sqnr, agreement
