"""A small residual net as float32, fp16 and QDQ int8 ONNX, and a bundle of it for a Jetson."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.backends.onnx.tensorrt.bundle import bundle_files
from edgekit.bundle import GoldenSample, RuntimeTarget, Tolerance, write_bundle
from edgekit.profiles import load_profile
from edgekit.types import Artifact, ModelSpec, TensorSpec

onnx = pytest.importorskip("onnx")

SHAPE, CLASSES = (1, 4, 8, 8), 5
INPUT = "in put;$(touch pwned)`touch pwned`:0"
OUTPUT = 'sco"res\\n $HOME'
STANDIN = Path(__file__).with_name("trtexec_standin.py")
_TRTEXEC = f'''site=-S  # only inference needs packages
if [[ "$*" == *--loadInputs=* ]]; then site=-E; fi
exec "{sys.executable}" $site "{STANDIN}" "$@"
'''


@dataclass
class Qdq:
    """A QDQ graph under construction; the defaults are what TensorRT asks for."""

    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)
    rng: Any = field(default_factory=lambda: np.random.default_rng(0))

    def constant(self, name: str, value: Any, dtype: str = "float32") -> str:
        self.constants.append(onnx.numpy_helper.from_array(np.asarray(value, dtype=dtype), name))
        return name

    def node(self, op: str, inputs: list[str], output: str, name: str = "", **attributes: Any) -> str:
        self.nodes.append(onnx.helper.make_node(op, inputs, [output], name=name or output, **attributes))
        return output

    def activation(
        self, tensor: str, scale: Any = 0.05, *, dq_scale: Any = None, zero: int = 0, dtype: str = "int8"
    ) -> str:
        """The tensor behind a pair; its own name ends in _dq."""
        q = self.constant(f"{tensor}_scale", scale)
        dq = q if dq_scale is None else self.constant(f"{tensor}_other", dq_scale)
        z = self.constant(f"{tensor}_zero", np.full(np.shape(scale), zero), dtype)
        stored = self.node("QuantizeLinear", [tensor, q, z], f"{tensor}_q")
        return self.node("DequantizeLinear", [stored, dq, z], f"{tensor}_dq")

    def weight(
        self,
        name: str,
        shape: tuple[int, ...],
        axis: int | None = 0,
        *,
        dtype: str = "int8",
        pair: bool = False,
    ) -> str:
        """A constant behind DequantizeLinear, scales along ``axis``; ``pair`` keeps it float before Q."""
        low, high = (0, 255) if dtype == "uint8" else (-100, 100)
        held = self.rng.integers(low, high, shape)
        n = () if axis is None else (shape[axis],)
        more = {} if axis is None else {"axis": axis}
        scale = self.constant(f"{name}_scale", np.full(n, 0.002))
        zero = self.constant(f"{name}_zero", np.zeros(n), dtype)
        if pair:
            stored = self.constant(name, held * 0.002)
            stored = self.node("QuantizeLinear", [stored, scale, zero], f"{name}_q", **more)
        else:
            stored = self.constant(name, held, dtype)
        return self.node("DequantizeLinear", [stored, scale, zero], f"{name}_dq", **more)

    def model(
        self,
        inputs: Mapping[str, tuple[Any, ...]],
        outputs: Mapping[str, tuple[Any, ...]],
        opset: int = 13,
        dtype: int = 1,
    ) -> Any:
        def values(named: Mapping[str, tuple[Any, ...]]) -> list[Any]:
            return [onnx.helper.make_tensor_value_info(n, dtype, s) for n, s in named.items()]

        graph = onnx.helper.make_graph(self.nodes, "net", values(inputs), values(outputs), self.constants)
        opsets = [onnx.helper.make_opsetid("", opset)]
        return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=7)


def make_conv_net(x: str = "x", y: str = "y", *, pair: bool = False) -> Any:
    """Convolution, a residual sum, pooling and a classifier by TensorRT's rules."""
    q = Qdq()
    a = q.activation(x)
    w = q.weight("w0", (4, 4, 3, 3), pair=pair)
    bias = q.constant("bias", np.linspace(-0.1, 0.1, 4))
    c = q.node("Conv", [a, w, bias], "conv", pads=[1, 1, 1, 1])
    r = q.node("Relu", [c], "relu")
    s = q.node("Add", [r, a], "sum")
    p = q.node("GlobalAveragePool", [q.activation(s)], "pool")
    f = q.node("Flatten", [p], "flat")
    g = [q.activation(f), q.weight("w1", (CLASSES, 4), pair=pair), q.constant("b1", np.arange(CLASSES) * 0.1)]
    q.node("Gemm", g, y, name="head", transB=1)
    return q.model({x: SHAPE}, {y: (1, CLASSES)})


def make_float_net(x: str, y: str, kind: str) -> Any:
    """The same net without quantisation, in "float32" or "float16" with float32 inputs and outputs."""
    int8 = make_conv_net(x, y)
    held = {i.name: onnx.numpy_helper.to_array(i) for i in int8.graph.initializer}
    q, cast = Qdq(), kind == "float16"
    start = q.node("Cast", [x], "half", to=10) if cast else x
    w0 = q.constant("w0", held["w0"] * 0.002, kind)
    c = q.node("Conv", [start, w0, q.constant("bias", held["bias"], kind)], "conv", pads=[1, 1, 1, 1])
    s = q.node("Add", [q.node("Relu", [c], "relu"), start], "sum")
    f = q.node("Flatten", [q.node("GlobalAveragePool", [s], "pool")], "flat")
    w1 = q.constant("w1", held["w1"] * 0.002, kind)
    end = q.node("Gemm", [f, w1, q.constant("b1", held["b1"], kind)], "scores" if cast else y, transB=1)
    if cast:
        q.node("Cast", [end], y, to=1)
    return q.model({x: SHAPE}, {y: (1, CLASSES)})


