"""Checking a model for targets: what backends say is passed on, and a backend that breaks ends nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.build import preflight
from edgekit.errors import MissingDependency, SourceError, Unsupported, UserError
from edgekit.profiles import load_profile
from edgekit.sources.models import load_model
from edgekit.types import Event, Problem, Scheme

NETS = """
import torch
from torch import nn


class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        return self.fc(torch.relu(x).mean((2, 3)))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.head = Head()

    def forward(self, x):
        return self.head(self.conv(x))


class Branch(Net):
    def forward(self, x):
        y = self.conv(x)
        if y.sum() > 0:
            y = y * 2
        return self.head(y)


def net():
    return Net()


def branch():
    return Branch()
"""


class FakeBackend:
    """Says what it is made to say, and keeps what it was asked."""

    def __init__(self, answer: Any) -> None:
        self.answer, self.asked = answer, []  # type: ignore[var-annotated]

    def preflight(self, source: Any, spec: Any, graph: Any, *, scheme: Scheme) -> Any:
        self.asked.append((source, spec, graph, scheme))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def nets(tmp_path: Path) -> Path:
    path = tmp_path / "nets.py"
    path.write_text(NETS)
    return path


@pytest.fixture
def backends(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The backends that there are, by runtime; an exception is raised when the backend is asked for."""
    known: dict[str, Any] = {}

    def get(runtime: str) -> Any:
        if isinstance(known[runtime], Exception):
            raise known[runtime]
        return known[runtime]

    monkeypatch.setattr(preflight, "get_backend", get)
    return known


def check(nets: Path, targets: list[str], name: str = "net") -> tuple[dict[str, Any], list[Event]]:
    events: list[Event] = []
    model = load_model(f"{nets}:{name}", input_shapes=[(1, 3, 8, 8)])
    schemes = {t: Scheme(precision="int8") for t in targets}
    return preflight.check_targets(model, None, schemes, events.append), events


PROBLEM = Problem(op="aten.relu.default", where="head", reason="no kernel", hint="use another")


def test_problems_are_those_of_each_target(nets: Path, backends: dict[str, Any]) -> None:
    backends |= {"tflite": FakeBackend([]), "onnx": FakeBackend([PROBLEM])}
    found, _ = check(nets, ["tflite/gpu", "onnx/cpu", "onnx/tensorrt"])
    assert found == {"tflite/gpu": (), "onnx/cpu": (PROBLEM,), "onnx/tensorrt": (PROBLEM,)}
    delegates = [scheme.delegate for *_, scheme in backends["onnx"].asked]
    assert delegates == ["cpu", "tensorrt"], "a scheme says for which delegate it is"


