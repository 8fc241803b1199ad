"""Files of modules that FX itself cannot trace, with operators of all kinds."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from edgekit.errors import Unsupported, UserError
from edgekit.types import Scheme, ignore_events


class ShapedFlow(nn.Module):
    """Control flow on shapes, "same" padding as Keras has it, in-place sums, ReLU6 before a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, stride=2)
        self.b = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.c = nn.Conv2d(16, 16, 1)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Any) -> Any:
        rows = x.shape[2] % 2
        left = F.relu6(self.norm(self.a(F.pad(x, (0, 1, 0, 1) if rows == 0 else (1, 1, 1, 1)))))
        right = F.hardtanh(self.b(x), 0.0, 6.0)
        y = torch.cat([left, right], 1)
        z = self.c(y)
        z += y
        first, second = z.chunk(2, 1)
        z = torch.cat([F.silu(second), torch.sigmoid(first) * first], 1)
        return self.head(F.max_pool2d(z, 2).mean((2, 3)))


def test_a_model_that_fx_cannot_trace_is_whole_int8(make: Callable[..., Any]) -> None:
    made = make(ShapedFlow, (1, 3, 16, 16))
    with torch.no_grad():
        want = made.module(torch.from_numpy(made.samples[0][0])).numpy()
    got = made.backend.session(made.artifact).run(made.samples[0])[0]
    np.testing.assert_allclose(got, want, atol=1e-5)
    int8 = made.quantized()
    assert set(made.precisions(int8).values()) == {"int8"}
    assert made.sqnr(int8) > 25
    assert list(made.precisions(int8)) == list(made.precisions(made.artifact))
    facts, complaints = made.backend.check(int8, Scheme(precision="int8"))
    assert facts["int8_share"] == 100 and facts["conversions"] == 2 and not complaints


def test_batch_norm_is_folded_and_layers_keep_their_names(make: Callable[..., Any]) -> None:
    made = make(ShapedFlow, (1, 3, 16, 16))
    units = {u.name: u for u in made.backend.units(made.artifact)}
    assert {"a", "b", "c", "head"} <= set(units)
    assert not any("norm" in name for name in units)
    assert units["a"].macs == 8 * 8 * 8 * 27 and units["head"].macs == 80
    assert units["a"].weight_bytes == 4 * (8 * 27 + 8)


@pytest.mark.parametrize("kept", ["a", "c", "head", "max_pool2d", "cat"])
def test_any_unit_can_stay_in_float(make: Callable[..., Any], kept: str) -> None:
    made = make(ShapedFlow, (1, 3, 16, 16))
    mixed = made.precisions(made.quantized(overrides={kept: "float32"}))
    assert mixed.pop(kept) == "float32"
    assert set(mixed.values()) == {"int8"}


def test_an_override_of_no_unit_is_told(make: Callable[..., Any]) -> None:
    made = make(ShapedFlow, (1, 3, 16, 16))
    with pytest.raises(UserError, match="no unit 'absent'"):
        made.quantized(overrides={"absent": "float32"})


def test_per_channel_weights_pay(make: Callable[..., Any]) -> None:
    def uneven() -> nn.Module:
        net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        with torch.no_grad():
            net[0].weight *= torch.logspace(0, 1.3, 8).reshape(-1, 1, 1, 1)
            net[2].weight /= torch.logspace(0, 1.3, 8).reshape(1, -1, 1, 1)
        return net

    made = make(uneven, (1, 3, 8, 8))
    assert made.sqnr(made.quantized(per_channel=True)) > made.sqnr(made.quantized(per_channel=False)) + 1


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(20, 64, num_layers=2, batch_first=True)
        self.gru = nn.GRU(64, 64, batch_first=True, bidirectional=True)
        self.head = nn.Linear(128, 80)

    def forward(self, x: Any, state: Any) -> Any:
        y, (hidden, _) = self.lstm(x, (state, torch.zeros_like(state)))
        y, _ = self.gru(y)
        return self.head(y[:, -1]), hidden


