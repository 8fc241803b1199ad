"""Two tiny TFLite files (float32 and full int8) of one net, and all that a bundle of them needs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.bundle import GoldenSample, RuntimeTarget, Tolerance, write_bundle
from edgekit.types import Artifact, ModelSpec, Preprocessing, TensorSpec

SIDE, CLASSES = 8, 4
PROVENANCE = {"edgekit_version": "0.1.0", "source_sha256": "a" * 64, "plan_digest": "b" * 64}


def samples(n: int) -> np.ndarray:
    """(n, 1, 8, 8, 3) float32 in -1..1, NHWC."""
    return np.random.default_rng(0).uniform(-1, 1, (n, 1, SIDE, SIDE, 3)).astype(np.float32)


@pytest.fixture(scope="session")
def tflite_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A convolution and a classifier, NHWC, as "float32" and as "int8" with int8 inputs and outputs."""
    tf = pytest.importorskip("tensorflow")
    rng = np.random.default_rng(1)
    kernel = tf.constant(rng.normal(size=(3, 3, 3, 8)), tf.float32)
    classifier = tf.constant(rng.normal(size=(8, CLASSES)), tf.float32)

    class Net(tf.Module):  # type: ignore[misc]
        @tf.function(input_signature=[tf.TensorSpec((1, SIDE, SIDE, 3), tf.float32, name="x")])
        def __call__(self, x: Any) -> Any:
            hidden = tf.nn.relu(tf.nn.conv2d(x, kernel, 1, "SAME"))
            return {"scores": tf.linalg.matmul(tf.reduce_mean(hidden, (1, 2)), classifier)}

    net, folder, made = Net(), tmp_path_factory.mktemp("tflite"), {}
    for precision in ("float32", "int8"):
        converter = tf.lite.TFLiteConverter.from_concrete_functions(
            [net.__call__.get_concrete_function()], net
        )
        if precision == "int8":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.representative_dataset = lambda: ([x] for x in samples(16))
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = tf.int8
        made[precision] = folder / f"{precision}.tflite"
        made[precision].write_bytes(converter.convert())
    return made


class Ingredients:
    """Arguments of write_bundle for one file; golden outputs come from the runtime itself."""

    def __init__(self, path: Path, precision: Any) -> None:
        from ai_edge_litert.interpreter import Interpreter

        runner = Interpreter(model_path=str(path))
        runner.allocate_tensors()
        entry, result = runner.get_input_details()[0], runner.get_output_details()[0]
        data = path.read_bytes()
        self.artifact = Artifact(
            sha256=hashlib.sha256(data).hexdigest(),
            format="tflite",
            precision=precision,
            path=path,
            bytes=len(data),
            inputs=(self._tensor("x", entry, "NHWC"),),
            outputs=(self._tensor("scores", result, None),),
        )
        self.spec = ModelSpec(
            name="tiny",
            source="tiny.py:net",
            sha256="a" * 64,
            inputs=(TensorSpec(name="image", shape=(1, 3, SIDE, SIDE), dtype="float32", layout="NCHW"),),
            outputs=(TensorSpec(name="logits", shape=(1, CLASSES), dtype="float32"),),
            task="classification",
            labels=("ant", "bee", "cat", "dog"),
            preprocessing=Preprocessing(
                resize=(SIDE, SIDE), scale=255.0, mean=(0.5,) * 3, std=(0.5,) * 3, channel_order="RGB"
            ),
        )
        self.golden = []
        for real in samples(3):
            stored = real
            if precision == "int8":
                scale, zero = entry["quantization"]
                stored = np.clip(np.round(real / scale) + zero, -128, 127).astype(np.int8)
            runner.set_tensor(entry["index"], stored)
            runner.invoke()
            self.golden.append(
                GoldenSample(inputs=(stored,), outputs=(runner.get_tensor(result["index"]).copy(),))
            )
        self.tolerance = Tolerance() if precision == "int8" else Tolerance(atol=1e-5, rtol=1e-5)

    @staticmethod
    def _tensor(name: str, detail: Any, layout: str | None) -> TensorSpec:
        scale, zero = detail["quantization"]
        return TensorSpec(
            name=name,
            shape=tuple(int(d) for d in detail["shape"]),
            dtype=np.dtype(detail["dtype"]).name,
            layout=layout,
            scale=float(scale) or None,
            zero_point=int(zero) if scale else None,
        )

    def write(self, out: Path, **changed: Any) -> Path:
        arguments: dict[str, Any] = {
            "artifact": self.artifact,
            "spec": self.spec,
            "profile": "pi4",
            "runtime": RuntimeTarget(name="tflite", min_version="2.14", delegates=("xnnpack",), threads=1),
            "golden": self.golden,
            "tolerance": self.tolerance,
            "provenance": PROVENANCE,
            "licences": {"model": "BSD-2-Clause"},
            "input_ranges": [(-1.0, 1.0)],
        }
        return write_bundle(out, **{**arguments, **changed})


@pytest.fixture(scope="session")
def ingredients(tflite_files: dict[str, Path]) -> dict[str, Ingredients]:
    return {precision: Ingredients(path, precision) for precision, path in tflite_files.items()}


@pytest.fixture(params=["int8", "float32"])
def made(request: pytest.FixtureRequest, ingredients: dict[str, Ingredients], tmp_path: Path) -> Path:
    """A bundle of each precision."""
    return ingredients[request.param].write(tmp_path / "out")


@pytest.fixture
def write_int8(ingredients: dict[str, Ingredients], tmp_path: Path) -> Callable[..., Path]:
    """Writes a bundle of the int8 file into the test's folder, with arguments changed."""

    def write(**changed: Any) -> Path:
        return ingredients["int8"].write(tmp_path / "out", **changed)

    return write
