"""Partitions of real models in every precision: what the rules say is what LiteRT does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgekit.backends.tflite import rules
from edgekit.backends.tflite.backend import TFLiteBackend
from edgekit.backends.tflite.flatbuffer import read_graph
from edgekit.sources.models import load_model
from edgekit.store import Store
from edgekit.types import Scheme, ignore_events

MODELS = {
    "cifar_resnet20": (1, 3, 32, 32),
    "hard_mbv3_cifar": (1, 3, 32, 32),
    "mlperf_tiny_kws_dscnn": (1, 1, 49, 10),
}


@pytest.mark.realdata
@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_real_models_are_cut_as_predicted(
    name: str, realdata: Path, delegated: Callable[[Path], list[tuple[int, ...]]]
) -> None:
    backend, store, shape = TFLiteBackend(), Store(), MODELS[name]
    model = load_model(f"{realdata / 'entry.py'}:{name}", input_shapes=(shape,))
    rng = np.random.default_rng(0)
    samples = [[rng.normal(size=shape).astype(np.float32)] for _ in range(6)]
    floats = backend.export(
        model.module, model.spec, samples[:2], store=store, scheme=Scheme(), emit=ignore_events
    )
    found = {}
    for precision in ("float32", "fp16", "dynamic", "int8", "int16x8"):
        scheme = Scheme(precision=precision, calibration="minmax")
        made = backend.quantize(floats, samples, scheme, refit=False, store=store, emit=ignore_events)
        placed = rules.place(read_graph(made.path), rules.DELEGATES["xnnpack"])
        found[precision] = (sorted(placed.partitions), delegated(made.path))
    assert [p for p, (predicted, real) in found.items() if predicted != real] == []
    assert all(real for p, (_, real) in found.items() if p != "int16x8")
