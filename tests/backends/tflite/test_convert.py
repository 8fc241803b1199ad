"""ONNX to float TFLite: offline, with layouts found by values, and refusals that name the operator."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.backends.onnx_export import import_onnx
from edgekit.backends.tflite import convert, worker
from edgekit.errors import ConversionError, StoreError, Unsupported
from edgekit.store import Store
from edgekit.types import Scheme, TensorSpec, ignore_events

# -- the worker process, with another module in onnx2tf's place


@pytest.fixture
def pretend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Make the worker import an ``onnx2tf`` whose ``convert`` has this body; returns a scratch folder."""
    modules, scratch = tmp_path / "modules", tmp_path / "scratch"
    package = modules / "onnx2tf"
    for folder in (modules, scratch, package, package / "ops"):
        folder.mkdir()
    (modules / "tensorflow.py").write_text("")
    (package / "ops" / "__init__.py").write_text("")
    (package / "ops" / "Resize.py").write_text("make_node = None\n")
    monkeypatch.setenv("PYTHONPATH", str(modules))

    def write(body: str) -> Path:
        lines = "\n".join(f"    {line}" for line in body.splitlines())
        (package / "__init__.py").write_text(f"def convert(**job):\n{lines}\n")
        return scratch

    return write


def test_the_conversion_reaches_no_network(pretend: Callable[[str], Path], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        port = server.getsockname()[1]
        body = (
            "import urllib.request\n"
            "try:\n"
            f"    urllib.request.urlopen('http://127.0.0.1:{port}/image.npy')\n"
            "except OSError as error:\n"
            "    raise RuntimeError(f'refused: {error}')"
        )
        with pytest.raises(ConversionError, match=r"refused: .*tried to reach .*not allowed"):
            convert.convert(tmp_path / "model.onnx", pretend(body))
        with pytest.raises(TimeoutError):
            server.accept()


def test_the_test_image_is_there_before_onnx2tf_wants_to_download_it(
    pretend: Callable[[str], Path], tmp_path: Path
) -> None:
    scratch = pretend("raise SystemExit(3)")
    with pytest.raises(ConversionError):
        convert.convert(tmp_path / "model.onnx", scratch)
    image = np.load(scratch / "calibration_image_sample_data_20x128x128x3_float32.npy")
    assert image.shape == (20, 128, 128, 3) and image.dtype == np.float32


def test_nothing_of_the_callers_environment_decides(pretend: Callable[[str], Path], tmp_path: Path) -> None:
    body = "import os\nraise RuntimeError('{PYTHONHASHSEED}{CUDA_VISIBLE_DEVICES}.'.format(**os.environ))"
    with pytest.raises(ConversionError, match=r"RuntimeError: 0\."):
        convert.convert(tmp_path / "model.onnx", pretend(body))


def test_a_killed_converter_is_told(pretend: Callable[[str], Path], tmp_path: Path) -> None:
    body = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"
    with pytest.raises(ConversionError, match=f"killed by signal {signal.SIGKILL:d}"):
        convert.convert(tmp_path / "model.onnx", pretend(body))


def test_a_converter_that_hangs_is_stopped(
    pretend: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convert, "_TIMEOUT_S", 1)
    with pytest.raises(ConversionError, match="did not finish within 1 s"):
        convert.convert(tmp_path / "model.onnx", pretend("import time\ntime.sleep(60)"))


def test_a_full_disk_is_named(pretend: Callable[[str], Path], tmp_path: Path) -> None:
    body = "import errno, os\nraise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))"
    with pytest.raises(StoreError, match="the disk is full while converting"):
        convert.convert(tmp_path / "model.onnx", pretend(body))


@pytest.mark.parametrize(
    ("log", "kind", "message"),
    [
        ("ERROR: DeformConv OP is not yet implemented.", Unsupported, "operator DeformConv has no"),
        ("ModuleNotFoundError: No module named 'onnx2tf.ops.LpPool'", Unsupported, "operator LpPool has no"),
        (
            "x.py:96:1: error: 'tf.Erf' op is neither a custom op nor a flex op\n"
            "x.py:96:1: error: 'tf.Erf' op is neither a custom op nor a flex op",
            Unsupported,
            "operator Erf has no TFLite kernel",
        ),
        (
            "ERROR: onnx_op_name: /layer1/Conv\nTraceback\nValueError: shapes do not fit",
            ConversionError,
            "cannot convert the model at /layer1/Conv: ValueError: shapes do not fit",
        ),
        (
            "ERROR: The current implementation of GridSample supports only mode=['bilinear']. "
            "Pull requests are welcome.\nmode: linear",
            Unsupported,
            "onnx2tf converts GridSample only with mode=['bilinear']",
        ),
        (
            "something odd\nI0000 00:00:1795378526.45   16762 cudart_stub.cc:31] Could not find cuda drivers",
            ConversionError,
            "cannot convert the model: something odd",
        ),
        ("", ConversionError, "no output"),
    ],
)
def test_refusals_name_what_is_wrong(log: str, kind: type[Exception], message: str) -> None:
    error = convert._explain(log, 1)
    assert type(error) is kind
    assert message in str(error)


def test_the_worker_dies_with_the_process_that_started_it(
    pretend: Callable[[str], Path], tmp_path: Path
) -> None:
    mark = tmp_path / "worker.pid"
    body = (
        "import os, pathlib, time\n"
        f"part = pathlib.Path({str(mark)!r} + '.part')\n"
        "part.write_text(str(os.getpid()))\n"
        f"part.rename({str(mark)!r})\n"
        "time.sleep(600)"
    )
    scratch = pretend(body)
    program = (
        "from pathlib import Path\n"
        "from edgekit.backends.tflite import convert\n"
        f"convert.convert(Path('model.onnx'), Path({str(scratch)!r}))"
    )
    parent = subprocess.Popen([sys.executable, "-c", program])
    try:
        wait_until(mark.exists)
        worker = int(mark.read_text())
        assert alive(worker)
    finally:
        parent.kill()
        parent.wait()
    wait_until(lambda: not alive(worker))


def alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has waited for yet does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline, "waited for a minute"
        time.sleep(0.02)


def test_inputs_that_differ_in_punctuation_only_keep_names_of_their_own() -> None:
    names = worker.plain_names(["a.b", "a:b", "a_b", "A_b", "0/x", "image"])
    assert names == ["a_b", "a_b_1", "a_b_2", "A_b_3", "x0_x", "image"]


# -- layouts


@pytest.mark.parametrize(
    ("source", "stored", "kept", "layout"),
    [
        ((1, 3, 8, 9), (1, 8, 9, 3), False, "NHWC"),
        ((1, 3, 8, 9), (1, 3, 8, 9), True, "NCHW"),
        ((1, 3, 8, 9), (1, 3, 8, 9), False, "NCHW"),
        ((1, 3, 3, 3), (1, 3, 3, 3), False, "NHWC"),
        ((1, 3, 3, 3), (1, 3, 3, 3), True, "NCHW"),
        ((1, 4, 20), (1, 20, 4), False, "NWC"),
        ((1, 4, 20), (1, 4, 20), True, None),
        ((1, 2, 4, 5, 6), (1, 4, 5, 6, 2), False, "NDHWC"),
        ((1, 10), (1, 10), False, None),
    ],
)
def test_layout_of_an_input(
    source: tuple[int, ...], stored: tuple[int, ...], kept: bool, layout: str | None
) -> None:
    assert convert.input_layout(source, stored, kept=kept) == layout


@pytest.mark.parametrize(
    ("source", "stored"), [((1, 3, 8, 9), (1, 9, 8, 3)), ((1, 10), (10, 1)), ((1, 4, 20), (1, 4, 21))]
)
def test_an_input_of_another_shape_is_an_error(source: tuple[int, ...], stored: tuple[int, ...]) -> None:
    with pytest.raises(ConversionError, match="changed an input"):
        convert.input_layout(source, stored, kept=False)


def test_layout_of_an_output_is_found_by_its_values() -> None:
    rng = np.random.default_rng(0)
    cube = rng.normal(size=(1, 4, 4, 4)).astype(np.float32)  # the shape tells nothing
    assert convert.output_layout(cube, cube.transpose(0, 2, 3, 1)) == "NHWC"
    assert convert.output_layout(cube, cube) == "NCHW"
    line = rng.normal(size=(1, 5, 5)).astype(np.float32)
    assert convert.output_layout(line, line.transpose(0, 2, 1)) == "NWC"
    assert convert.output_layout(line, line) is None
    flat = rng.normal(size=(1, 10)).astype(np.float32)
    assert convert.output_layout(flat, flat) is None
    with pytest.raises(ConversionError, match="changed an output"):
        convert.output_layout(flat, flat.reshape(2, 5))


# -- real conversions


def test_the_float_file_computes_what_torch_does(tiny: Any) -> None:
    import torch

    session = tiny.backend.session(tiny.artifact)
    for sample in tiny.samples[:5]:
        with torch.inference_mode():
            want = tiny.module(torch.from_numpy(sample[0])).numpy()
        (got,) = session.run(sample)
        np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())


