"""A model that post-training ranges cannot save: the search trains, and its recipe trains again."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from edgekit.build import Request, Sources, build, trained
from edgekit.build.trained import train_for_search
from edgekit.errors import StepFailed
from edgekit.recipe import load_recipe
from edgekit.store import Store
from edgekit.tune import LeftOut
from edgekit.types import Event, ignore_events

# Channels of the depthwise layer reach from 1 to 1500, and the layer behind it evens them out: with one scale
# for all of them int8 has no level left for the quiet ones.
MODEL_FILE = """\
from pathlib import Path

import torch
from torch import nn

HERE = Path(__file__).parent


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.wide = nn.Conv2d(16, 16, 3, stride=2, padding=1, groups=16)
        self.mix = nn.Conv2d(16, 24, 1)
        self.head = nn.Linear(24, 3)

    def forward(self, image):
        x = torch.relu(self.mix(self.wide(self.stem(image))))
        return self.head(x.mean((2, 3)))

    def spread(self):
        scales = 1500 ** torch.linspace(0, 1, 16)
        with torch.no_grad():
            self.wide.weight *= scales[:, None, None, None]
            self.wide.bias *= scales
            self.mix.weight /= scales[None, :, None, None]


def net():
    from safetensors.torch import load_file

    model = Net()
    model.load_state_dict(load_file(HERE / "weights.safetensors"))
    return model


def _stripes(n, seed):
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 3
    rows, columns = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    planes = torch.stack([rows, columns, (rows + columns) / 1.4])[labels]
    phase = 6.3 * torch.rand(n, 1, 1, generator=g)
    waves = torch.sin(planes * 1.3 + phase)[:, None].expand(n, 3, 16, 16)
    return list(zip(waves + 2.5 * torch.randn(n, 3, 16, 16, generator=g), labels.tolist()))


def train():
    return _stripes(200, seed=1)


def calib():
    return _stripes(40, seed=2)


def eval():
    return _stripes(90, seed=3)
