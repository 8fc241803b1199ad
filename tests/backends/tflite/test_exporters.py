"""Which exporter makes the float file: onnx2tf first, litert-torch where that refuses, errs or copies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.backends.tflite import convert, exporters, flatbuffer
from edgekit.errors import ConversionError, StoreError, Unsupported
from edgekit.store import Store
from edgekit.types import ModelSpec, Scheme, TensorSpec, ignore_events

needs_litert_torch = pytest.mark.skipif(
    not exporters.has_litert_torch(), reason="the extra edgekit[litert-torch] is not installed"
)


def candidate(tiny: Any, producer: str, parity: float, transposes: int) -> exporters.Candidate:
    artifact = replace(tiny.artifact, producer=producer)
    return exporters.Candidate(artifact=artifact, parity=parity, transposes=transposes)


@pytest.mark.parametrize(
    ("default", "other", "winner", "why"),
    [
        ((0.5, 0), (1e-6, 9), "other", "more than 0.001"),
        ((np.inf, 0), (0.5, 9), "other", "closer"),
        ((9e-4, 0), (2e-4, 9), "other", "closer"),
        ((9e-5, 5), (1e-7, 5), "default", "equally good"),  # both are rounding
        ((1e-7, 5), (9e-5, 2), "other", "copies less"),
        ((1e-7, 2), (1e-7, 5), "default", "copies less"),
        ((1e-6, 0), (0.5, 0), "default", "more than 0.001"),
    ],
)
def test_parity_decides_and_then_the_number_of_copies(
    tiny: Any, default: tuple[float, int], other: tuple[float, int], winner: str, why: str
) -> None:
    found = [candidate(tiny, "default", *default), candidate(tiny, "other", *other)]
    best = min(found, key=lambda c: c.rank)
    assert best.artifact.producer == winner
    assert why in exporters._why(found, best)


def test_parity_is_that_of_the_worst_output_by_its_own_scale() -> None:
    want = [[np.array([100.0, 0.0]), np.array([1, 2])], [np.array([-50.0, 1.0]), np.array([3, 4])]]
    got = [[np.array([100.0, 0.1]), np.array([1, 2])], [np.array([-50.0, 1.0]), np.array([3, 5])]]
    assert exporters.parity(want, want) == 0
    assert exporters.parity(want, got) == pytest.approx(1 / 4)
    assert exporters.parity([[np.zeros(2)]], [[np.zeros(2)]]) == 0
    assert exporters.parity([[np.ones(2)]], [[np.array([1, np.nan])]]) == np.inf


def test_a_clean_first_file_is_taken_without_a_second(tiny: Any) -> None:
    notes = tiny.artifact.meta["exporter_notes"]
    assert not any("litert-torch" in note for note in notes)
    assert "onnx2tf: " in notes[-1] and "0 TRANSPOSE operators" in notes[-1]


def export(tiny: Any, store: Store, monkeypatch: pytest.MonkeyPatch, **exporter: Any) -> Any:
    for name, function in exporter.items():
        monkeypatch.setattr(exporters, name, function)
    return tiny.backend.export(
        tiny.module, tiny.spec, tiny.samples[:2], store=store, scheme=Scheme(), emit=ignore_events
    )


def refuse(*_: Any, **__: Any) -> Any:
    raise Unsupported("operator Odd has no TFLite conversion in onnx2tf", hint="leave it out")


def test_without_the_extra_a_refusal_says_how_to_get_it(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Unsupported, match="operator Odd") as caught:
        export(tiny, Store(tmp_path), monkeypatch, _by_onnx2tf=refuse, has_litert_torch=lambda: False)
    assert caught.value.hint == (
        "leave it out; another exporter may take the model as it is: pip install 'edgekit[litert-torch]'"
    )


def test_when_both_refuse_both_are_named(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def also_refuse(*_: Any) -> Any:
        raise ConversionError("litert-torch cannot convert the model: RuntimeError: odd")

    both = {"_by_onnx2tf": refuse, "_by_litert_torch": also_refuse, "has_litert_torch": lambda: True}
    with pytest.raises(Unsupported, match=r"operator Odd .*; litert-torch.* RuntimeError: odd"):
        export(tiny, Store(tmp_path), monkeypatch, **both)


def test_a_full_disk_is_no_refusal(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Any:
        raise StoreError("the disk is full")

    with pytest.raises(StoreError):
        export(tiny, Store(tmp_path), monkeypatch, _by_onnx2tf=full)


def test_an_onnx_file_is_not_given_to_litert_torch(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporters, "_by_onnx2tf", refuse)
    path = tiny.store.get(tiny.artifact.meta["onnx_sha256"])
    with pytest.raises(Unsupported, match=r"operator Odd .*takes torch models, not ONNX files"):
        tiny.backend.export(
            path, tiny.spec, tiny.samples[:2], store=Store(tmp_path), scheme=Scheme(), emit=ignore_events
        )


@pytest.mark.parametrize(
    ("log", "message"),
    [
        (
            "RuntimeError: Lowering not found: aten.lgamma.default",
            "aten.lgamma.default has no TFLite conversion",
        ),
        (
            "RuntimeError: Unsupported ir element type: complex<f32>\n\nWhile executing %v : [num_users=1] = "
            "call_function[target=torch.ops.aten.view_as_real.default](args = (%x,), kwargs = {})",
            "aten.view_as_real.default computes with complex numbers",
        ),
        (
            "jax.errors.NonConcreteBooleanIndexError: Array boolean indices must be concrete; got bool[1,8]",
            "depends on the values",
        ),
    ],
)
def test_refusals_of_litert_torch_name_the_operator(log: str, message: str) -> None:
    error = convert._explain(log, 1, "litert-torch")
    assert type(error) is Unsupported and message in str(error)


@pytest.fixture(scope="session")
def by_litert_torch(tiny: Any) -> Any:
    """The tiny model as litert-torch writes it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporters, "_by_onnx2tf", refuse)
        return tiny.backend.export(
            tiny.module, tiny.spec, tiny.samples[:2], store=tiny.store, scheme=Scheme(), emit=ignore_events
        )


