"""Quantisation-aware training: what is played, what is trained, and that files compute the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("torchao")
pytest.importorskip("executorch")
import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402

from edgekit.compress.finetune import Settings, finetune  # noqa: E402
from edgekit.compress.qat import QuantizationAware, qat, seconds_per_epoch  # noqa: E402
from edgekit.errors import StepFailed, UserError  # noqa: E402
from edgekit.sources.arrays import Data, make_data  # noqa: E402
from edgekit.types import Scheme, ignore_events  # noqa: E402


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(x + self.bn2(self.conv2(x)))
        return self.head(x.mean((2, 3)))


def _data(role: Any, n: int, seed: int) -> Data:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, n)
    x = rng.normal(size=(n, 3, 8, 8)).astype(np.float32) + labels[:, None, None, None].astype(np.float32)
    return make_data(role, [x], labels, source="d")


TRAIN, CALIB = _data("train", 96, 0), _data("calib", 40, 1)


def _net() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Net()
        net(torch.from_numpy(TRAIN.inputs[0]))
        return net.eval()


@pytest.fixture(scope="module")
def ready() -> nn.Module:
    """A net that has learned its task: what quantisation-aware training is meant to begin from."""
    settings = Settings(epochs=10, lr=0.05, batch_size=16)
    return finetune(_net(), None, TRAIN, task="classification", settings=settings, val=TRAIN).module


@pytest.fixture(scope="module")
def trained(ready: nn.Module) -> QuantizationAware:
    settings = Settings(epochs=3, lr=0.005, batch_size=16, freeze_bn=0.5)
    return qat(ready, None, TRAIN, CALIB, task="classification", settings=settings, val=TRAIN)


def test_weights_and_ranges_are_trained_and_the_structure_stays(
    ready: nn.Module, trained: QuantizationAware
) -> None:
    net = ready
    assert repr(trained.module) == repr(net)
    assert trained.module.state_dict().keys() == net.state_dict().keys()
    moved = [k for k, t in net.state_dict().items() if not torch.equal(t, trained.module.state_dict()[k])]
    assert {"conv1.weight", "bn1.weight", "head.bias", "bn2.running_mean"} <= set(moved)
    assert trained.start.removeprefix("equalised ") in ("minmax", "mse") and trained.best_epoch > 0
    assert trained.history[trained.best_epoch].val_loss < trained.history[0].val_loss
    assert len(trained.ranges) == len({(r.seen_lo, r.seen_hi) for r in trained.ranges}) >= 5
    for r in trained.ranges:
        assert r.lo <= 0 <= r.hi
        assert (r.seen_lo == 0) == (r.lo == 0), "ranges that begin at zero go on doing so"


def test_what_is_played_is_near_the_float_model_but_on_a_grid(trained: QuantizationAware) -> None:
    x = torch.from_numpy(CALIB.inputs[0])
    with torch.no_grad():
        played, plain = trained.simulated(x), trained.module(x)
    noise = float((played - plain).square().sum() / plain.square().sum())
    assert 1e-8 < noise < 1e-2
    last = min(
        trained.ranges,
        key=lambda r: abs(r.seen_hi - float(plain.max())) + abs(r.seen_lo - float(plain.min())),
    )
    steps = played / ((last.hi - last.lo) / 255)
    assert torch.allclose(steps, steps.round(), atol=1e-2), "outputs lie on the grid of their trained range"


def test_the_time_of_an_epoch_is_told_from_a_few_batches_of_a_copy(ready: nn.Module) -> None:
    before = {k: t.clone() for k, t in ready.state_dict().items()}
    many = TRAIN.take([i % len(TRAIN) for i in range(100 * len(TRAIN))])
    settings = Settings(epochs=3, lr=0.005, batch_size=16)
    few, all_of_them = (
        seconds_per_epoch(ready, None, d, CALIB, task="classification", settings=settings)
        for d in (TRAIN, many)
    )
    assert 0 < few < all_of_them, "it grows with the data, and the time to tell it does not"
    assert all(torch.equal(t, before[k]) for k, t in ready.state_dict().items())


@pytest.mark.slow
def test_batch_norm_freezes_and_equal_seeds_give_equal_weights() -> None:
    settings = Settings(epochs=1, lr=0.01, batch_size=16, freeze_bn=0.0)
    first, again = (
        qat(_net(), None, TRAIN, CALIB, task="classification", settings=settings, val=CALIB) for _ in range(2)
    )
    assert torch.equal(first.module.bn1.running_mean, _net().bn1.running_mean)
    assert not torch.equal(first.module.bn1.weight, _net().bn1.weight)
    assert all(
        torch.equal(a, b) for a, b in zip(first.module.parameters(), again.module.parameters(), strict=True)
    )
    assert first.ranges == again.ranges


def test_models_that_cannot_be_trained_so_say_why() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(192, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(x.flatten(1) if float(x.sum()) > 0 else -x.flatten(1))

    settings = Settings(epochs=1, batch_size=16)
    with pytest.raises(StepFailed, match=r"torch\.export cannot trace"):
        qat(Branches(), None, TRAIN, CALIB, task="classification", settings=settings)
    with pytest.raises(StepFailed, match="nothing that int8 runtimes quantise"):
        qat(
            nn.Sequential(nn.Flatten(), nn.BatchNorm1d(192)),
            _net(),
            TRAIN,
            CALIB,
            task="classification",
            settings=settings,
        )
    with pytest.raises(UserError, match="neither labels nor a teacher"):
        qat(_net(), None, TRAIN, CALIB, task="generic", settings=settings)


@pytest.mark.parametrize(
    ("target", "least_db"),
    [("onnx/cpu", 38.0), ("torchscript/qnnpack", 30.0),
     pytest.param("executorch/xnnpack", 45.0, marks=pytest.mark.slow),
     pytest.param("tflite/xnnpack", 45.0, marks=pytest.mark.slow)],
)  # fmt: skip
def test_the_file_computes_what_training_played(
    trained: QuantizationAware, target: str, least_db: float, tmp_path: Path
) -> None:
    """Parity of the fake-quantised model and the artifact; calibrated ranges are further away."""
    from edgekit.backends import get_backend
    from edgekit.sources.models import load_model
    from edgekit.store import Store

    (tmp_path / "m.py").write_text("import torch\ndef net():\n    return torch.nn.Conv2d(3, 4, 3)\n")
    spec = load_model(f"{tmp_path / 'm.py'}:net", calib=CALIB).spec
    runtime, delegate = target.split("/")
    (tmp_path / "store").mkdir()
    backend, store = get_backend(runtime), Store(tmp_path / "store")
    samples = [[CALIB.inputs[0][i : i + 1]] for i in range(len(CALIB))]
    common: dict[str, Any] = {"store": store, "emit": ignore_events}
    floats = backend.export(trained.module, spec, samples[:4], scheme=Scheme(delegate=delegate), **common)
    rows = tuple((r.seen_lo, r.seen_hi, r.lo, r.hi) for r in trained.ranges)
    scheme = Scheme(precision="int8", delegate=delegate, calibration="minmax", trained=rows)
    test = _data("eval", 24, 2).inputs[0]
    with torch.no_grad():
        want = trained.simulated(torch.from_numpy(test)).numpy()

    def distance(scheme: Scheme) -> tuple[float, Any]:
        made = backend.quantize(floats, samples, scheme, refit=True, **common)
        session = backend.session(made)
        got = np.concatenate([session.run([test[i : i + 1]])[0] for i in range(len(test))])
        noise = max(float(((want - got) ** 2).sum()), 1e-12)  # some files compute exactly the same
        return float(10 * np.log10((want**2).sum() / noise)), made

    sqnr, made = distance(scheme)
    assert made.meta["calibration"]["chosen"] == "trained"
    assert sqnr >= least_db
    wider = tuple((*r[:2], 3 * r[2], 3 * r[3]) for r in rows)
    far, _ = distance(Scheme(precision="int8", delegate=delegate, calibration="minmax", trained=wider))
    assert far < sqnr - 3, "the trained ranges have no influence on the file"


def test_batch_norms_keep_their_own_eps_and_momentum() -> None:
    """MobileNetV3 and EfficientNet have 0.001; with small variances torch's default computes another net."""
    from edgekit.compress.simulated import simulate

    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8, eps=1e-3, momentum=0.03), nn.ReLU(),
        nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4, eps=1e-2),
    ).eval()  # fmt: skip
    with torch.no_grad():
        for norm in (net[1], net[4]):
            norm.running_var.copy_(torch.linspace(1e-3, 1e-2, norm.num_features))
    x = torch.from_numpy(TRAIN.inputs[0][:4])
    played = simulate(net, [x], per_channel=True, symmetric=False, weight_max=127)
    played.switch("pass")

    def same(training: bool) -> bool:
        with torch.no_grad():
            ours, theirs = net.train(training)(x), played.train(training)(x)
        return torch.allclose(ours, theirs, rtol=1e-3, atol=1e-3 * float(ours.abs().max()))

    assert all(same(training) for training in (False, True, False))


@pytest.mark.parametrize("weight_max", [64, 127])
def test_weights_are_played_in_the_levels_of_the_files(weight_max: int) -> None:
    from edgekit.compress.simulated import PerChannelWeight, simulate

    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    x = torch.from_numpy(TRAIN.inputs[0][:4])
    played = simulate(net, [x], per_channel=True, symmetric=False, weight_max=weight_max)
    played.switch("simulate")
    (play,) = (part for part in played.modules() if isinstance(part, PerChannelWeight))
    for before, after in zip(net[0].weight, play(net[0].weight), strict=True):
        levels = after.detach() / (float(before.detach().abs().max()) / weight_max)
        assert float(levels.abs().max()) == pytest.approx(weight_max)
        assert torch.allclose(levels, levels.round(), atol=1e-3)