def test_the_artifact_tells_its_signature(tiny: Any) -> None:
    artifact = tiny.artifact
    (given,), (made,) = artifact.inputs, artifact.outputs
    assert (given.shape, given.dtype, given.layout) == ((1, 16, 16, 3), "float32", "NHWC")
    assert (made.shape, made.dtype, made.layout) == ((1, 3), "float32", None)
    assert artifact.meta["input_names"] == ["image"]
    assert artifact.meta["exporter"] == artifact.producer == "onnx2tf"
    assert artifact.meta["onnx_exporter"] in ("torch.export", "torchscript")
    assert artifact.meta["parity"] < 1e-5
    assert any("onnx2tf" in note for note in artifact.meta["exporter_notes"])
    assert tiny.store.get(artifact.meta["onnx_sha256"]).stat().st_size > 10_000
    assert {"onnx2tf", "tensorflow", "torch", "ai-edge-quantizer"} <= set(artifact.tools)


def test_no_path_of_this_machine_is_in_the_files(tiny: Any, tiny_model_dir: Path) -> None:
    onnx = tiny.store.get(tiny.artifact.meta["onnx_sha256"]).read_bytes()
    for data in (onnx, tiny.artifact.path.read_bytes()):
        for path in (str(tiny_model_dir), str(tiny.store.root), str(Path(__file__).parents[3])):
            assert path.encode() not in data


