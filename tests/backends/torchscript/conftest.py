"""Small models for the TorchScript backend, and how to make files of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgekit.backends.torchscript.backend import TorchScriptBackend
from edgekit.store import Store
from edgekit.types import Artifact, ModelSpec, Precision, Scheme, TensorSpec, ignore_events


class Made:
    """A module's float file and its samples; ``quantized`` makes another precision of it."""

    def __init__(self, module: Any, samples: list[list[Any]]) -> None:
        import torch

        self.backend, self.store = TorchScriptBackend(), Store()
        self.module, self.samples = module.eval(), samples
        with torch.no_grad():
            outputs = self.module(*(torch.from_numpy(x) for x in samples[0]))
        outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
        self.spec = ModelSpec(
            name="net",
            source="net",
            sha256="0" * 64,
            inputs=tuple(
                TensorSpec(name=f"in{i}", shape=x.shape, dtype=str(x.dtype)) for i, x in enumerate(samples[0])
            ),
            outputs=tuple(
                TensorSpec(name=f"out{i}", shape=tuple(y.shape), dtype="float32")
                for i, y in enumerate(outputs)
            ),
        )
        self.artifact = self.backend.export(
            self.module, self.spec, samples, store=self.store, scheme=Scheme(), emit=ignore_events
        )

    def quantized(self, precision: Precision = "int8", **more: Any) -> Artifact:
        scheme = Scheme(precision=precision, delegate="qnnpack", **more)
        return self.backend.quantize(
            self.artifact, self.samples, scheme, refit=False, store=self.store, emit=ignore_events
        )

    def outputs(self, artifact: Artifact) -> list[Any]:
        session = self.backend.session(artifact)
        rows = [session.run(s) for s in self.samples]
        return [np.concatenate(column) for column in zip(*rows, strict=True)]

    def sqnr(self, artifact: Artifact) -> float:
        """Of the worst output, in dB, against the float file."""
        pairs = zip(self.outputs(self.artifact), self.outputs(artifact), strict=True)
        return min(float(10 * np.log10((a**2).sum() / max(((a - b) ** 2).sum(), 1e-30))) for a, b in pairs)

    def precisions(self, artifact: Artifact) -> dict[str, str]:
        return {u.name: u.precision for u in self.backend.units(artifact)}


@pytest.fixture
def make() -> Callable[..., Made]:
    """Seeded weights and ten normal samples of the given shapes."""
    torch = pytest.importorskip("torch")

    def build(factory: Callable[[], Any], *shapes: tuple[int, ...]) -> Made:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            module = factory()
        rng = np.random.default_rng(0)
        samples = [[rng.standard_normal(s).astype(np.float32) for s in shapes] for _ in range(10)]
        return Made(module, samples)

    return build