@pytest.mark.parametrize("precision", ["dynamic", "int8"])
def test_recurrent_layers_get_int8_weights(make: Callable[..., Any], precision: str) -> None:
    made = make(Recurrent, (1, 6, 20), (2, 1, 64))
    small = made.quantized(precision)
    found = made.precisions(small)
    assert found["lstm"] == found["gru"] == "dynamic"
    assert found["head"] == precision
    assert small.bytes < made.artifact.bytes / 2.5
    assert made.sqnr(small) > 25
    assert [u.macs for u in made.backend.units(small)] == [u.macs for u in made.backend.units(made.artifact)]
    recurrent = next(u for u in made.backend.units(small) if u.name == "lstm")
    assert recurrent.macs == 6 * 4 * 64 * (20 + 64 + 64 + 64)


def test_files_hold_no_paths_and_no_dates(make: Callable[..., Any]) -> None:
    made = make(ShapedFlow, (1, 3, 16, 16))
    for artifact in (made.artifact, made.quantized()):
        with zipfile.ZipFile(artifact.path) as archive:
            assert {info.date_time[0] for info in archive.infolist()} == {1980}
            data = b"".join(archive.read(name) for name in archive.namelist())
        assert b".py" not in data.replace(b"graph_module.py", b"") and b"/torch/nn" not in data


def test_the_engine_and_the_warnings_of_others_are_left_alone(
    make: Callable[..., Any], recwarn: pytest.WarningsRecorder, capfd: pytest.CaptureFixture[str]
) -> None:
    before = torch.backends.quantized.engine
    made = make(ShapedFlow, (1, 3, 16, 16))
    made.outputs(made.quantized())
    assert torch.backends.quantized.engine == before
    assert [str(w.message) for w in recwarn] == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # of the control flow on shapes
def test_a_torchscript_module_is_a_source_too(make: Callable[..., Any]) -> None:
    made = make(ShapedFlow, (1, 3, 16, 16))
    traced = torch.jit.trace(made.module, torch.from_numpy(made.samples[0][0]), check_trace=False)
    again = made.backend.export(
        traced, made.spec, made.samples, store=made.store, scheme=Scheme(), emit=ignore_events
    )
    assert again.sha256 == made.artifact.sha256


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_foreign_and_damaged_files_are_refused(make: Callable[..., Any], tmp_path: Path) -> None:
    made = make(ShapedFlow, (1, 3, 16, 16))
    backend = made.backend
    traced = torch.jit.trace(made.module, torch.from_numpy(made.samples[0][0]), check_trace=False)
    traced.save(str(tmp_path / "foreign.pt"))
    with pytest.raises(Unsupported, match="shapes of its inputs") as caught:
        backend.open_file(tmp_path / "foreign.pt")
    assert "--input-shape" in (caught.value.hint or "")
    torch.save(made.module.state_dict(), tmp_path / "weights.pt")
    with pytest.raises(UserError, match="not a TorchScript file"):
        backend.open_file(tmp_path / "weights.pt")
    data = made.artifact.path.read_bytes()
    (tmp_path / "cut.pt").write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="damaged"):
        backend.open_file(tmp_path / "cut.pt")


def test_writing_into_a_slice_is_saved_as_traced(make: Callable[..., Any]) -> None:
    class Assigns(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Any) -> Any:
            y = self.conv(x)
            y[:, 0].mul_(2.0)
            return y

    made = make(Assigns, (1, 3, 8, 8))
    (note,) = made.artifact.meta["exporter_notes"]
    assert "in place" in note
    with torch.no_grad():
        want = made.module(torch.from_numpy(made.samples[0][0])).numpy()
    np.testing.assert_allclose(made.backend.session(made.artifact).run(made.samples[0])[0], want, atol=1e-6)
    with pytest.raises(Unsupported, match="in place"):
        made.quantized()