def save_onnx(path: Path, op: str, **attributes: Any) -> Path:
    """One operator on (1, 3, 8, 8) behind a convolution."""
    from onnx import TensorProto, checker, helper, numpy_helper, save

    weights = np.random.default_rng(0).normal(0, 0.3, (4, 3, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1], name="conv"),
        helper.make_node(op, ["c"], ["y"], name="strange", **attributes),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, "height", "width"])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    checker.check_model(model)
    save(model, str(path))
    return path


def export(tiny: Any, source: Any, store: Store, samples: Any = None, **scheme: Any) -> Any:
    spec = replace(tiny.spec, inputs=(TensorSpec(name="x", shape=(1, 3, 8, 8), dtype="float32"),))
    given = samples or [[np.ones((1, 3, 8, 8), np.float32)]]
    return tiny.backend.export(source, spec, given, store=store, scheme=Scheme(**scheme), emit=ignore_events)


def test_an_operator_that_onnx2tf_does_not_know_is_named(tiny: Any, tmp_path: Path) -> None:
    path = save_onnx(tmp_path / "m.onnx", "LpPool", kernel_shape=[2, 2])
    store = Store(tmp_path / "store")
    with pytest.raises(Unsupported, match="operator LpPool") as caught:
        export(tiny, path, store)
    assert caught.value.exit_code == 4 and caught.value.hint
    assert store.usage().steps == 0


def test_an_operator_that_tflite_does_not_know_is_named(tiny: Any, tmp_path: Path) -> None:
    path = save_onnx(tmp_path / "m.onnx", "Erf")
    with pytest.raises(Unsupported, match="operator Erf has no TFLite kernel"):
        export(tiny, path, Store(tmp_path / "store"))


@pytest.mark.parametrize("dtype", ["bool", "float64", "uint8"])
def test_an_input_of_a_type_that_no_exporter_writes_is_refused(tiny: Any, dtype: str) -> None:
    spec = replace(tiny.spec, inputs=(TensorSpec(name="mask", shape=(1, 8), dtype=dtype),))
    with pytest.raises(Unsupported, match=f"input 'mask' is {dtype}") as caught:
        tiny.backend.export(None, spec, [], store=tiny.store, scheme=Scheme(), emit=ignore_events)
    assert caught.value.hint


def test_what_is_not_onnx_is_refused(tmp_path: Path) -> None:
    path = save_onnx(tmp_path / "m.onnx", "Relu")
    import onnx

    model = onnx.load(str(path))
    model.graph.node[1].op_type = "NoSuchOp"
    onnx.save(model, str(path))
    with pytest.raises(ConversionError, match=r"m\.onnx is not a valid ONNX model"):
        import_onnx(path, ((1, 3, 8, 8),), tmp_path / "out.onnx")


