"""The golden vectors that edgekit computes for the Android app, held against the code in bundles."""

from __future__ import annotations

import base64
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.bundle import run

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "android_vectors.py"


def _script() -> Any:
    spec = importlib.util.spec_from_file_location("android_vectors", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def script() -> Any:
    return _script()


@pytest.fixture(scope="module")
def vectors(script: Any) -> dict[str, Any]:
    return dict(script.vectors())


def _array(text: str, dtype: str, shape: Any = -1) -> Any:
    return np.frombuffer(base64.b64decode(text), dtype).reshape(shape)


def test_run_py_prepares_pictures_as_the_build_read_its_data(
    script: Any, vectors: dict[str, Any], tmp_path: Path
) -> None:
    assert len(vectors["pictures"]) >= 15
    for case in vectors["pictures"]:
        tensor = case["input"]
        pixels = _array(case["pixels"], "uint8", (case["height"], case["width"], 3))
        file = tmp_path / f"{tensor['name']}.png"
        script.write_picture(file, pixels, case["orientation"])
        real = run.image_array(file, tensor, case["preprocessing"])
        np.testing.assert_array_equal(real, _array(case["real"], "float32", tensor["shape"]), tensor["name"])
        stored = run.to_stored(real, tensor)
        assert stored.dtype == tensor["dtype"]
        np.testing.assert_array_equal(stored, _array(case["stored"], tensor["dtype"], tensor["shape"]))


def test_pictures_are_cropped_not_squeezed(tmp_path: Path, script: Any) -> None:
    """Bars at both ends of a wide picture fall outside of a square input."""
    pixels = np.full((8, 16, 3), 200, np.uint8)
    pixels[:, :3] = pixels[:, -3:] = 0
    script.write_picture(tmp_path / "x.png", pixels, 1)
    tensor = {"name": "x", "shape": [1, 8, 8, 3], "dtype": "float32", "layout": "NHWC"}
    how = {"scale": 1.0, "mean": None, "std": None, "channel_order": "RGB"}
    assert (run.image_array(tmp_path / "x.png", tensor, how) == 200).all()


def test_the_highest_scores_are_the_same_as_a_plain_sort_gives(vectors: dict[str, Any]) -> None:
    for case in vectors["top"]:
        scores = _array(case["scores"], "float32")
        plain = sorted(range(len(scores)), key=lambda i, s=scores: (np.isnan(s[i]), -s[i], i))  # type: ignore[misc]
        assert case["indices"] == plain[: case["count"]]


def test_stored_outputs_survive_the_way_to_real_values_and_back(vectors: dict[str, Any]) -> None:
    for case in vectors["outputs"]:
        output = case["output"]
        stored = _array(case["stored"], output["dtype"], output["shape"])
        real = run.to_real(stored, output)
        np.testing.assert_array_equal(real, _array(case["real"], "float32", output["shape"]))
        np.testing.assert_array_equal(run.to_stored(real, output), stored)


def test_equal_arguments_give_equal_vectors(script: Any, vectors: dict[str, Any]) -> None:
    assert script.vectors() == vectors
