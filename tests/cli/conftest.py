"""The command line as a user has it: a folder with their own file, and the command's code and texts."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edgekit.cli.main import run

# Models and data with one mistake each, beside the good ones of model.py.
BAD_FILE = """
import os

import torch
from torch import nn

from model import Net, calib, calib_unlabelled, eval, net, train

number = 5


def raises():
    raise RuntimeError("the weights are on holiday")


def exits():
    raise SystemExit(3)


def needs_an_argument(width):
    return net()


def text():
    return "hello"


def chatty():
    print("printed by the user's code")
    os.system("echo printed by a child process")
    return net()


class Flat(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        return self.head(x.flatten(1))


def wrong_width():
    return Flat(10)


def nan_weights():
    model = net()
    with torch.no_grad():
        model.head.weight[0, 0] = float("nan")
    return model


class LogOfNothing(Net):
    def forward(self, image):
        return torch.log(super().forward(image) * 0 - 1)


def nan_outputs():
    return LogOfNothing()


def double():
    return net().double()


class Branches(Net):
    def forward(self, image):
        logits = super().forward(image)
        return logits if image[0, 0, 0, 0] > -2 else -logits


def branches():
    model = Branches()
    model.load_state_dict(net().state_dict())
    return model


class Images(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return self.conv(x)


def images():
    return Images()


class Determinant(nn.Module):
    def forward(self, x):
        return torch.linalg.det(x.mean(1))[:, None].expand(-1, 3)


def determinant():
    return Determinant()


def nhwc():
    return [image.permute(1, 2, 0) for image in calib_unlabelled()]


def pixels():
    return [(image.clamp(-2, 2) * 60 + 125).round() for image in calib_unlabelled()]


def bytes_():
    return [image.to(torch.uint8) for image in pixels()]


def with_nan():
    images = calib_unlabelled()
    images[3][0, 0, 0] = float("nan")
    return images


def ragged():
    return [torch.zeros(3, 16, 16), torch.zeros(3, 17, 16)]


def torn():
    yield calib_unlabelled()[0]
    raise ValueError("row 2 is torn")


def empty():
    return []


def one():
    return calib_unlabelled()[:1]


def nothing():
    return None


def far_labels():
    return [(image, label + 1) for image, label in eval()]


def float_labels():
    return [(image, label + 0.5) for image, label in eval()]


def unlabelled():
    return [image for image, _ in eval()]
"""


@dataclass(frozen=True)
class Said:
    """What a run of the command line gave back."""

    code: int
    out: str
    err: str

    def refusal(self) -> tuple[str, str]:
        """The error and the next step, one line each at the end of stderr; no traceback, stdout empty."""
        assert "Traceback" not in self.err, self.err
        assert self.out == ""
        lines = self.err.splitlines()
        assert sum(line.startswith("error: ") for line in lines) == 1, self.err
        assert lines[-2].startswith("error: ") and lines[-1].startswith("  next: "), self.err
        return lines[-2].removeprefix("error: "), lines[-1].removeprefix("  next: ")


Cli = Callable[..., Said]


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Cli:
    """Run a command line in this process, behind the same error boundary as the console script."""

    def call(*arguments: object) -> Said:
        capfd.readouterr()
        code = run([str(a) for a in arguments])
        out, err = capfd.readouterr()
        return Said(code, out, err)

    return call


@pytest.fixture(scope="session")
def bad_folder(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with model.py (see tiny_model_dir) and bad.py."""
    folder = tmp_path_factory.mktemp("user") / "work"
    shutil.copytree(tiny_model_dir, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "bad.py").write_text(BAD_FILE)
    return folder


@pytest.fixture
def work(bad_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The user's current folder; what a test leaves under out/ is removed."""
    monkeypatch.chdir(bad_folder)
    yield bad_folder
    shutil.rmtree(bad_folder / "out", ignore_errors=True)


@pytest.fixture
def own_store(tiny_build: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of the test's own, set for the command line: no steps, but compiled programs for pi4."""
    root = tmp_path / "store"
    root.mkdir()
    if (tiny_build.store.root / "native").is_dir():
        (root / "native").symlink_to(tiny_build.store.root / "native")
    monkeypatch.setenv("EDGEKIT_CACHE", str(root))
    return root


@pytest.fixture
def copied_store(tiny_build: Any, own_store: Path) -> Path:
    """The same with the finished steps of ``tiny_build``."""
    for name in ("objects", "steps"):
        shutil.copytree(tiny_build.store.root / name, own_store / name)
    return own_store


@pytest.fixture
def tiny_command(tiny_model_dir: Path) -> list[str]:
    """The command line of ``tiny_build``: every step comes from the session's store."""
    entry = tiny_model_dir / "model.py"
    return [
        *("build", f"{entry}:net", "--profile", "pi4"),
        *("--calib", f"{entry}:calib", "--eval", f"{entry}:eval"),
    ]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mounts file systems of a given size in kilobytes; ``read_only=True`` for one that takes nothing."""
    mounted: list[Path] = []

    def mount(kilobytes: int, *, read_only: bool = False) -> Path:
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        options = f"size={kilobytes}k" + (",ro" if read_only else "")
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            pytest.skip("there is no mount program")
        if done.returncode != 0:
            pytest.skip(f"a small file system cannot be mounted here: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def script() -> list[str]:
    """The start of a command line in a process of its own."""
    return [sys.executable, "-m", "edgekit"]


def heed_interrupts() -> None:
    """For ``preexec_fn``: a job that was started in the background hands on that SIGINT is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def interruptible() -> Callable[[], None]:
    return heed_interrupts