def test_a_transformer_block_converts(tiny: Any) -> None:
    """GELU, layer normalisation and attention, behind a convolution that cuts the image in patches."""
    import torch
    from torch import nn
    from torch.nn.functional import scaled_dot_product_attention

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.patches, self.norm = nn.Conv2d(3, 16, 4, stride=4), nn.LayerNorm(16)
            self.mix, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
            self.wide, self.head = (
                nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16)),
                nn.Linear(16, 3),
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            t = self.patches(x).flatten(2).transpose(1, 2)
            q, k, v = self.mix(self.norm(t)).reshape(1, 4, 3, 2, 8).permute(2, 0, 3, 1, 4)
            t = t + self.out(scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(1, 4, 16))
            return self.head((t + self.wide(self.norm(t))).mean(1))

    module = Block().eval()
    x = np.random.default_rng(0).normal(size=(1, 3, 8, 8)).astype(np.float32)
    artifact = export(tiny, module, tiny.store, samples=[[x]])
    assert any(u.op == "GELU" for u in tiny.backend.units(artifact))
    with torch.inference_mode():
        want = module(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(tiny.backend.session(artifact).run([x])[0], want, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("how", [{"mode": "bilinear", "align_corners": True}, {"mode": "nearest"}])
def test_images_are_resized_as_the_model_says(tiny: Any, how: dict[str, Any]) -> None:
    """onnx2tf alone takes every Resize of a recent opset for one by pixel centres."""
    import torch
    from torch import nn

    class Enlarge(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.interpolate(self.conv(x), size=(11, 9), **how)

    x = np.random.default_rng(0).normal(size=(1, 3, 8, 8)).astype(np.float32)
    module = Enlarge().eval()
    spec = replace(tiny.spec, outputs=(TensorSpec(name="y", shape=(1, 4, 11, 9), dtype="float32"),))
    spec = replace(spec, inputs=(TensorSpec(name="x", shape=(1, 3, 8, 8), dtype="float32"),))
    artifact = tiny.backend.export(module, spec, [[x]], store=tiny.store, scheme=Scheme(), emit=ignore_events)
    assert artifact.producer == "onnx2tf"
    assert artifact.meta["parity"] < 1e-5


@pytest.fixture(scope="session")
def several(tiny: Any) -> Any:
    """Two inputs of one shape, three outputs of rank 4, 2 and 1, grouped convolution, ArgMax; NCHW kept."""
    import torch
    from torch import nn

    class Several(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(3)
            self.grouped = nn.Conv2d(4, 8, 3, padding=1, groups=2)
            self.head = nn.Linear(8, 5)

        def forward(self, left: torch.Tensor, right: torch.Tensor) -> tuple[torch.Tensor, ...]:
            image = torch.relu(self.grouped(left - 2 * right))
            scores = self.head(image.mean((2, 3)))
            return image, scores, scores.argmax(1).float()

    module = Several().eval()
    rng = np.random.default_rng(0)
    samples = [[rng.normal(size=(1, 4, 6, 8)).astype(np.float32) for _ in range(2)] for _ in range(3)]
    inputs = tuple(TensorSpec(name=n, shape=(1, 4, 6, 8), dtype="float32") for n in ("left", "right"))
    shapes = ((1, 8, 6, 8), (1, 5), (1,))
    outputs = tuple(TensorSpec(name=f"o{i}", shape=s, dtype="float32") for i, s in enumerate(shapes))
    spec = replace(tiny.spec, name="several", inputs=inputs, outputs=outputs)
    artifact = tiny.backend.export(
        module, spec, samples, store=tiny.store, scheme=Scheme(keep_nchw=True), emit=ignore_events
    )
    return module, artifact, samples


def test_inputs_can_stay_channels_first(several: Any, tiny: Any) -> None:
    _, artifact, _ = several
    assert [(i.shape, i.layout) for i in artifact.inputs] == [((1, 4, 6, 8), "NCHW")] * 2
    facts, complaints = tiny.backend.check(artifact, Scheme())
    assert facts["transposes"] >= 1, "the price of NCHW inputs is in the report"
    assert any("TRANSPOSE" in c for c in complaints)


def test_several_inputs_and_outputs_keep_their_order(several: Any, tiny: Any) -> None:
    import torch

    module, artifact, samples = several
    assert artifact.meta["input_names"] == ["left", "right"]
    for sample in samples:
        with torch.inference_mode():
            want = [y.numpy() for y in module(*map(torch.from_numpy, sample))]
        got = tiny.backend.session(artifact).run(sample)
        assert [g.shape for g in got] == [w.shape for w in want]
        for w, g in zip(want, got, strict=True):
            np.testing.assert_allclose(g, w, atol=1e-5)


def test_several_outputs_survive_quantisation(several: Any, tiny: Any) -> None:
    _, artifact, samples = several
    made = tiny.backend.quantize(
        artifact, samples, Scheme(precision="int8"), refit=False, store=tiny.store, emit=ignore_events
    )
    want = tiny.backend.session(artifact).run(samples[0])
    got = tiny.backend.session(made).run(samples[0])
    assert [g.shape for g in got] == [w.shape for w in want]
    for w, g in zip(want[:2], got[:2], strict=True):
        assert np.abs(w - g).max() < 0.1 * np.abs(w).max()


def test_conversions_at_once_do_not_meet(pretend: Callable[[str], Path], tmp_path: Path) -> None:
    """The worker writes into its working directory: each conversion has its own."""
    pretend("open('left behind', 'x').close()\nraise RuntimeError('done')")
    before = set(Path().iterdir())
    errors: list[BaseException] = []

    def run(number: int) -> None:
        folder = tmp_path / f"scratch{number}"
        folder.mkdir()
        try:
            convert.convert(tmp_path / "model.onnx", folder)
        except ConversionError as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ["RuntimeError: done" in str(e) for e in errors] == [True, True]
    assert set(Path().iterdir()) == before
