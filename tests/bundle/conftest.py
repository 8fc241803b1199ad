"""Tiny files, made with the runtimes' own libraries, and all that bundles of them need.

TFLite as float32 and full int8 of one net; the other runtimes from one torch net.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.bundle import GoldenSample, RuntimeTarget, Tolerance, write_bundle
from edgekit.types import Artifact, ModelSpec, Preprocessing, TensorSpec

SIDE, CLASSES = 8, 4
NCHW = (1, 3, SIDE, SIDE)
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


# -- the other runtimes


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Exporters log advice about themselves."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def net() -> Any:
    """A convolution with a classifier: (1, 3, 8, 8) float32 to (1, 4), and the largest score as (1,)."""
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3, padding=1)
            self.head = nn.Linear(8, CLASSES)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            scores = self.head(torch.relu(self.conv(x)).mean((2, 3)))
            return scores, scores.amax(1)

    torch.manual_seed(0)
    return Net().eval()


def nchw_samples(n: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.uniform(-1, 1, NCHW).astype(np.float32) for _ in range(n)]


def write_onnx(path: Path) -> None:
    import torch

    with quiet():
        torch.onnx.export(
            net(),
            (torch.from_numpy(nchw_samples(1)[0]),),
            str(path),
            dynamo=False,
            opset_version=17,
            input_names=["x"],
            output_names=["scores", "best"],
        )


def write_pte(path: Path) -> None:
    import torch

    with quiet():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        program = torch.export.export(net(), (torch.from_numpy(nchw_samples(1)[0]),))
        lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
        path.write_bytes(lowered.to_executorch().buffer)


def write_torchscript(path: Path, *, quantized: bool) -> None:
    """Float, or static int8 with the qnnpack engine; the engine of this process stays as it was."""
    import torch

    inputs = [torch.from_numpy(x) for x in nchw_samples(4)]
    engine = torch.backends.quantized.engine
    with quiet():
        module = net()
        try:
            if quantized:
                from torch.ao.quantization import get_default_qconfig_mapping
                from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

                torch.backends.quantized.engine = "qnnpack"
                module = prepare_fx(module, get_default_qconfig_mapping("qnnpack"), (inputs[0],))
                for x in inputs:
                    module(x)
                module = convert_fx(module)
            torch.jit.save(torch.jit.trace(module, (inputs[0],), check_trace=False), str(path))
        finally:
            torch.backends.quantized.engine = engine


@dataclass(frozen=True)
class Case:
    """A runtime with a delegate, its Python package and what the golden outputs are made with."""

    runtime: str
    delegate: str
    format: Any
    package: str
    precision: Any = "float32"

    @property
    def name(self) -> str:
        return f"{self.runtime}/{self.delegate}"

    @property
    def suffix(self) -> str:
        return {"onnx": ".onnx", "pte": ".pte", "torchscript": ".pt"}[self.format]


CASES = (
    Case("onnx", "cpu", "onnx", "onnxruntime"),
    Case("onnx", "tensorrt", "onnx", "onnxruntime"),
    Case("onnx", "openvino", "onnx", "openvino"),
    Case("executorch", "xnnpack", "pte", "executorch"),
    Case("torchscript", "cpu", "torchscript", "torch"),
    Case("torchscript", "qnnpack", "torchscript", "torch", "int8"),
)


class Kit:
    """Bundles of one torch net for every runtime. ``file`` makes each file once."""

    plain = CASES[0]

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def samples(self, n: int) -> list[np.ndarray]:
        return nchw_samples(n)

    def file(self, case: Case) -> Path:
        """The model file; the test is skipped where the case's package is missing."""
        pytest.importorskip("torch")
        pytest.importorskip(case.package)
        path = self._folder / f"{case.format}-{case.precision}{case.suffix}"
        if not path.exists():
            if case.format == "onnx":
                write_onnx(path)
            elif case.format == "pte":
                write_pte(path)
            else:
                write_torchscript(path, quantized=case.precision == "int8")
        return path

    def artifact_of(self, case: Case, path: Path) -> Artifact:
        data = path.read_bytes()
        return Artifact(
            sha256=hashlib.sha256(data).hexdigest(),
            format=case.format,
            precision=case.precision,
            path=path,
            bytes=len(data),
            inputs=(TensorSpec(name="x", shape=NCHW, dtype="float32", layout="NCHW"),),
            outputs=(
                TensorSpec(name="scores", shape=(1, CLASSES), dtype="float32"),
                TensorSpec(name="best", shape=(1,), dtype="float32"),
            ),
            tools={case.package: importlib.metadata.version(case.package).split("+")[0]},
        )

    def golden_outputs(self, case: Case, path: Path, inputs: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
        """By torch itself; the quantised file by its own module."""
        import torch

        engine = torch.backends.quantized.engine
        try:
            if case.precision == "int8":
                torch.backends.quantized.engine = "qnnpack"
            with quiet(), torch.inference_mode():
                module = torch.jit.load(str(path)) if case.precision == "int8" else net()
                return [[y.numpy().copy() for y in module(torch.from_numpy(x))] for x in inputs]
        finally:
            torch.backends.quantized.engine = engine

    def write(self, out: Path, case: Case, path: Path, **changed: Any) -> Path:
        """A bundle of the file in ``out``, with arguments of write_bundle changed."""
        inputs = self.samples(2)
        outputs = self.golden_outputs(case, path, inputs)
        version = importlib.metadata.version(case.package).split("+")[0]
        arguments: dict[str, Any] = {
            "artifact": self.artifact_of(case, path),
            "spec": ModelSpec(
                name="tiny",
                source="tiny.py:net",
                sha256="a" * 64,
                inputs=(TensorSpec(name="x", shape=NCHW, dtype="float32", layout="NCHW"),),
                outputs=(
                    TensorSpec(name="scores", shape=(1, CLASSES), dtype="float32"),
                    TensorSpec(name="best", shape=(1,), dtype="float32"),
                ),
            ),
            "profile": "pi4",
            "runtime": RuntimeTarget(
                name=case.runtime,
                min_version=version if case.runtime == "executorch" else "",
                delegates=(case.delegate,),
                threads=1,
            ),
            "golden": [
                GoldenSample(inputs=(x,), outputs=tuple(y)) for x, y in zip(inputs, outputs, strict=True)
            ],
            "tolerance": Tolerance() if case.precision == "int8" else Tolerance(atol=1e-5, rtol=1e-4),
            "provenance": PROVENANCE,
            "licences": {},
        }
        return write_bundle(out, **{**arguments, **changed})


@pytest.fixture(scope="session")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Kit:
    return Kit(tmp_path_factory.mktemp("runtime_files"))


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param  # type: ignore[no-any-return]