def test_the_model_is_traced_once(
    nets: Path, backends: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    backends |= {"tflite": FakeBackend([]), "onnx": FakeBackend([])}
    calls: list[int] = []
    trace = preflight.trace
    monkeypatch.setattr(preflight, "trace", lambda *a: (calls.append(1), trace(*a))[1])
    check(nets, ["tflite/gpu", "tflite/xnnpack", "onnx/cpu"])
    assert len(calls) == 1
    (_, spec, graph, _), *others = [a for b in backends.values() for a in b.asked]
    assert all(other[2] is graph for other in others)
    assert spec.name == "net"
    relu = next(op for op in graph.ops if op.op == "aten.relu.default")
    assert relu.where == "head" and relu.line.startswith("nets.py:")


def test_a_sample_is_what_it_is_traced_on(nets: Path, backends: dict[str, Any]) -> None:
    backends["tflite"] = FakeBackend([])
    model = load_model(f"{nets}:net", input_shapes=[(1, 3, 8, 8)])
    sample = [np.zeros((1, 3, 12, 12), np.float32)]
    preflight.check_targets(model, sample, {"tflite/xnnpack": Scheme()})
    graph = backends["tflite"].asked[0][2]
    assert graph.ops[0].shapes == ((1, 8, 10, 10),)


@pytest.mark.parametrize(
    ("error", "words", "hint"),
    [
        (Unsupported("no LSTM there", hint="unroll it"), "no LSTM there", "unroll it"),
        (MissingDependency("openvino is missing", hint="pip install openvino"), "openvino", "pip install"),
        (ModuleNotFoundError("No module named 'executorch'"), "does not load: No module", "edgekit doctor"),
    ],
)
@pytest.mark.parametrize("at_once", [True, False])
def test_a_backend_that_cannot_work_here_is_a_problem(
    error: Exception, words: str, hint: str, at_once: bool, nets: Path, backends: dict[str, Any]
) -> None:
    backends |= {"tflite": FakeBackend([]), "onnx": error if at_once else FakeBackend(error)}
    found, events = check(nets, ["onnx/openvino", "tflite/xnnpack"])
    (problem,) = found["onnx/openvino"]
    assert words in problem.reason and hint in problem.hint
    assert found["tflite/xnnpack"] == ()
    assert not [e for e in events if e.kind == "warning"]


def test_a_check_that_breaks_is_a_warning_and_refuses_nothing(nets: Path, backends: dict[str, Any]) -> None:
    backends |= {"onnx": FakeBackend(ZeroDivisionError("oops")), "tflite": FakeBackend([PROBLEM])}
    found, events = check(nets, ["onnx/cpu", "tflite/xnnpack"])
    assert found == {"onnx/cpu": (), "tflite/xnnpack": (PROBLEM,)}
    (warning,) = (e.message for e in events if e.kind == "warning")
    assert "onnx/cpu" in warning and "ZeroDivisionError: oops" in warning


def test_a_branch_on_values_is_told_with_its_line(nets: Path, backends: dict[str, Any]) -> None:
    backends["tflite"] = FakeBackend([])
    found = preflight.inspect_model(f"{nets}:branch", [load_profile("pi4")], input_shapes=((1, 3, 8, 8),))
    graph = backends["tflite"].asked[0][2]
    line = next(i for i, text in enumerate(NETS.splitlines(), start=1) if "if y.sum()" in text)
    assert graph.ops == () and graph.error_line == f"nets.py:{line}"
    assert found.export_error is not None and "depends on the values" in found.export_error
    assert found.operators is None


def test_targets_have_the_precision_of_the_first_profile() -> None:
    profiles = [load_profile("android_gpu"), load_profile("pi4")]
    schemes = preflight.preferred_schemes(profiles)
    assert schemes["tflite/gpu"] == Scheme(precision="fp16", delegate="gpu")
    assert schemes["tflite/xnnpack"].precision == "int8"
    assert list(schemes) == [f"{t.runtime}/{t.delegate}" for p in profiles for t in p.targets], (
        "in the order of the profiles"
    )


def test_inspecting_groups_equal_problems(nets: Path, backends: dict[str, Any]) -> None:
    for runtime in ("tflite", "onnx", "executorch", "torchscript"):
        backends[runtime] = FakeBackend([PROBLEM, PROBLEM] if runtime == "tflite" else [])
    found = preflight.inspect_model(
        f"{nets}:net", [load_profile("pi4"), load_profile("android_gpu")], input_shapes=((1, 3, 8, 8),)
    )
    assert found.grouped() == [(PROBLEM, ("tflite/xnnpack", "tflite/gpu"))]
    assert found.operators == 4
    line = next(i for i, text in enumerate(NETS.splitlines(), start=1) if "torch.relu" in text)
    assert found.line_of(PROBLEM) == f"nets.py:{line}"
    assert found.line_of(Problem(op="aten.relu.default", where="", reason="")) == ""
    assert "tflite/xnnpack" not in found.buildable and "executorch/xnnpack" in found.buildable


def test_shapes_may_come_from_calibration_data(nets: Path, backends: dict[str, Any]) -> None:
    backends |= {r: FakeBackend([]) for r in ("tflite", "onnx", "executorch", "torchscript")}
    data = nets.parent / "data.npz"
    np.savez(data, x=np.zeros((5, 3, 6, 6), np.float32))
    found = preflight.inspect_model(f"{nets}:net", [load_profile("pi4")], calib=str(data))
    assert found.spec.inputs[0].shape == (1, 3, 6, 6)
    with pytest.raises(SourceError, match="input shape"):
        preflight.inspect_model(f"{nets}:net", [load_profile("pi4")])
    with pytest.raises(UserError, match="one sample at a time"):
        preflight.inspect_model(f"{nets}:net", [load_profile("pi4")], input_shapes=((2, 3, 8, 8),))


def test_an_onnx_file_has_no_graph_of_torch(
    nets: Path, backends: dict[str, Any], tmp_path: Path, quiet_export: Callable[..., None]
) -> None:
    backends |= {r: FakeBackend([]) for r in ("tflite", "onnx", "executorch", "torchscript")}
    module = load_model(f"{nets}:net", input_shapes=[(1, 3, 8, 8)])
    quiet_export(module.module, module.example_inputs, tmp_path / "net.onnx")
    found = preflight.inspect_model(str(tmp_path / "net.onnx"), [load_profile("pi4")])
    source, _, graph, _ = backends["tflite"].asked[0]
    assert source == tmp_path / "net.onnx" and graph is None
    assert found.operators is None and found.export_error is None


@pytest.fixture
def quiet_export() -> Callable[..., None]:
    import warnings

    import torch

    def export(module: Any, inputs: Any, path: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(module, inputs, str(path), dynamo=False, opset_version=17)

    return export
