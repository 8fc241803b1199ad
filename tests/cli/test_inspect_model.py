"""`edgekit inspect MODEL`: what stands in the way of building, per runtime, before any conversion."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgekit.backends import RUNTIMES

Cli = Callable[..., Any]

NETS = '''
import torch
from torch import nn


@torch.library.custom_op("cli_test::twist", mutates_args=())
def twist(x: torch.Tensor) -> torch.Tensor:
    """Of the user's own making."""
    return x.flip(1) * 2


@twist.register_fake
def _(x):
    return torch.empty_like(x)


class Twist(nn.Module):
    def forward(self, x):
        return torch.ops.cli_test.twist(x)


def twisted():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sequential(nn.ReLU(), Twist()), nn.Flatten())


class Branch(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, x):
        y = self.conv(x)
        if y.sum() > 0:
            y = y * 2
        return y.mean((2, 3))


def branch():
    return Branch()


class Swish(nn.Module):
    def forward(self, x):
        return nn.functional.hardswish(x * 9)


def swish():
    return nn.Sequential(nn.Conv2d(3, 8, 3), Swish(), nn.Flatten())


def plain():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(6), nn.Flatten(), nn.Linear(8, 4))
'''


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "nets.py"
    path.write_text(NETS)
    return path


def line_of(words: str) -> str:
    return f"nets.py:{next(i for i, text in enumerate(NETS.splitlines(), start=1) if words in text)}"


def inspected(cli: Cli, *arguments: object) -> tuple[int, dict[str, Any]]:
    said = cli("inspect", *arguments, "--json", "--input-shape", "1,3,8,8")
    assert said.out, said.err
    return said.code, json.loads(said.out)


def of_runtimes(found: dict[str, Any]) -> dict[str, Any]:
    """The targets of backends that this version has."""
    return {t: v for t, v in found["targets"].items() if t.partition("/")[0] in RUNTIMES}


def test_a_plain_model_is_ready_for_every_target(nets: Path, cli: Cli) -> None:
    code, found = inspected(cli, "nets.py:plain")
    assert code == 0
    assert {t.partition("/")[0] for t in found["targets"]} >= {"tflite", "executorch", "onnx", "torchscript"}
    assert all(t["ready"] and t["problems"] == [] for t in of_runtimes(found).values()), found
    assert found["operators"] == 5 and found["export_error"] is None
    assert found["model"]["name"] == "plain" and found["model"]["macs"] > 0


def test_a_custom_op_is_named_with_module_and_line(nets: Path, cli: Cli) -> None:
    _, found = inspected(cli, "nets.py:twisted")
    for target, about in of_runtimes(found).items():
        problems = [p for p in about["problems"] if "twist" in p["op"]]
        assert problems, f"{target} says nothing of the custom operator"
        assert not about["ready"]
        for problem in problems:
            assert problem["where"] == "1.1"
            assert problem["line"] == line_of("torch.ops.cli_test.twist(x)")
            assert problem["reason"] and problem["hint"]


def test_what_the_table_says_of_it(nets: Path, cli: Cli) -> None:
    said = cli("inspect", "nets.py:twisted", "--input-shape", "1,3,8,8", "--profile", "pi4")
    assert said.code in (0, 4)
    lines = said.out.splitlines()
    targets = [line.split() for line in lines if line.startswith(("tflite/", "executorch/", "onnx/"))]
    assert ["tflite/xnnpack", "int8", "1", "problem"] in targets
    place = f"cli_test.twist.default at 1.1 ({line_of('torch.ops.cli_test.twist(x)')})"
    where = next(i for i, line in enumerate(lines) if place in line)
    assert [line.split()[0] for line in lines[where + 1 : where + 4]] == ["why", "change", "stops"]


def test_when_no_target_takes_it_the_exit_code_is_4(nets: Path, cli: Cli) -> None:
    """The table is printed all the same."""
    said = cli("inspect", "nets.py:twisted", "--input-shape", "1,3,8,8", "--profile", "android_gpu")
    assert said.code == 4
    assert "1 problem" in said.out
    assert "error: no target of android_gpu takes nets.py:twisted" in said.err
    assert said.err.splitlines()[-1].startswith("  next: ")


def test_a_branch_on_values_is_named_with_its_line(nets: Path, cli: Cli) -> None:
    _, found = inspected(cli, "nets.py:branch")
    assert found["export_error"].endswith(f"({line_of('if y.sum()')})")
    assert "depends on the values" in found["export_error"]
    assert found["operators"] is None
    text = cli("inspect", "nets.py:branch", "--input-shape", "1,3,8,8").out
    assert line_of("if y.sum()") in text


def test_only_the_targets_of_a_profile(nets: Path, cli: Cli) -> None:
    _, found = inspected(cli, "nets.py:plain", "--profile", "android_gpu")
    assert list(found["targets"]) == ["tflite/gpu"]
    assert found["targets"]["tflite/gpu"]["precision"] == "fp16"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nets.py:plain"], 2, "the input shape of nets.py:plain is not known"),
        (["nets.py:gone", "--input-shape", "1,3,8,8"], 2, "gone"),
        (["nets.py", "--input-shape", "1,3,8,8"], 2, "names no callable"),
        (["gone.onnx"], 2, "gone.onnx does not exist"),
        (["nets.py:plain", "--input-shape", "1,x"], 2, "not a shape"),
        (["nets.py:plain", "--input-shape", "1,3,8,8", "--profile", "pi44"], 2, "pi44"),
        (["gone.pt2", "--input-shape", "1,3,8,8"], 2, "no such file"),
    ],
)
def test_mistakes(arguments: list[str], code: int, words: str, nets: Path, cli: Cli) -> None:
    said = cli("inspect", *arguments)
    assert said.code == code, said.err
    assert words in said.refusal()[0]


def test_a_file_of_torch_is_a_model_when_it_is_said_to_be(nets: Path, cli: Cli) -> None:
    import warnings

    import torch

    module, x = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU()), torch.zeros(1, 3, 8, 8)
    torch.export.save(torch.export.export(module.eval(), (x,)), "net.pt2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (x,), "net.onnx", dynamo=False, opset_version=17)
    said = cli("inspect", "net.pt2", "--json")
    assert said.code == 0, said.err
    assert json.loads(said.out)["operators"] == 2
    said = cli("inspect", "net.onnx", "--as-model", "--json")
    assert "targets" in json.loads(said.out) and json.loads(said.out)["operators"] is None
    said = cli("inspect", "net.onnx", "--input-shape", "1,3,8,8")
    assert said.code == 2 and "add --as-model" in said.refusal()[1]


def test_what_may_suffer_in_int8_is_named_and_calibration_data_tells_whether_it_does(
    nets: Path, cli: Cli
) -> None:
    _, found = inspected(cli, "nets.py:swish")
    (lint,) = found["lints"]
    assert (lint["rule"], lint["where"], lint["matters"]) == ("hard-swish", "1", None)
    assert lint["line"] == line_of("nn.functional.hardswish(x * 9)")
    Path("wide.npz").write_bytes(_npz(100.0))
    said = cli("inspect", "nets.py:swish", "--calib", "wide.npz", "--profile", "pi4")
    assert "In int8: hard-swish  loses accuracy; 1" in said.out, said.out
    assert "lies below -3" in said.out and "qat.epochs" in said.out
    Path("narrow.npz").write_bytes(_npz(0.1))
    said = cli("inspect", "nets.py:swish", "--calib", "narrow.npz", "--profile", "pi4")
    assert "harmless on the calibration data" in said.out, said.out
    assert (
        "In int8" not in cli("inspect", "nets.py:plain", "--input-shape", "1,3,8,8", "--profile", "pi4").out
    )


def _npz(scale: float) -> bytes:
    import io

    import numpy as np

    packed = io.BytesIO()
    x = np.random.default_rng(0).normal(size=(4, 3, 8, 8)).astype(np.float32)
    np.savez(packed, x=scale * x)
    return packed.getvalue()
