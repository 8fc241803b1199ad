"""Golden samples: inputs with the outputs that the file gave on the host, and how to compare against them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from edgekit.bundle import run
from edgekit.bundle.manifest import Manifest, translate_problems
from edgekit.errors import StepFailed

if TYPE_CHECKING:
    from edgekit.types import Array

_SHARE, _STEPS = 0.01, 2.0


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """An element agrees when |got - expected| <= atol + rtol * |expected|.

    The unit is the output's own: quantisation steps for integer outputs, real values for floats.
    Zeros mean bit-identical values, right for full int8 files.
    """

    atol: float = 0.0
    rtol: float = 0.0

    def __post_init__(self) -> None:
        if not (0 <= self.atol < float("inf") and 0 <= self.rtol < float("inf")):
            raise ValueError(f"a tolerance is finite and not negative, got {self}")


@dataclass(frozen=True, kw_only=True)
class GoldenSample:
    """Arrays in the layout and dtype of the artifact, batch axis included."""

    inputs: tuple[Array, ...]
    outputs: tuple[Array, ...]


@dataclass(frozen=True, kw_only=True)
class SampleResult:
    """One sample compared: ``max_abs`` over all outputs (infinite when one is NaN and the other not)."""

    index: int
    max_abs: float
    mismatched: int
    elements: int

    @property
    def passed(self) -> bool:
        return self.mismatched == 0


def golden_samples(manifest: Manifest) -> list[GoldenSample]:
    """The golden samples of a loaded bundle."""
    with translate_problems(manifest.root):
        pairs = [run.golden_sample(manifest.root, s) for s in manifest.data["golden"]["samples"]]
    return [GoldenSample(inputs=tuple(i), outputs=tuple(o)) for i, o in pairs]


def tolerance_of(manifest: Manifest) -> Tolerance:
    """The tolerance that the manifest declares."""
    return Tolerance(**manifest.data["golden"]["tolerance"])


def accelerator_tolerance(manifest: Manifest) -> Tolerance:
    """The tolerance for a GPU, NPU or NNAPI, at least the manifest's own.

    Such hardware rounds otherwise than the CPU that gave the golden outputs: floats are computed in fp16 or
    less, integers rescaled by other rules. Floats may differ by 1 % of the golden outputs' largest value,
    integers by 2 quantisation steps: choices of edgekit, far above what fp16 loses in one operator and far
    below what changes a class that the model is sure of.
    """
    own = tolerance_of(manifest)
    outputs = [o for sample in golden_samples(manifest) for o in sample.outputs]
    if all(o.dtype.kind in "iu" for o in outputs):
        return Tolerance(atol=max(own.atol, _STEPS), rtol=own.rtol)
    largest = max((float(abs(o).max()) for o in outputs if o.size and o.dtype.kind == "f"), default=0.0)
    return Tolerance(atol=max(own.atol, _SHARE * largest), rtol=own.rtol)


def compare(
    expected: Sequence[Sequence[Array]], got: Sequence[Sequence[Array]], tolerance: Tolerance
) -> tuple[SampleResult, ...]:
    """Outputs of each sample against the golden ones, both in the artifact's layout and dtype.

    Raises StepFailed when the number of samples, of outputs, a shape or a dtype differs: such outputs
    cannot be compared at all.
    """
    if len(expected) != len(got):
        raise StepFailed(f"{len(got)} samples came back, {len(expected)} were sent")
    return tuple(
        _compare_sample(i, e, g, tolerance) for i, (e, g) in enumerate(zip(expected, got, strict=True))
    )


def verify_bundle(
    manifest: Manifest, infer: Callable[[Sequence[Array]], Sequence[Array]] | None = None
) -> tuple[SampleResult, ...]:
    """Run each golden sample and compare.

    ``infer`` maps the inputs of one sample to its outputs, as the file stores them (a device link, say);
    without it the file runs here, by the same code as the bundle's own run.py.
    """
    samples = golden_samples(manifest)
    with translate_problems(manifest.root):
        if infer is None:
            infer = run.Model(manifest.root, dict(manifest.data)).run
        got = [infer(s.inputs) for s in samples]
    return compare([s.outputs for s in samples], got, tolerance_of(manifest))


def _compare_sample(
    index: int, expected: Sequence[Array], got: Sequence[Array], tolerance: Tolerance
) -> SampleResult:
    if len(expected) != len(got):
        raise StepFailed(f"golden sample {index} has {len(expected)} outputs, {len(got)} came back")
    try:
        found = [run.difference(e, g, asdict(tolerance)) for e, g in zip(expected, got, strict=True)]
    except run.Problem as exc:
        raise StepFailed(f"golden sample {index} cannot be compared: {exc}") from exc
    return SampleResult(
        index=index,
        max_abs=max((d for d, _ in found), default=0.0),
        mismatched=sum(bad for _, bad in found),
        elements=sum(int(e.size) for e in expected),
    )
