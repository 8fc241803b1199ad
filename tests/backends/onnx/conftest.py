"""A small net with every join that placement decides about, exported once, and ways to run it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime")

from edgekit.backends.onnx.backend import OnnxBackend
from edgekit.backends.onnx.graph import Graph, read_graph
from edgekit.store import Store
from edgekit.types import Artifact, ModelSpec, Scheme, TensorSpec, ignore_events


@dataclass(frozen=True, eq=False)
class Net:
    """A module, its samples, and its float file."""

    module: Any
    samples: list[list[Any]]
    artifact: Artifact
    store: Store
    backend: OnnxBackend = field(default_factory=OnnxBackend)

    def quantized(self, precision: str = "int8", delegate: str = "cpu", **more: Any) -> Artifact:
        scheme = Scheme(precision=precision, delegate=delegate, **more)  # type: ignore[arg-type]
        return self.backend.quantize(
            self.artifact, self.samples, scheme, refit=False, store=self.store, emit=ignore_events
        )

    def graph(self, artifact: Artifact | None = None) -> Graph:
        return read_graph((artifact or self.artifact).path)

    def sqnr(self, artifact: Artifact) -> float:
        """Of all outputs together, in dB, against the float file."""
        session, float_session = self.backend.session(artifact), self.backend.session(self.artifact)
        signal = noise = 0.0
        for sample in self.samples:
            for want, got in zip(float_session.run(sample), session.run(sample), strict=True):
                signal += float((want.astype(np.float64) ** 2).sum())
                noise += float(((want.astype(np.float64) - got) ** 2).sum())
        return float(10 * np.log10(signal / noise)) if noise else np.inf


def spec_of(module: Any, inputs: Sequence[Any]) -> ModelSpec:
    """What sources would say of a module that is called with these arrays."""
    import torch

    with torch.inference_mode():
        made = module(*(torch.from_numpy(x) for x in inputs))
    outputs = made if isinstance(made, tuple) else (made,)
    return ModelSpec(
        name="net",
        source="tests",
        sha256="0" * 64,
        inputs=tuple(
            TensorSpec(name=f"x{i}", shape=x.shape, dtype=str(x.dtype)) for i, x in enumerate(inputs)
        ),
        outputs=tuple(
            TensorSpec(name=f"y{i}", shape=tuple(y.shape), dtype="float32") for i, y in enumerate(outputs)
        ),
    )


@pytest.fixture(scope="session", name="spec_of")
def spec_of_fixture() -> Callable[..., ModelSpec]:
    """:func:`spec_of` for test modules."""
    return spec_of


@pytest.fixture(scope="session")
def export_net() -> Callable[..., Net]:
    """Export a module by the backend: ``export_net(module, samples, **scheme)``."""
    import torch

    def export(module: torch.nn.Module, samples: list[list[Any]], **scheme: Any) -> Net:
        store, module = Store(), module.eval()
        artifact = OnnxBackend().export(
            module,
            spec_of(module, samples[0]),
            samples[:2],
            store=store,
            scheme=Scheme(**scheme),
            emit=ignore_events,
        )
        return Net(module, samples, artifact, store)

    return export


def joins_module() -> Any:
    """Stem, a residual sum, a sum of two convolutions, pooling, Concat, hardswish, head."""
    import torch
    from torch import nn

    class Joins(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 3, padding=1)
            self.block = nn.Conv2d(8, 8, 3, padding=1)
            self.left, self.right = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, padding=1)
            self.a, self.b = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 12, 1)
            self.last, self.head = nn.Conv2d(16, 8, 1), nn.Linear(8, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.relu(self.stem(x))
            x = torch.relu(x + self.block(x))
            x = torch.relu(self.left(x) + self.right(x))
            x = nn.functional.max_pool2d(x, 2)
            x = torch.cat([torch.relu(self.a(x)), torch.relu(self.b(x))], 1)
            x = nn.functional.hardswish(self.last(x))
            return self.head(x.mean((2, 3)))

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Joins()


def images(n: int, shape: tuple[int, ...] = (1, 3, 8, 8), seed: int = 0) -> list[list[Any]]:
    """Normal noise."""
    rng = np.random.default_rng(seed)
    return [[rng.standard_normal(shape, dtype=np.float32)] for _ in range(n)]


@pytest.fixture(scope="session")
def joins(export_net: Callable[..., Net]) -> Net:
    return export_net(joins_module(), images(12))
