"""Facts of a model and of data, as plans are made from them."""

from __future__ import annotations

import pytest

from edgekit.plan import DataFacts
from edgekit.types import ModelSpec, TensorSpec


@pytest.fixture(scope="session")
def model() -> ModelSpec:
    """A trainable classifier of 3x32x32 images."""
    return ModelSpec(
        name="net",
        source="model.py:net",
        sha256="0" * 64,
        inputs=(TensorSpec(name="image", shape=(1, 3, 32, 32), dtype="float32", layout="NCHW"),),
        outputs=(TensorSpec(name="output0", shape=(1, 10), dtype="float32"),),
        task="classification",
        params=272_474,
        macs=40_551_040,
    )


@pytest.fixture(scope="session")
def situations() -> dict[str, DataFacts]:
    """What data there may be."""
    return {
        "none": DataFacts(),
        "calib": DataFacts(calib=256),
        "eval": DataFacts(eval=1000, eval_labelled=True),
        "calib_eval": DataFacts(calib=256, eval=1000, eval_labelled=True),
        "calib_eval_train": DataFacts(
            calib=256, eval=1000, eval_labelled=True, train=8000, train_labelled=True
        ),
    }