@needs_litert_torch
@pytest.mark.slow
def test_litert_torch_writes_the_same_signature(tiny: Any, by_litert_torch: Any) -> None:
    assert by_litert_torch.producer == by_litert_torch.meta["exporter"] == "litert-torch"
    (mine,), (theirs,) = by_litert_torch.inputs, tiny.artifact.inputs
    assert (mine.shape, mine.dtype, mine.layout) == (theirs.shape, theirs.dtype, theirs.layout)
    assert "onnx_sha256" not in by_litert_torch.meta
    assert any("operator Odd" in note for note in by_litert_torch.meta["exporter_notes"])
    for sample in tiny.samples[:3]:
        (want,), (got,) = (tiny.backend.session(a).run(sample) for a in (tiny.artifact, by_litert_torch))
        np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max())


@needs_litert_torch
@pytest.mark.slow
def test_files_of_litert_torch_are_like_all_files(tiny: Any, by_litert_torch: Any) -> None:
    """They quantise, name no path of this machine, and have no layers to compare with an ONNX file."""
    data = by_litert_torch.path.read_bytes()
    for path in (str(tiny.store.root), str(Path(__file__).parents[3]), str(Path.home())):
        assert path.encode() not in data
    made = tiny.backend.quantize(
        by_litert_torch,
        tiny.samples[:20],
        Scheme(precision="int8", calibration="minmax"),
        refit=False,
        store=tiny.store,
        emit=ignore_events,
    )
    guesses = [int(tiny.backend.session(made).run(s)[0].argmax()) for s in tiny.samples[:40]]
    assert np.mean(np.array(guesses) == np.array(tiny.labels[:40])) > 0.8
    assert tiny.backend.divergence(by_litert_torch, tiny.samples[0], tolerance=1e-9, store=tiny.store) is None


@pytest.mark.slow
def test_token_ids_stay_integers(tiny: Any) -> None:
    """An embedding, two outputs, one of them integers."""
    import torch
    from torch import nn

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.table, self.mix, self.head = (
                nn.Embedding(50, 8),
                nn.GRU(8, 8, batch_first=True),
                nn.Linear(8, 5),
            )

        def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            scores = self.head(self.mix(self.table(ids))[0][:, -1])
            return scores, scores.argmax(1)

    module = Tokens().eval()
    ids = np.random.default_rng(0).integers(0, 50, (4, 1, 7))
    spec = ModelSpec(
        name="tokens",
        source="test",
        sha256="",
        inputs=(TensorSpec(name="ids", shape=(1, 7), dtype="int64"),),
        outputs=(
            TensorSpec(name="output_0", shape=(1, 5), dtype="float32"),
            TensorSpec(name="output_1", shape=(1,), dtype="int64"),
        ),
    )
    artifact = tiny.backend.export(
        module, spec, [[x] for x in ids], store=tiny.store, scheme=Scheme(), emit=ignore_events
    )
    (given,) = artifact.inputs
    assert given.dtype in ("int32", "int64") and given.layout is None
    session = tiny.backend.session(artifact)
    assert session.encode([ids[0]])[0].dtype == given.dtype
    for x in ids:
        scores, best = module(torch.from_numpy(x))
        got = session.run([x])
        np.testing.assert_allclose(got[0], scores.detach().numpy(), atol=1e-5)
        assert int(got[1][0]) == int(best)


@needs_litert_torch
@pytest.mark.slow
def test_what_onnx2tf_cannot_do_litert_torch_does(tiny: Any) -> None:
    import torch
    from torch import nn

    class Speech(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.rnn, self.head = nn.LSTM(6, 8, batch_first=True), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.rnn(x)[0])

    spec = ModelSpec(
        name="speech",
        source="test",
        sha256="",
        inputs=(TensorSpec(name="x", shape=(1, 4, 6), dtype="float32"),),
        outputs=(TensorSpec(name="output", shape=(1, 4, 3), dtype="float32"),),
    )
    x = np.random.default_rng(0).normal(size=(1, 4, 6)).astype(np.float32)
    artifact = tiny.backend.export(
        Speech().eval(), spec, [[x]], store=tiny.store, scheme=Scheme(), emit=ignore_events
    )
    assert artifact.producer == "litert-torch" and artifact.meta["parity"] < 1e-5
    assert artifact.meta["exporter_notes"][0].startswith("onnx2tf: onnx2tf cannot convert the model at")
    assert artifact.inputs[0].shape == (1, 4, 6) and artifact.inputs[0].layout is None
    assert flatbuffer.read_graph(artifact.path).count("TRANSPOSE") == 0
