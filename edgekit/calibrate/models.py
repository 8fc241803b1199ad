"""Tiny generated models, each of which spends its time on one thing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.backends import Backend
from edgekit.errors import EdgekitError
from edgekit.sources import inspection
from edgekit.types import Artifact, Emit, Event, ModelSpec, Scheme, ignore_events, to_json

if TYPE_CHECKING:
    import torch

    from edgekit.profiles.schema import Target
    from edgekit.store import Store
    from edgekit.types import Array

CHAIN = 100
_SAMPLES = 4
_SOURCE = "edgekit.calibrate"


@dataclass(frozen=True, kw_only=True)
class Job:
    """A file to time, its inputs as the file stores them, and its operators as plain rows."""

    name: str
    artifact: Artifact
    inputs: tuple[Array, ...]
    units: tuple[dict[str, Any], ...]
    coverage: tuple[dict[str, Any], ...]
    network: bool = False
    """A network of the user's, not a generated model."""


def file_job(
    name: str,
    backend: Backend,
    artifact: Artifact,
    inputs: Sequence[Array],
    target: Target,
    *,
    network: bool = True,
) -> Job:
    """A job for a file that is there already."""
    return Job(
        name=name,
        artifact=artifact,
        inputs=tuple(inputs),
        units=tuple(to_json(backend.units(artifact))),
        coverage=tuple(to_json(backend.coverage(artifact, target))),
        network=network,
    )


def generated_jobs(
    backend: Backend, target: Target, *, store: Store, emit: Emit = ignore_events
) -> list[Job]:
    """Convolutions 1x1 and 3x3, a depthwise one, a large addition, a chain of 100 tiny operators.

    The convolutions in int8 as well, where the target takes int8. They have 7 to 60 million
    multiply-accumulates, so that a Raspberry Pi needs milliseconds. Weights and inputs are seeded random
    values.

    A model that the backend cannot write in a precision is left out with a warning.
    """
    made: list[Job] = []
    precisions = ("float32", "int8") if "int8" in target.precisions else ("float32",)
    modules = list(_modules())
    for number, (name, module, shapes) in enumerate(modules, start=1):
        rng = np.random.default_rng(0)
        samples = [
            [rng.standard_normal(shape).astype(np.float32) for shape in shapes] for _ in range(_SAMPLES)
        ]
        scheme = Scheme(delegate=target.delegate, delegate_version=target.version)
        spec = _spec(name, module, samples[0])
        floats = backend.export(module, spec, samples, store=store, scheme=scheme, emit=ignore_events)
        for precision in precisions if len(shapes) == 1 else ("float32",):
            try:
                artifact = (
                    floats if precision == "float32" else _int8(backend, floats, samples, target, store)
                )
            except EdgekitError as exc:
                text = f"{name} was left out in {precision}: {exc}"
                emit(Event(kind="warning", step="models", message=text))
                continue
            encoded = backend.session(artifact).encode(samples[0])
            job = file_job(f"{name} {precision}", backend, artifact, encoded, target, network=False)
            made.append(job)
        emit(Event(kind="progress", step="models", data={"done": number, "total": len(modules)}))
    return made


def _int8(
    backend: Backend, floats: Artifact, samples: list[list[Array]], target: Target, store: Store
) -> Artifact:
    scheme = Scheme(
        precision="int8",
        calibration="minmax",
        delegate=target.delegate,
        delegate_version=target.version,
    )
    return backend.quantize(floats, samples, scheme, refit=True, store=store, emit=ignore_events)


def _spec(name: str, module: torch.nn.Module, sample: Sequence[Array]) -> ModelSpec:
    import torch

    from edgekit.sources.digest import module_digest

    inputs = [torch.from_numpy(x) for x in sample]
    outputs = inspection.run_once(module, inputs, source=_SOURCE)
    return ModelSpec(
        name=name.replace(" ", "_"),
        source=_SOURCE,
        sha256=module_digest(module, None),
        inputs=inspection.input_specs(inputs, inspection.forward_names(module)),
        outputs=inspection.output_specs(outputs),
    )


def _modules() -> Iterator[tuple[str, torch.nn.Module, tuple[tuple[int, ...], ...]]]:
    """(name, module in eval mode, shapes of its inputs)."""
    import torch
    from torch import nn

    class Add(nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return a + b

    class Chain(nn.Module):
        """Convolutions and sums by turns, which no converter folds into one: dispatch and threads' meeting
        cost more in a convolution than in a sum, and networks have both."""

        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Conv2d(8, 8, 1)

        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            for _ in range(CHAIN // 2):
                a = self.mix(a) + b
            return a

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        chain = Chain().eval()
        convolutions: list[tuple[str, nn.Module, tuple[int, ...]]] = [
            ("dense 1x1", nn.Conv2d(256, 256, 1), (1, 256, 28, 28)),
            ("dense 3x3", nn.Conv2d(64, 64, 3, padding=1), (1, 64, 40, 40)),
            ("depthwise 3x3", nn.Conv2d(256, 256, 3, padding=1, groups=256), (1, 256, 56, 56)),
        ]
    for name, module, shape in convolutions:
        yield name, module.eval(), (shape,)
    large, tiny = (1, 64, 160, 160), (1, 8, 4, 4)
    yield "large add", Add().eval(), (large, large)
    yield f"chain of {CHAIN}", chain, (tiny, tiny)
