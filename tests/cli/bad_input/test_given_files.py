"""Profile, model and weight files that are none."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

Cli = Callable[..., Any]
DATA = ("--profile", "pi4", "--calib", "model.py:calib", "--eval", "model.py:eval")


class TestProfileFiles:
    def test_an_unknown_key_is_named_with_its_place(self, cli: Cli, work: Path, tmp_path: Path) -> None:
        path = tmp_path / "mine.toml"
        path.write_text('id = "mine"\ntitle = "x"\nextends = "pi4"\n[memory]\nmibb = 1\n')
        said = cli("build", "model.py:net", "--profile", path)
        assert said.code == 2
        assert said.refusal() == (f"{path}: unknown key memory.mibb", "did you mean mib?")

    def test_a_syntax_error_is_named_with_its_line(self, cli: Cli, work: Path, tmp_path: Path) -> None:
        path = tmp_path / "mine.toml"
        path.write_text('id = "mine"\ntitle = x\n')
        said = cli("build", "model.py:net", "--profile", path)
        assert said.code == 2
        assert re.match(rf"{re.escape(str(path))} is not valid TOML: .*line 2", said.refusal()[0])

    def test_a_folder_is_no_profile(self, cli: Cli, work: Path, tmp_path: Path) -> None:
        said = cli("plan", "model.py:net", "--profile", f"{tmp_path}/")
        assert said.code == 2 and str(tmp_path) in said.err and "Traceback" not in said.err


class TestModelFiles:
    def test_a_pickle_is_refused_unread(self, cli: Cli, work: Path, tmp_path: Path) -> None:
        import pickle

        class Trap:
            def __reduce__(self) -> tuple[Any, tuple[str]]:
                return Path.touch, (tmp_path / "ran",)  # type: ignore[return-value]

        path = tmp_path / "weights.bin"
        path.write_bytes(pickle.dumps({"head.weight": Trap()}))
        said = cli("build", "model.py:net", *DATA, "--weights", path)
        assert said.code == 2
        sentence, hint = said.refusal()
        assert "a pickle that holds more than tensors" in sentence and "state_dict" in hint
        assert not (tmp_path / "ran").exists()

    def test_a_pickled_model_is_refused_as_one(self, cli: Cli, work: Path, tmp_path: Path) -> None:
        import torch

        torch.save(torch.nn.Linear(2, 2), tmp_path / "model.pt")
        said = cli("build", tmp_path / "model.pt", *DATA)
        assert said.code == 2
        sentence, hint = said.refusal()
        assert "is a pickled object, not a TorchScript file" in sentence and "--weights" in hint

    def test_weights_of_another_model(self, cli: Cli, work: Path, tmp_path: Path) -> None:
        import torch

        torch.save({"other.weight": torch.zeros(1)}, tmp_path / "weights.pt")
        said = cli("build", "model.py:net", *DATA, "--weights", tmp_path / "weights.pt")
        assert said.code == 2
        assert re.search(r"does not fit the model: .* lacks \d+ .*unknown 1", said.refusal()[0])

    @pytest.mark.parametrize("suffix", [".onnx", ".pt2", ".pt"])
    def test_text_is_no_model(self, suffix: str, cli: Cli, work: Path, tmp_path: Path) -> None:
        path = tmp_path / f"model{suffix}"
        path.write_text("this is text")
        said = cli("build", path, *DATA)
        assert said.code == 2 and f"model{suffix} is not a" in said.refusal()[0]

    def test_an_onnx_graph_cannot_be_pruned(self, cli: Cli, work: Path, tmp_path: Path) -> None:
        said = cli(
            *("build", write_onnx(tmp_path / "flat.onnx"), *DATA),
            *("--train", "model.py:train", "--set", "prune.ratio=0.3"),
        )
        assert said.code == 2
        sentence, hint = said.refusal()
        assert "cannot be pruned: its source is fixed" in sentence and "file.py:callable" in hint

    def test_an_onnx_graph_cannot_be_equalised(self, cli: Cli, work: Path, tmp_path: Path) -> None:
        form = ("--set", "quantize.form=equalized")
        said = cli("build", write_onnx(tmp_path / "flat.onnx"), *DATA, *form)
        assert said.code == 2
        sentence, hint = said.refusal()
        assert "is no torch model" in sentence and "the torch model" in hint

    def test_an_onnx_graph_with_nan_weights(self, cli: Cli, work: Path, tmp_path: Path) -> None:
        said = cli("build", write_onnx(tmp_path / "flat.onnx", np.nan), *DATA)
        assert said.code == 2 and "initializer 'w'" in said.refusal()[0]


def write_onnx(path: Path, weight: float = 0.1) -> Path:
    """A flatten and a matrix product, (1, 3, 16, 16) to (1, 3)."""
    onnx = pytest.importorskip("onnx")
    from onnx import helper, numpy_helper

    x, y = (
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("x", [1, 3, 16, 16]), ("y", [1, 3]))
    )
    w = numpy_helper.from_array(np.full((768, 3), weight, np.float32), "w")
    nodes = [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("MatMul", ["f", "w"], ["y"])]
    graph = helper.make_graph(nodes, "g", [x], [y], [w])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path
