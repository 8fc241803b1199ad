"""load_model: every kind of source, and every fault that must end in one sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgekit.errors import DataError, SourceError
from edgekit.sources.arrays import make_data
from edgekit.sources.models import DEMO_NAME, load_model

torch = pytest.importorskip("torch")

NET = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self, channels=4):
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 3, padding=1)
        self.head = nn.Linear(channels, 5)
        self.scale = 1.0
    def forward(self, image):
        return self.head(self.conv(image).relu().mean((2, 3))) * self.scale
def make():
    torch.manual_seed(0)
    return Net()
"""
SHAPE = ((1, 3, 8, 8),)


def _entry(tmp_path: Path, text: str = NET, name: str = "net.py") -> str:
    (tmp_path / name).write_text(text)
    return f"{tmp_path / name}:make"


def test_a_callable_gives_a_spec(tmp_path: Path) -> None:
    loaded = load_model(_entry(tmp_path), input_shapes=SHAPE)
    spec = loaded.spec
    assert (spec.name, spec.task, spec.trainable) == ("make", "classification", True)
    assert [(t.name, t.shape, t.dtype, t.layout) for t in spec.inputs] == [
        ("image", (1, 3, 8, 8), "float32", "NCHW")
    ]
    assert [(t.name, t.shape) for t in spec.outputs] == [("output", (1, 5))]
    assert spec.params == 3 * 4 * 9 + 4 + 4 * 5 + 5
    assert spec.macs == 3 * 4 * 9 * 64 + 4 * 5
    assert loaded.module is not None and not loaded.module.training
    assert loaded.onnx_path is None
    again = load_model(_entry(tmp_path), input_shapes=SHAPE)
    assert again.spec == spec
    assert torch.equal(again.example_inputs[0], loaded.example_inputs[0])


def test_the_demo_needs_no_arguments() -> None:
    loaded = load_model(None)
    assert loaded.spec.name == DEMO_NAME
    assert loaded.spec.labels == tuple("0123456789")
    assert loaded.spec.outputs[0].shape == (1, 10)


def test_the_digest_changes_with_weights_attributes_and_source(tmp_path: Path) -> None:
    def digest(text: str) -> str:
        return load_model(_entry(tmp_path, text), input_shapes=SHAPE).spec.sha256

    first = digest(NET)
    assert digest(NET) == first
    changes = {
        "weights": NET.replace("manual_seed(0)", "manual_seed(1)"),
        "attribute": NET.replace("self.scale = 1.0", "self.scale = 2.0"),
        "forward only": NET.replace(".relu()", ".sigmoid()"),
        "structure": NET.replace("channels=4", "channels=6"),
    }
    digests = {name: digest(text) for name, text in changes.items()}
    assert len({first, *digests.values()}) == 5, digests


def test_the_digest_sees_a_helper_file_and_data_read_into_attributes(tmp_path: Path) -> None:
    (tmp_path / "digest_helper.py").write_text("def act(x):\n    return x.relu()\n")
    (tmp_path / "scale.txt").write_text("1.0")
    text = NET.replace("from torch import nn", "from torch import nn\nimport digest_helper, pathlib").replace(
        "self.conv(image).relu()", "digest_helper.act(self.conv(image))"
    )
    text = text.replace(
        "self.scale = 1.0", "self.scale = float((pathlib.Path(__file__).parent / 'scale.txt').read_text())"
    )
    first = load_model(_entry(tmp_path, text), input_shapes=SHAPE).spec.sha256
    (tmp_path / "scale.txt").write_text("3.0")
    assert load_model(_entry(tmp_path, text), input_shapes=SHAPE).spec.sha256 != first
    (tmp_path / "scale.txt").write_text("1.0")
    assert load_model(_entry(tmp_path, text), input_shapes=SHAPE).spec.sha256 == first
    (tmp_path / "digest_helper.py").write_text("def act(x):\n    return x.abs()\n")
    assert load_model(_entry(tmp_path, text), input_shapes=SHAPE).spec.sha256 != first


def test_the_digest_does_not_depend_on_the_folder(tmp_path: Path) -> None:
    digests = set()
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        digests.add(load_model(_entry(tmp_path / folder), input_shapes=SHAPE).spec.sha256)
    assert len(digests) == 1


