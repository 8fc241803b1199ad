"""The Python runner of .onnx and TorchScript files: the report and the failures of the C runner."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import edgekit.native
from edgekit.devices.local import LocalLink
from edgekit.store import Store
from edgekit.types import DeviceCommand

RUNNER = Path(edgekit.native.__file__).with_name("python_run.py")
SHAPE = (1, 2, 4, 4)
PACKAGES = {".pt": ("torch>=2.8",), ".onnx": ("onnxruntime>=1.20",)}


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same network twice: max(x, 0) summed over the channels, and x + 1."""
    torch = pytest.importorskip("torch")
    import onnx
    from onnx import TensorProto, helper

    folder = tmp_path_factory.mktemp("runner")

    class Net(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return torch.relu(x).sum(1), x + 1

    traced = torch.jit.trace(Net(), torch.zeros(SHAPE), check_trace=False)
    spec = {"inputs": [{"name": "x", "dtype": "float32", "shape": list(SHAPE)}]}
    torch.jit.save(traced, str(folder / "net.pt"), _extra_files={"edgekit.json": json.dumps(spec)})
    traced.save(str(folder / "bare.pt"))
    one = helper.make_tensor("one", TensorProto.FLOAT, [], [1.0])
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [1])
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], name="relu"),
        helper.make_node("ReduceSum", ["r", "axes"], ["y"], keepdims=0),
        helper.make_node("Add", ["x", "one"], ["z"]),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2, 4, 4])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
            helper.make_tensor_value_info("z", TensorProto.FLOAT, None),
        ],
        [one, axes],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(folder / "net.onnx"))
    return {".pt": folder / "net.pt", ".onnx": folder / "net.onnx", "bare": folder / "bare.pt"}


def execute(model: Path, tmp_path: Path, *options: str, data: bytes | None = None, **rest: Any) -> Any:
    files = {"run.py": RUNNER, f"m{model.suffix}": model}
    if data is not None:
        (tmp_path / "in0.bin").write_bytes(data)
        files["in0.bin"] = tmp_path / "in0.bin"
        options = (*options, "-i", "in0.bin")
    command = DeviceCommand(
        argv=("run.py", *options, f"m{model.suffix}"), files=files, python=PACKAGES[model.suffix], **rest
    )
    return LocalLink(Store()).run(command, timeout_s=120)


@pytest.mark.parametrize("kind", [".pt", ".onnx"])
def test_a_run_is_reported_and_its_outputs_written(
    models: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    x = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    result = execute(
        models[kind],
        tmp_path,
        *("-w", "1", "-n", "3", "-p", "-o", "y.bin", "-o", "z.bin"),
        data=x.tobytes(),
        outputs=("y.bin", "z.bin"),
    )
    assert result.returncode == 0, result.stderr
    (line,) = result.stdout.splitlines()
    report = json.loads(line)
    y = np.frombuffer(result.outputs["y.bin"], np.float32).reshape(1, 4, 4)
    z = np.frombuffer(result.outputs["z.bin"], np.float32).reshape(SHAPE)
    np.testing.assert_allclose(y, np.maximum(x, 0).sum(1), rtol=1e-6)
    np.testing.assert_array_equal(z, x + 1)
    assert len(report["runs_ms"]) == 3 and all(ms > 0 for ms in report["runs_ms"])
    assert report["load_ms"] > 0 and report["peak_rss_kb"] >= report["start_rss_kb"] > 1000
    digests = [hashlib.sha256(result.outputs[name]).hexdigest() for name in ("y.bin", "z.bin")]
    assert [o["sha256"] for o in report["outputs"]] == digests
    names = " ".join(op["name"].lower() for op in report["ops"])
    assert "relu" in names and "sum" in names and all(op["us"] >= 0 for op in report["ops"])
    types = {op.get("op") for op in report["ops"]}
    assert {"Relu", "ReduceSum"} <= types if kind == ".onnx" else types == {None}


@pytest.mark.parametrize("kind", [".pt", ".onnx"])
def test_made_up_inputs_are_the_same_each_time(models: dict[str, Path], tmp_path: Path, kind: str) -> None:
    first, again = (
        execute(models[kind], tmp_path, "-w", "0", "-n", "1", "-o", "y", "-o", "z", outputs=("y", "z"))
        for _ in range(2)
    )
    assert first.outputs == again.outputs
    z = np.frombuffer(first.outputs["z"], np.float32)
    # The first number of the generator that litert_run.c uses.
    assert z[0] == np.float32((((1664525 + 1013904223) % 2**32) >> 8) / 8388608 - 1) + np.float32(1)


@pytest.mark.parametrize(
    ("options", "data", "code", "words"),
    [
        (("-n", "0"), None, 2, "-n needs a whole number of at least 1"),
        (("-s", "float33:1x2"), None, 2, "-s needs dtype:shape"),
        (("-q",), None, 2, "usage"),
        ((), b"\0" * 5, 4, "too short: 5 bytes, the model needs 128"),
        ((), b"\0" * 500, 4, "too long"),
        (("-i", "absent.bin", "-i", "other.bin"), None, 4, "has 1 inputs, 2 were given"),
        (("-o", "y"), None, 5, "has 2 outputs, 1 names"),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(
    models: dict[str, Path],
    tmp_path: Path,
    options: tuple[str, ...],
    data: bytes | None,
    code: int,
    words: str,
) -> None:
    result = execute(models[".onnx"], tmp_path, *options, data=data)
    assert result.returncode == code
    assert words in result.stderr and "Traceback" not in result.stderr


def test_a_file_without_shapes_needs_them(models: dict[str, Path], tmp_path: Path) -> None:
    result = execute(models["bare"], tmp_path, "-n", "1")
    assert result.returncode == 4 and "give each with -s" in result.stderr
    result = execute(models["bare"], tmp_path, "-n", "1", "-s", "float32:1x2x4x4")
    assert result.returncode == 0, result.stderr


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    for name in ("m.pt", "m.onnx"):
        (tmp_path / name).write_bytes(b"nothing")
        result = execute(tmp_path / name, tmp_path)
        assert result.returncode == 3 and result.stderr.startswith("python_run: ")


@pytest.fixture
def runner() -> ModuleType:
    spec = importlib.util.spec_from_file_location("edgekit_tests_python_run", RUNNER)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("version", "machine", "lse", "words"),
    [
        ("2.9.1", "aarch64", False, None),
        ("2.10.0", "aarch64", False, "LSE atomics"),
        ("2.10.0", "aarch64", True, None),
        ("2.13.0+cpu", "x86_64", False, None),
        ("2.7.1", "aarch64", True, "too old"),
    ],
)
def test_a_torch_that_would_crash_is_refused_before_its_import(
    runner: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    version: str,
    machine: str,
    lse: bool,
    words: str | None,
) -> None:
    monkeypatch.setattr(runner.importlib.metadata, "version", lambda name: version)
    monkeypatch.setattr(runner.platform, "machine", lambda: machine)
    monkeypatch.setattr(runner, "_has_lse", lambda: lse)
    if words is None:
        runner._check_torch()
        return
    with pytest.raises(runner.Refused, match=words) as caught:
        runner._check_torch()
    assert caught.value.code == 3
