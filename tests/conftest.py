"""What every test shares: a sealed home, a tiny model that has learnt something, and one real build of it."""

from __future__ import annotations

import importlib.util
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Two workers share the cores: threads of one would wait for those of the other.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch  # at once: its generator starts at a random place when a test brings it in
from boards.fixtures import (  # noqa: F401 - fixtures
    adb_server,
    android_phone,
    arm64_namespace,
    arm64_packages,
    board,
    host_account,
    make_machine,
    ssh_client,
)

ROOT = Path(__file__).resolve().parents[1]

# A user's own file: a small residual net with batch norm, and data that it can learn in a second.
MODEL_FILE = '''\
from pathlib import Path

import torch
from torch import nn

HERE = Path(__file__).parent


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.down = nn.Sequential(
            nn.Conv2d(16, 24, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(24), nn.ReLU()
        )
        self.same = nn.Sequential(nn.Conv2d(24, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24))
        self.head = nn.Linear(24, 3)

    def forward(self, image):
        x = self.down(self.stem(image))
        x = torch.relu(x + self.same(x))
        return self.head(x.mean((2, 3)))


def net():
    from safetensors.torch import load_file

    model = Net()
    model.load_state_dict(load_file(HERE / "weights.safetensors"))
    return model


def _stripes(n, seed):
    """(image, label): horizontal, vertical or diagonal waves of any phase, under noise."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 3
    rows, columns = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    planes = torch.stack([rows, columns, (rows + columns) / 1.4])[labels]
    phase = 6.3 * torch.rand(n, 1, 1, generator=g)
    waves = torch.sin(planes * 1.3 + phase)[:, None].expand(n, 3, 16, 16)
    images = waves + 3.5 * torch.randn(n, 3, 16, 16, generator=g)
    return list(zip(images, labels.tolist()))


def train():
    return _stripes(300, seed=1)


def calib():
    return _stripes(60, seed=2)


def eval():
    return _stripes(150, seed=3)


def calib_unlabelled():
    return [image for image, _ in calib()]
'''