"""


class Hard:
    """Builds of the hard net for the host, with a drop of three points allowed."""

    def __init__(self, folder: Path, out: Path) -> None:
        self.settings = {
            "prune.ratio": 0.0,
            "search.rungs": ("qat", "wider"),
            "search.qat_epochs": 2,
            "qat.lr": 0.02,
        }
        self.entry, self.out = folder / "model.py", out
        self.sources = Sources(
            model=f"{self.entry}:net",
            **{role: f"{self.entry}:{role}" for role in ("calib", "eval", "train")},  # type: ignore[arg-type]
        )

    def run(self, name: str, *, sources: Sources | None = None, **wishes: Any) -> Any:
        request = Request(target="onnx/cpu", **{"max_drop": 3.0, "settings": self.settings, **wishes})
        out = self.out / name
        (out / "store").mkdir(parents=True)
        return build(sources or self.sources, "generic_x86_64", request, out=out, store=Store(out / "store"))


@pytest.fixture(scope="module")
def hard(tmp_path_factory: pytest.TempPathFactory) -> Hard:
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("hard")
    (folder / "model.py").write_text(MODEL_FILE)
    made = importlib.util.spec_from_file_location("edgekit_tests_hard_model", folder / "model.py")
    assert made is not None and made.loader is not None
    user = importlib.util.module_from_spec(made)
    made.loader.exec_module(user)
    images, labels = zip(*user.train(), strict=True)
    x, y = torch.stack(images), torch.tensor(labels)
    net = user.Net().train()
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    for _ in range(25):
        for batch in torch.randperm(len(x)).split(50):
            loss = torch.nn.functional.cross_entropy(net(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    net.eval().spread()
    save_file(net.state_dict(), folder / "weights.safetensors")
    return Hard(folder, tmp_path_factory.mktemp("built"))


@pytest.fixture(scope="module")
def mended(hard: Hard) -> Any:
    return hard.run("mended")


@pytest.mark.slow
def test_training_mends_what_post_training_ranges_lose(mended: Any) -> None:
    report = mended.report
    assert mended.status == "ok", report["search"]
    planned, found = report["search"]["points"]
    assert planned["drop"] > 10 and not planned["passed"], "else this net proves nothing"
    assert found["rung"] == "qat" and found["chosen"] and found["drop"] <= 3.0
    assert found["kept"] == [] and found["precision"] == "int8" and found["seconds"] > 0
    assert "quantisation-aware training holds the gates" in report["search"]["reason"]
    assert report["coverage"]["int8_share"] == 100.0
    assert report["accuracy"]["drop"] == pytest.approx(found["drop"])


@pytest.mark.slow
def test_the_report_shows_the_training_and_the_page_its_point(mended: Any) -> None:
    section = mended.report["pruning"]["qat"]
    assert section["epochs"] == 2 and len(section["history"]) == 3
    assert section["start"].startswith("equalised"), "ranges that reach so far are evened out first"
    assert mended.report["calibration"]["chosen"] == "trained"
    page = (mended.folder / "report.html").read_text()
    assert "quantisation-aware training, 2 epochs" in page and "scatter" in page
    assert 'id="rungs"' in page


@pytest.mark.slow
def test_the_recipe_trains_again_and_gives_the_same_file(mended: Any, hard: Hard) -> None:
    recipe = load_recipe(mended.folder / "recipe.toml")
    assert recipe.settings["qat.epochs"] == 2 and recipe.settings["search.rungs"] == ()
    again = hard.run("again", settings=recipe.settings, max_drop=recipe.max_drop)
    assert again.status == "ok" and again.report["search"] is None
    name = "bundle/model.onnx"
    assert (again.folder / name).read_bytes() == (mended.folder / name).read_bytes()


@pytest.mark.slow
def test_without_training_data_the_reason_says_so(hard: Hard) -> None:
    sources = Sources(model=f"{hard.entry}:net", calib=f"{hard.entry}:calib", eval=f"{hard.entry}:eval")
    built = hard.run("untrained", sources=sources)
    assert [p["rung"] for p in built.report["search"]["points"]] == ["int8", "wider"]
    left_out = "quantisation-aware training was left out: no training data was given (--train)"
    assert left_out in built.report["search"]["reason"]
    assert "--train" in (built.folder / "recipe.toml").read_text()


class Slow:
    """A Compressed whose training takes ``each`` seconds an epoch, and nothing is in its cache."""

    def __init__(self, each: float, *, known: bool = False) -> None:
        self.each, self.known = each, known
        self.asked: list[int] = []
        self.ended: Callable[[Event], None] | None = None
        self.sha256 = "0" * 64

    def training_known(self, config: Any) -> bool:
        return self.known

    def training_seconds(self, config: Any) -> float:
        return self.each

    def trained(self, config: Any, emit: Any = None) -> Any:
        self.asked.append(config["epochs"])
        self.ended = emit
        raise StepFailed("enough for a test")


@pytest.mark.parametrize(("each", "asked"), [(1.0, 5), (30.0, 3), (99.0, 1)])
def test_the_time_that_is_left_says_how_many_epochs_are_trained(each: float, asked: int) -> None:
    slow: Any = Slow(each)
    lowering: Any = SimpleNamespace(runner=SimpleNamespace(emit=ignore_events))
    with pytest.raises(StepFailed, match="enough"):
        train_for_search(lowering, slow, {"epochs": 5}, time.monotonic() + 115)
    assert slow.asked == [asked]


def test_not_even_one_epoch_is_a_reason() -> None:
    slow: Any = Slow(200.0)
    lowering: Any = SimpleNamespace(runner=SimpleNamespace(emit=ignore_events))
    with pytest.raises(LeftOut, match=r"an epoch takes about 200 s, and 1\d\d s of the time budget are left"):
        train_for_search(lowering, slow, {"epochs": 5}, time.monotonic() + 115)
    assert slow.asked == []


def test_training_ends_with_the_time_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    slow: Any = Slow(1.0)
    heard: list[Event] = []
    now = [0.0]
    monkeypatch.setattr(trained, "time", SimpleNamespace(monotonic=lambda: now[0]))
    lowering: Any = SimpleNamespace(runner=SimpleNamespace(emit=heard.append))
    with pytest.raises(StepFailed, match="enough"):
        train_for_search(lowering, slow, {"epochs": 5}, 100.0)
    event = Event(kind="progress", step="qat")
    now[0] = 99.0
    slow.ended(event)
    now[0] = 101.0
    with pytest.raises(StepFailed, match="time budget ended"):
        slow.ended(event)
    assert heard == [event, event]


def test_what_was_trained_before_is_taken_whole() -> None:
    slow: Any = Slow(200.0, known=True)
    with pytest.raises(StepFailed, match="enough"):
        train_for_search(SimpleNamespace(), slow, {"epochs": 5}, time.monotonic() + 1)  # type: ignore[arg-type]
    assert slow.asked == [5] and slow.ended is None