@pytest.fixture
def qdq() -> Qdq:
    return Qdq()


@pytest.fixture
def conv_net() -> Callable[..., Any]:
    return make_conv_net


@pytest.fixture
def float_net() -> Callable[..., Any]:
    return make_float_net


@dataclass(frozen=True)
class Bundle:
    """A bundle on the "device", and what its scripts are run with."""

    root: Path
    standin: Path
    settings: dict[str, Any]
    environment: dict[str, str]

    def configure(self, **changes: Any) -> None:
        self.settings.update(changes)
        self.standin.write_text(json.dumps(self.settings))

    def script(self, name: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a script from another folder, as a user may."""
        return subprocess.run(
            ["bash", str(self.root / name), *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd=self.root.parent,
            env={**self.environment, **environment},
        )

    def calls(self) -> list[list[str]]:
        """Arguments of every call of trtexec so far."""
        path = Path(self.settings["calls"])
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def chosen(self) -> dict[str, Any]:
        made: dict[str, Any] = json.loads((self.root / "chosen.json").read_text())
        return made


MakeBundle = Callable[..., Bundle]


@pytest.fixture
def make_bundle(tmp_path: Path) -> MakeBundle:
    """Writes a bundle for a TensorRT version; ``precisions`` are the file of the plan and its companions."""

    def make(version: str = "10.3", precisions: tuple[str, ...] = ("int8", "fp16"), **how: Any) -> Bundle:
        if shutil.which("bash") is None:
            pytest.skip("not installed: bash")
        x, y = how.get("input", INPUT), how.get("output", OUTPUT)
        artifacts = [_artifact(tmp_path, precision, x, y, how) for precision in precisions]
        profile = load_profile(how.get("profile", "jetson_orin_nano"))
        target = profile.targets[0].model_copy(update={"version": version})
        tools = tmp_path / "tools"
        tools.mkdir()
        _program(tools / "trtexec", _TRTEXEC)
        # Without site packages: jetson.py must do with the standard library, as on the device.
        _program(tools / "python3", f'exec "{sys.executable}" -I -S "$@"\n')
        root = write_bundle(
            tmp_path / "device folder",
            artifact=artifacts[0],
            companions=artifacts[1:],
            extra_files=bundle_files(artifacts, profile, target),
            spec=ModelSpec(
                name="net",
                source="net.py:net",
                sha256="a" * 64,
                inputs=artifacts[0].inputs,
                outputs=artifacts[0].outputs,
            ),
            profile=profile.id,
            runtime=RuntimeTarget(
                name="onnx", min_version=target.min_version, delegates=("tensorrt",), threads=1
            ),
            golden=_golden(artifacts[0].path, how.get("samples", 1)),
            tolerance=Tolerance(atol=0.01, rtol=0.01),
            provenance={"edgekit_version": "0", "source_sha256": "a" * 64, "plan_digest": "b" * 64},
            licences={},
        )
        path = f"{tools}:{os.environ['PATH']}"
        environment = {"PATH": path, "HOME": str(tmp_path), "STANDIN": str(tmp_path / "standin.json")}
        made = Bundle(root, tmp_path / "standin.json", {}, environment)
        number = {"8.2": 8205, "8.5": 8502, "10.3": 100300, "10.16": 101601, "11": 110100}[version]
        made.configure(
            version=number, ms={"int8": 1.0, "fp16": 2.0, "float32": 4.0}, calls=str(tmp_path / "calls")
        )
        return made

    return make


def _program(path: Path, text: str) -> None:
    path.write_text("#!/usr/bin/env bash\n" + text)
    path.chmod(0o755)


@pytest.fixture
def add_program(tmp_path: Path) -> Callable[[str, str], None]:
    """Adds a bash program to the "device"."""
    return lambda name, text: _program(tmp_path / "tools" / name, text)


def _artifact(folder: Path, precision: str, x: str, y: str, how: Mapping[str, Any]) -> Artifact:
    if precision == "int8":
        model = make_conv_net(x, y, pair=how.get("pair", False))
    else:
        model = make_float_net(x, y, {"fp16": "float16", "float32": "float32"}[precision])
    path = folder / f"{precision}.onnx"
    onnx.save(model, str(path))
    data = path.read_bytes()
    return Artifact(
        sha256=hashlib.sha256(data).hexdigest(),
        format="onnx",
        precision=precision,  # type: ignore[arg-type]
        path=path,
        bytes=len(data),
        inputs=(TensorSpec(name=x, shape=SHAPE, dtype="float32", layout="NCHW"),),
        outputs=(TensorSpec(name=y, shape=(1, CLASSES), dtype="float32"),),
    )


def _golden(path: Path, n: int) -> list[GoldenSample]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    samples = []
    for i in range(n):
        x = np.random.default_rng(i).normal(size=SHAPE).astype(np.float32)
        outputs = session.run(None, {session.get_inputs()[0].name: x})
        samples.append(GoldenSample(inputs=(x,), outputs=tuple(outputs)))
    return samples