def test_weights_from_safetensors_and_torch_files(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    spec = _entry(tmp_path)
    module = load_model(spec, input_shapes=SHAPE).module
    assert module is not None
    state = {name: torch.full_like(t, 0.5) for name, t in module.state_dict().items()}
    save_file(state, tmp_path / "w.safetensors")
    torch.save({"state_dict": {f"module.{k}": t for k, t in state.items()}}, tmp_path / "w.pt")
    for name in ("w.safetensors", "w.pt"):
        loaded = load_model(spec, input_shapes=SHAPE, weights=tmp_path / name).module
        assert loaded is not None
        assert all(torch.equal(t, state[k]) for k, t in loaded.state_dict().items())


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    spec = _entry(tmp_path)
    torch.save({"conv.weight": torch.zeros(4, 3, 3, 3), "other": torch.zeros(1)}, tmp_path / "w.pt")
    with pytest.raises(
        SourceError, match=r"lacks 3 \(conv.bias, head.bias, head.weight\).*unknown 1 \(other\)"
    ):
        load_model(spec, input_shapes=SHAPE, weights=tmp_path / "w.pt")
    module = load_model(spec, input_shapes=SHAPE).module
    assert module is not None
    torch.save({**module.state_dict(), "head.bias": torch.zeros(6)}, tmp_path / "w.pt")
    with pytest.raises(SourceError, match=r"head.bias has shape \(6,\), the model wants \(5,\)"):
        load_model(spec, input_shapes=SHAPE, weights=tmp_path / "w.pt")
    with pytest.raises(SourceError, match="no such weights file"):
        load_model(spec, input_shapes=SHAPE, weights=tmp_path / "none.pt")


class Bomb:
    """Unpickling it would leave a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return (Path.touch, (self.path,))


def test_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    trace = tmp_path / "exploded"
    torch.save({"conv.weight": Bomb(trace)}, tmp_path / "w.pt")
    with pytest.raises(SourceError, match="pickle that holds more than tensors"):
        load_model(_entry(tmp_path), input_shapes=SHAPE, weights=tmp_path / "w.pt")
    assert not trace.exists()


def test_torch_export_programs_load_with_their_own_shapes(tmp_path: Path) -> None:
    module = load_model(_entry(tmp_path), input_shapes=SHAPE).module
    assert module is not None
    path = tmp_path / "net.pt2"
    torch.export.save(torch.export.export(module, (torch.randn(1, 3, 8, 8),)), path)
    loaded = load_model(str(path))
    assert (loaded.spec.name, loaded.spec.trainable) == ("net", False)
    assert loaded.spec.inputs[0].shape == (1, 3, 8, 8)
    assert loaded.spec.inputs[0].name == "image"
    assert loaded.module is not None
    x = loaded.example_inputs[0]
    assert torch.allclose(loaded.module.eval()(x), module(x), atol=1e-6)


def test_a_pickle_inside_a_torch_export_archive_is_refused_and_not_run(tmp_path: Path) -> None:
    import io
    import zipfile

    module = load_model(_entry(tmp_path), input_shapes=SHAPE).module
    good, bad, trace = tmp_path / "net.pt2", tmp_path / "bad.pt2", tmp_path / "exploded"
    torch.export.save(torch.export.export(module, (torch.randn(1, 3, 8, 8),)), good)
    payload = io.BytesIO()
    torch.save(Bomb(trace), payload)
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(bad, "w") as target:
        for item in source.infolist():
            sample = item.filename.endswith("sample_inputs/model.pt")
            target.writestr(item, payload.getvalue() if sample else source.read(item))
    with pytest.raises(SourceError, match=r"'model\.pt' is a pickle that holds more than tensors"):
        load_model(str(bad))
    assert not trace.exists()


def test_torchscript_loads_and_plain_weights_are_told_apart(tmp_path: Path) -> None:
    module = load_model(_entry(tmp_path), input_shapes=SHAPE).module
    assert module is not None
    torch.jit.trace(module, torch.randn(1, 3, 8, 8)).save(str(tmp_path / "net.pt"))
    loaded = load_model(str(tmp_path / "net.pt"), input_shapes=SHAPE)
    assert loaded.spec.trainable is False
    assert loaded.spec.macs == load_model(_entry(tmp_path), input_shapes=SHAPE).spec.macs
    torch.save(module.state_dict(), tmp_path / "weights.pt")
    with pytest.raises(SourceError, match="holds weights only, and no model") as caught:
        load_model(str(tmp_path / "weights.pt"), input_shapes=SHAPE)
    assert "--weights" in str(caught.value.hint)


def test_an_onnx_file_loads_without_a_module(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper, numpy_helper

    def save(weight: np.ndarray, name: str) -> str:
        graph = helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], ["y"])],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3])],
            [numpy_helper.from_array(weight, "w")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.save(model, tmp_path / name)
        return str(tmp_path / name)

    path = save(np.ones((4, 3), np.float32), "m.onnx")
    loaded = load_model(path)
    assert loaded.module is None and loaded.onnx_path == Path(path)
    assert (loaded.spec.trainable, loaded.spec.params, loaded.spec.task) == (False, 12, "classification")
    assert loaded.spec.inputs[0].shape == (1, 4)
    with pytest.raises(SourceError, match=r"running .* failed with inputs of shape \(1, 5\)"):
        load_model(path, input_shapes=((1, 5),))
    bad = save(np.full((4, 3), np.nan, np.float32), "nan.onnx")
    with pytest.raises(SourceError, match=r"initializer 'w'.*NaN"):
        load_model(bad)
    (tmp_path / "junk.onnx").write_bytes(b"not a model")
    with pytest.raises(SourceError, match="not an ONNX model that loads"):
        load_model(str(tmp_path / "junk.onnx"))


FAULTS = {
    "raises": (
        NET.replace("    return Net()", "    raise KeyError('cfg')"),
        r"make\(\) failed at .*net.py:14 \(in make\): KeyError",
    ),
    "not a module": (
        NET.replace("    return Net()", "    return 3"),
        "returned a int, not a torch.nn.Module",
    ),
    "nothing": (NET.replace("    return Net()", "    return None"), "returned nothing"),
    "forward fails": (
        NET.replace("self.conv(image)", "self.conv(image).reshape(7, 7)"),
        r"net.py:11 \(in forward\) with input of shape \(1, 3, 8, 8\): RuntimeError",
    ),
    "nan weight": (
        NET.replace(
            "    return Net()", "    n = Net()\n    n.head.weight.data[0, 0] = float('nan')\n    return n"
        ),
        "parameter 'head.weight' of .* holds 1 NaN or infinite values of 20",
    ),
    "nan output": (NET.replace("self.scale = 1.0", "self.scale = float('inf')"), "output 'output' of .* NaN"),
    "no tensor": (
        NET.replace("        return self.head", "        return 'x' or self.head"),
        "returned a str, not tensors",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_model_ends_in_one_sentence(tmp_path: Path, fault: str) -> None:
    text, message = FAULTS[fault]
    with pytest.raises(SourceError, match=message) as caught:
        load_model(_entry(tmp_path, text), input_shapes=SHAPE)
    assert "\n" not in str(caught.value)
    assert caught.value.hint


def test_a_wrong_shape_tells_the_shape_and_torchs_message(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"shape \(1, 4, 8, 8\).*expected input.* to have 3 channels"):
        load_model(_entry(tmp_path), input_shapes=((1, 4, 8, 8),))
    with pytest.raises(SourceError) as caught:
        load_model(_entry(tmp_path), input_shapes=(*SHAPE, *SHAPE))
    assert "forward takes 1 inputs (image)" in str(caught.value.hint)


def test_the_shape_comes_from_calibration_data_or_is_asked_for(tmp_path: Path) -> None:
    spec = _entry(tmp_path)
    with pytest.raises(SourceError, match=r"input shape .* is not known"):
        load_model(spec)
    x = np.random.default_rng(0).normal(size=(4, 3, 8, 8))
    calib = make_data("calib", [x], None, source="c")
    loaded = load_model(spec, calib=calib)
    assert loaded.spec.inputs[0].shape == (1, 3, 8, 8)
    assert np.array_equal(loaded.example_inputs[0].numpy(), calib.inputs[0][:1])


def test_channels_last_calibration_data_is_recognised(tmp_path: Path) -> None:
    calib = make_data("calib", [np.zeros((2, 8, 8, 3)) + 0.5], None, source="c.npz")
    with pytest.raises(
        DataError, match=r"c.npz are \(8, 8, 3\) but the model takes \(3, 8, 8\).*channels-last"
    ) as e:
        load_model(_entry(tmp_path), calib=calib)
    assert "x.permute(2, 0, 1)" in str(e.value.hint)


def test_outputs_of_every_form_are_flattened_with_names(tmp_path: Path) -> None:
    text = NET.replace(
        "        return self.head",
        "        a = image.mean((2, 3))\n        return {'boxes': a, 'more': [a, (a, None)]}\n"
        "        return self.head",
    )
    spec = load_model(_entry(tmp_path, text), input_shapes=SHAPE).spec
    assert [o.name for o in spec.outputs] == ["boxes", "more_0", "more_1_0"]
    assert spec.task == "generic"
    assert load_model(_entry(tmp_path), input_shapes=SHAPE, task="generic").spec.task == "generic"


def test_sources_that_name_no_model_are_refused(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NET)
    for spec, message in (
        (f"{tmp_path}/net.py", "names no callable"),
        (f"{tmp_path}/none.onnx", "no such file"),
        ("model.h5", "cannot tell what kind of model"),
    ):
        with pytest.raises(SourceError, match=message):
            load_model(spec, input_shapes=SHAPE)
