"""torch to ONNX: one file for all that starts from ONNX, the same on every machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.backends import onnx_export
from edgekit.backends.onnx_export import export_onnx, import_onnx
from edgekit.errors import ConversionError
from edgekit.verify.reference import run_module, run_onnx

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

X = np.random.default_rng(0).normal(size=(3, 3, 8, 8)).astype(np.float32)
ONE = (torch.from_numpy(X[:1]),)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 5)

    def forward(self, image: Any) -> Any:
        return self.head(functional.gelu(self.norm(self.conv(image))).mean((2, 3)))


class Sampling(nn.Module):
    """Looks at a shifted and shrunk image."""

    def forward(self, image: Any) -> Any:
        theta = torch.tensor([[[0.9, 0.1, 0.0], [0.0, 0.8, 0.1]]])
        grid = functional.affine_grid(theta, [1, 3, 8, 8], align_corners=False)
        return functional.grid_sample(image, grid, align_corners=False)


class Looping(nn.Module):
    """Depends on its values: torch.export refuses, tracing writes down what it saw."""

    def forward(self, image: Any) -> Any:
        if float(image.sum()) > -1e9:
            return image * 2
        return image


class Alien(nn.Module):
    """No exporter has a translation for it."""

    def forward(self, image: Any) -> Any:
        return torch.linalg.eigvals(image[0, 0]).real


def nodes(path: Path) -> list[Any]:
    import onnx

    return list(onnx.load(str(path)).graph.node)


def test_the_file_is_the_model(tmp_path: Path) -> None:
    module = Net().eval()
    file = export_onnx(module, ONE, tmp_path / "m.onnx")
    assert (file.inputs, len(file.outputs), file.exporter, file.notes) == (("image",), 1, "torch.export", ())
    want, got = run_module(module, [X]), run_onnx(file.path, [X])
    np.testing.assert_allclose(got[0], want[0], atol=1e-5)


def test_it_is_simplified_and_gelu_is_one_operator(tmp_path: Path) -> None:
    found = [n.op_type for n in nodes(export_onnx(Net().eval(), ONE, tmp_path / "m.onnx").path)]
    assert "BatchNormalization" not in found and "Erf" not in found
    assert found.count("Gelu") == 1


def test_grid_sample_keeps_the_names_that_converters_know(tmp_path: Path) -> None:
    module = Sampling().eval()
    file = export_onnx(module, ONE, tmp_path / "m.onnx")
    (node,) = [n for n in nodes(file.path) if n.op_type == "GridSample"]
    assert next(a.s for a in node.attribute if a.name == "mode") == b"bilinear"
    np.testing.assert_allclose(run_onnx(file.path, [X])[0], run_module(module, [X])[0], atol=1e-5)


def test_the_same_model_gives_the_same_bytes(tmp_path: Path) -> None:
    files = [export_onnx(Net().eval(), ONE, tmp_path / f"{i}.onnx").path.read_bytes() for i in range(2)]
    assert files[0] == files[1]
    assert str(Path(__file__).parent).encode() not in files[0], "no stack traces of this machine"


def test_the_second_exporter_takes_what_the_first_refuses(tmp_path: Path) -> None:
    file = export_onnx(Looping().eval(), ONE, tmp_path / "m.onnx")
    assert file.exporter == "torchscript"
    assert len(file.notes) == 1 and file.notes[0].startswith("torch.export: ")
    np.testing.assert_array_equal(run_onnx(file.path, [X])[0], 2 * X)


def test_a_model_that_no_exporter_takes_is_refused_with_both_reasons(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=r"torch\.export: .*; torchscript: ") as caught:
        export_onnx(Alien().eval(), ONE, tmp_path / "m.onnx")
    assert caught.value.hint and not (tmp_path / "m.onnx").exists()


def test_a_users_file_gets_fixed_shapes(tmp_path: Path) -> None:
    import onnx

    torch.onnx.export(
        Net().eval(),
        ONE,
        str(tmp_path / "user.onnx"),
        dynamo=False,
        dynamic_axes={"x": {0: "n"}},
        input_names=["x"],
    )
    file = import_onnx(tmp_path / "user.onnx", ((1, 3, 8, 8),), tmp_path / "fixed.onnx")
    (given,) = onnx.load(str(file.path)).graph.input
    assert [d.dim_value for d in given.type.tensor_type.shape.dim] == [1, 3, 8, 8]
    assert (file.inputs, file.exporter) == (("x",), "onnx file")


def test_versions_of_tools_are_those_installed() -> None:
    assert onnx_export.tool_versions("torch")["torch"] == torch.__version__
