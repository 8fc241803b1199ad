"""The demo's promises that do not need a converter: accuracy as shipped, and after pruning."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import edgekit.sources.demo as demo  # noqa: E402
from edgekit.compress.finetune import Settings, finetune  # noqa: E402
from edgekit.compress.prune import prune  # noqa: E402
from edgekit.sources.data import load_data  # noqa: E402
from edgekit.sources.models import load_model  # noqa: E402


def test_the_demo_is_accurate_small_and_survives_pruning() -> None:
    weights = Path(demo.__file__).with_name("weights.safetensors")
    assert weights.stat().st_size < 1_300_000
    test, train = load_data("digits", role="eval"), load_data("digits", role="train")
    assert len(test) >= 360

    def accuracy(module: torch.nn.Module) -> float:
        with torch.no_grad():
            right = module(torch.from_numpy(test.inputs[0])).argmax(1).numpy() == test.labels
        return 100.0 * float(right.mean())

    loaded = load_model(None)
    assert loaded.module is not None and accuracy(loaded.module) >= 98.5
    pruned = prune(loaded.module, loaded.example_inputs, ratio=0.5, round_to=8)
    assert pruned.macs_before is not None and pruned.macs_after is not None
    assert pruned.macs_before / pruned.macs_after > 3.5
    assert accuracy(pruned.module) < 80, "pruning did not hurt: is anything removed?"
    tuned = finetune(pruned.module, loaded.module, train, task=loaded.spec.task, settings=Settings(epochs=6))
    assert accuracy(tuned.module) >= 97.0
