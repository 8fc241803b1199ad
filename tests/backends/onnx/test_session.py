from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgekit.backends.onnx import openvino, session
from edgekit.backends.onnx.backend import OnnxBackend
from edgekit.errors import MissingDependency, StepFailed, Unsupported
from edgekit.types import Scheme


@pytest.fixture(scope="module")
def tokens(export_net: Callable[..., Any]) -> Any:
    """Token ids and a float vector in, two outputs."""
    import torch
    from torch import nn

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(20, 8), nn.Linear(8, 6)

        def forward(self, ids: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            x = self.table(ids) + bias
            return self.head(x), x.mean(1)

    rng = np.random.default_rng(0)
    rows = [[rng.integers(0, 20, (1, 5)), rng.standard_normal((1, 1, 8), dtype=np.float32)] for _ in range(6)]
    return export_net(Tokens(), rows)


@pytest.mark.parametrize(
    ("precision", "least"), [("float32", 90), ("fp16", 50), ("dynamic", 30), ("int8", 20)]
)
def test_token_ids_and_several_inputs_and_outputs(tokens: Any, precision: str, least: float) -> None:
    """``least`` SQNR in dB of the worse output: int8 clips values of samples that were held back."""
    import torch

    made = tokens.quantized(precision)
    assert [t.dtype for t in made.inputs] == ["int64", "float32"]
    opened = tokens.backend.session(made)
    signal, noise = np.zeros(2), np.zeros(2)
    for sample in tokens.samples:
        with torch.inference_mode():
            want = tokens.module(*(torch.from_numpy(x) for x in sample))
        got = opened.run(sample)
        assert [(g.dtype, g.shape) for g in got] == [(np.float32, tuple(w.shape)) for w in want]
        signal += [float((w**2).sum()) for w in want]
        noise += [float(((w.numpy() - g) ** 2).sum()) for w, g in zip(want, got, strict=True)]
    assert (signal > 10 ** (least / 10) * noise).all(), 10 * np.log10(signal / noise)


def test_ids_given_as_floats_become_integers(tokens: Any) -> None:
    ids, bias = tokens.samples[0]
    (a, _), (b, _) = (
        tokens.backend.session(tokens.artifact).run([x, bias]) for x in (ids, ids.astype(np.float32))
    )
    np.testing.assert_array_equal(a, b)


def test_taps_need_a_session_that_keeps_all(joins: Any) -> None:
    with pytest.raises(ValueError, match="keep_all"):
        joins.backend.session(joins.artifact).taps(joins.samples[0], [])


def test_many_values_are_read_in_pieces(joins: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [u.name for u in joins.backend.units(joins.artifact)]
    opened = joins.backend.session(joins.artifact, keep_all=True)
    at_once = opened.taps(joins.samples[0], names)
    monkeypatch.setattr(session, "_CHUNK_BYTES", 3000)
    graph = joins.graph()
    tensors = [op.outputs[0] for op in graph.ops]
    pieces = list(session.chunks(graph, tensors))
    assert len(pieces) > 3 and [t for p in pieces for t in p] == tensors
    in_pieces = opened.taps(joins.samples[0], names)
    for name in names:
        np.testing.assert_array_equal(at_once[name], in_pieces[name])


def test_an_int8_unit_is_read_as_its_reader_sees_it(joins: Any) -> None:
    """Behind the pair: a grid of at most 256 values."""
    made = joins.quantized(delegate="tensorrt")
    name = next(u.name for u in joins.backend.units(made) if u.op == "MaxPool")
    tapped = joins.backend.session(made, keep_all=True).taps(joins.samples[0], [name])[name]
    scale = np.diff(np.unique(tapped)).min()
    steps = tapped / scale
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-3)


def test_what_onnx_runtime_refuses_is_a_failed_step() -> None:
    with pytest.raises(StepFailed, match="ONNX Runtime cannot load"):
        session.open_session(b"nothing")


def test_inputs_of_the_wrong_shape_are_a_failed_step(joins: Any) -> None:
    with pytest.raises(StepFailed, match="failed to run"):
        joins.backend.session(joins.artifact).run([np.zeros((1, 3, 9, 9), dtype=np.float32)])


def test_without_openvino_the_hint_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, joins: Any) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "openvino" else real(name, *a)
    )
    assert openvino.version() == {}
    scheme = Scheme(precision="int8", delegate="openvino")
    with pytest.raises(MissingDependency) as caught:
        OnnxBackend().preflight(joins.module, None, None, scheme=scheme)  # type: ignore[arg-type]
    assert caught.value.hint == "pip install 'edgekit[openvino]'"


def test_openvino_computes_what_onnx_runtime_does(export_net: Callable[..., Any], joins: Any) -> None:
    pytest.importorskip("openvino")
    net = export_net(joins.module, joins.samples, delegate="openvino")
    made = net.quantized(delegate="openvino")
    opened = net.backend.open_file(made.path)
    assert isinstance(net.backend.session(opened), openvino.OpenVinoSession), "the file says what it is for"
    there, here = net.backend.session(made), session.OnnxSession(made)
    for sample in net.samples:
        (a,), (b,) = there.run(sample), here.run(sample)
        np.testing.assert_allclose(a, b, atol=0.05 * np.abs(b).max())


def test_a_model_that_tensorrt_does_not_import_is_refused_by_operator(export_net: Callable[..., Any]) -> None:
    import torch
    from torch import nn

    class Spectrum(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.fft.fft(x).abs()

    samples = [[np.ones((1, 8), dtype=np.float32)]]
    net = export_net(Spectrum(), samples)
    assert net.backend.session(net.artifact).run(samples[0])[0].shape == (1, 8), "ONNX Runtime has DFT"
    with pytest.raises(Unsupported, match="DFT"):
        export_net(Spectrum(), samples, delegate="tensorrt")
    found = net.backend.preflight(
        net.artifact.path,
        None,  # type: ignore[arg-type]
        None,
        scheme=Scheme(delegate="tensorrt"),
    )
    assert any("DFT" in p.reason for p in found)


def test_the_preflight_of_tensorrt_knows_it_from_torch() -> None:
    import torch
    from torch import nn

    from edgekit.backends.torch_graph import trace

    class Inner(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.fft.fft(x).abs()

    net = nn.Sequential(nn.Linear(4, 4), Inner()).eval()
    graph = trace(net, [np.ones((1, 4), dtype=np.float32)])
    scheme = Scheme(delegate="tensorrt")
    (problem,) = OnnxBackend().preflight(net, None, graph, scheme=scheme)  # type: ignore[arg-type]
    assert problem.where == "1" and "fft" in problem.op and "DFT" in problem.reason and problem.hint