_LONG = {"slow", "emulator", "realdata"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With several workers (pytest-xdist) files with long tests come first, so that workers end together."""
    if not os.environ.get("PYTEST_XDIST_WORKER"):
        return
    long = {item.path for item in items if any(item.get_closest_marker(m) for m in _LONG)}
    items.sort(key=lambda item: item.path not in long)


def _seed() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_fixture_setup() -> Generator[None, object, object]:
    """Every fixture draws from fresh global generators, and leaves its reader's as they were: weights that a
    module initialises must not depend on which tests ran before, or on who asked for a fixture first."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    _seed()
    try:
        return (yield)
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call() -> None:
    """So does every test."""
    _seed()


_PASSED_ON = (
    "EDGEKIT_REALDATA",
    "EDGEKIT_REQUIRE_EMULATOR",
    "EDGEKIT_REQUIRE_LINKS",
    "EDGEKIT_UPDATE_GOLDEN",
    "EDGEKIT_LITERT_AARCH64_WHEEL",
    "EDGEKIT_EXECUTORCH_AARCH64_WHEEL",
)


@pytest.fixture(scope="session", autouse=True)
def sealed_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """No test, and nothing that it starts, sees the user's home, caches or settings of edgekit."""
    home = tmp_path_factory.mktemp("home")
    pip_cache = _pip_cache()
    with pytest.MonkeyPatch.context() as patch:
        for name in [n for n in os.environ if n.startswith("EDGEKIT_") and n not in _PASSED_ON]:
            patch.delenv(name)
        patch.setenv("HOME", str(home))
        for name in ("CACHE", "CONFIG", "DATA", "STATE"):
            patch.setenv(f"XDG_{name}_HOME", str(home / name.lower()))
        patch.setenv("EDGEKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        if pip_cache is not None:  # downloads only: what pip keeps there has no influence on a result
            patch.setenv("PIP_CACHE_DIR", pip_cache)
        yield home


def _pip_cache() -> str | None:
    command = [sys.executable, "-m", "pip", "cache", "dir"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None if done.returncode == 0 else None


@pytest.fixture(scope="session")
def realdata() -> Path:
    """The folder with real models and data: its entry.py gives both."""
    named = os.environ.get("EDGEKIT_REALDATA")
    if not named:
        pytest.skip("EDGEKIT_REALDATA names no folder with real models and data")
    folder = Path(named)
    assert (folder / "entry.py").is_file(), f"EDGEKIT_REALDATA={named} has no entry.py"
    return folder


@pytest.fixture(scope="session")
def require_tools() -> Callable[..., None]:
    """Skip where one of the named programs is missing; fail where the job promises the emulator."""

    def require(*tools: str) -> None:
        missing = [tool for tool in tools if shutil.which(tool) is None]
        if missing and os.environ.get("EDGEKIT_REQUIRE_EMULATOR") == "1":
            pytest.fail(f"EDGEKIT_REQUIRE_EMULATOR=1, but {', '.join(missing)} is missing")
        if missing:
            pytest.skip(f"not installed: {', '.join(missing)}")

    return require


@pytest.fixture(scope="session")
def arm64_tools(require_tools: Callable[..., None]) -> None:
    """All that compiles and runs arm64 programs here."""
    require_tools("qemu-aarch64", "aarch64-linux-gnu-gcc", "aarch64-linux-gnu-g++", "cc", "c++")


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with model.py: ``net`` (trained), ``train``, ``calib``, ``eval`` and ``calib_unlabelled``."""
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("tiny")
    (folder / "model.py").write_text(MODEL_FILE)
    made = importlib.util.spec_from_file_location("edgekit_tests_tiny_model", folder / "model.py")
    assert made is not None and made.loader is not None
    user = importlib.util.module_from_spec(made)
    made.loader.exec_module(user)
    images, labels = zip(*user.train(), strict=True)
    x, y = torch.stack(images), torch.tensor(labels)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = user.Net().train()
        optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
        for _ in range(12):
            for batch in torch.randperm(len(x)).split(50):
                loss = torch.nn.functional.cross_entropy(net(x[batch]), y[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    net.eval()
    save_file(net.state_dict(), folder / "weights.safetensors")
    images, labels = zip(*user.eval(), strict=True)
    with torch.inference_mode():
        accuracy = (net(torch.stack(images)).argmax(1) == torch.tensor(labels)).float().mean()
    assert 0.88 < accuracy < 1, "the tiny net has to be good, or accuracy means nothing in the tests"
    return folder


@dataclass(frozen=True)
class TinyBuild:
    """A finished build of the tiny model, and how to repeat it: ``run(out=..., store=...)``."""

    built: Any
    sources: Any
    request: Any
    store: Any
    out: Path

    def run(self, **changes: Any) -> Any:
        from edgekit.build import build

        how = {"out": self.out, "store": self.store, **changes}
        return build(how.pop("sources", self.sources), "pi4", how.pop("request", self.request), **how)


@pytest.fixture(scope="session")
def tiny_build(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> TinyBuild:
    """One int8 build for pi4 with calibration and labelled evaluation data, in the session's store."""
    from edgekit.build import Request, Sources
    from edgekit.store import Store

    entry = tiny_model_dir / "model.py"
    made = TinyBuild(
        built=None,
        sources=Sources(model=f"{entry}:net", calib=f"{entry}:calib", eval=f"{entry}:eval"),
        request=Request(),
        store=Store(),
        out=tmp_path_factory.mktemp("tiny_build"),
    )
    return TinyBuild(made.run(), made.sources, made.request, made.store, made.out)


@dataclass(frozen=True)
class Exported:
    """The tiny model as a backend's float file, with what it was made from."""

    backend: Any
    artifact: Any
    module: Any
    spec: Any
    samples: list[list[Any]]
    """Evaluation samples: one (1, 3, 16, 16) array each."""
    labels: Any
    store: Any


@pytest.fixture(scope="session")
def export_tiny(tiny_model_dir: Path) -> Callable[..., Exported]:
    """The tiny model exported by the backend of a runtime for a delegate, once per session."""
    from edgekit.backends import get_backend
    from edgekit.sources.data import load_data
    from edgekit.sources.models import load_model
    from edgekit.store import Store
    from edgekit.types import Scheme, ignore_events

    made: dict[tuple[str, str], Exported] = {}

    def export(runtime: str, delegate: str = "") -> Exported:
        if (runtime, delegate) not in made:
            backend, store, entry = get_backend(runtime), Store(), tiny_model_dir / "model.py"
            data = load_data(f"{entry}:eval", role="eval")
            model = load_model(f"{entry}:net", calib=data)
            samples = [[data.inputs[0][i : i + 1]] for i in range(len(data))]
            artifact = backend.export(
                model.module,
                model.spec,
                samples[:4],
                store=store,
                scheme=Scheme(delegate=delegate),
                emit=ignore_events,
            )
            made[runtime, delegate] = Exported(
                backend, artifact, model.module, model.spec, samples, data.labels, store
            )
        return made[runtime, delegate]

    return export
