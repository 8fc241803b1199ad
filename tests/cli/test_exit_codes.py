"""What a user gets for each mistake: one sentence, the next step, the right exit code, no output left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edgekit.cli.main import run

BAD_FILE = """
import numpy as np
import torch
from torch import nn


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.conv(x).relu().mean((2, 3)))


def net():
    return Plain().eval()


def raises():
    raise RuntimeError("the weights are on holiday")


def broken():
    class Broken(Plain):
        def forward(self, x):
            return self.head(x)

    return Broken().eval()


def nan():
    made = Plain().eval()
    with torch.no_grad():
        made.conv.weight[0, 0, 0, 0] = float("nan")
    return made


def unsupported():
    class Sorted(nn.Module):
        def forward(self, x):
            return torch.linalg.det(x.mean(1, keepdim=True))

    return Sorted().eval()


def not_a_model():
    return "hello"


def good():
    rng = np.random.default_rng(0)
    return [(rng.standard_normal((3, 16, 16), dtype="float32"), i % 3) for i in range(24)]


def other():
    rng = np.random.default_rng(1)
    return [(rng.standard_normal((3, 16, 16), dtype="float32"), i % 3) for i in range(24)]


def nhwc():
    return [(x.transpose(1, 2, 0).copy(), y) for x, y in good()]


def raw():
    rng = np.random.default_rng(2)
    return [(rng.integers(0, 256, (3, 16, 16)).astype("float32"), i % 3) for i in range(24)]


def far_labels():
    return [(x, 7) for x, _ in other()]


def unlabelled():
    return [x for x, _ in other()]


def empty():
    return []
"""


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's working folder with bad.py."""
    (tmp_path / "bad.py").write_text(BAD_FILE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


BASE = ["--profile", "pi4", "--input-shape", "1,3,16,16"]
CASES: dict[str, tuple[list[str], int, str]] = {
    "unknown profile": (["bad.py:net", "--profile", "pi44"], 2, "there is no profile named 'pi44'"),
    "abstract profile": (["bad.py:net", "--profile", "generic_arm64"], 2, "generic_arm64"),
    "missing file": (["nothing.py:net", *BASE], 2, "nothing.py"),
    "missing callable": (["bad.py:nett", *BASE], 2, "nett"),
    "callable raises": (["bad.py:raises", *BASE], 2, "the weights are on holiday"),
    "not a model": (["bad.py:not_a_model", *BASE], 2, "str"),
    "forward fails": (["bad.py:broken", *BASE], 2, "bad.py"),
    "NaN weights": (["bad.py:nan", *BASE], 2, "conv.weight"),
    "wrong shape": (["bad.py:net", "--profile", "pi4", "--input-shape", "1,4,16,16"], 2, "(1, 4, 16, 16)"),
    "no shape": (["bad.py:net", "--profile", "pi4", "--input-shape", "a,b"], 2, "is not a shape"),
    "NHWC": (["bad.py:net", *BASE, "--calib", "bad.py:nhwc"], 2, "channels-last"),
    "empty data": (["bad.py:net", *BASE, "--calib", "bad.py:empty"], 2, "bad.py:empty"),
    "labels out of range": (
        ["bad.py:net", *BASE, "--calib", "bad.py:good", "--eval", "bad.py:far_labels"],
        2,
        "label",
    ),
    "labels missing": (
        ["bad.py:net", *BASE, "--calib", "bad.py:good", "--eval", "bad.py:unlabelled"],
        2,
        "label",
    ),
    "same source twice": (
        ["bad.py:net", *BASE, "--calib", "bad.py:good", "--eval", "bad.py:good"],
        2,
        "both calibration and evaluation",
    ),
    "unknown setting": (["bad.py:net", *BASE, "--set", "prune.ration=0.3"], 2, "prune.ration"),
    "setting out of range": (["bad.py:net", *BASE, "--set", "prune.ratio=3"], 2, "between 0 and 0.95"),
    "int8 without data": (["bad.py:net", *BASE, "--set", "quantize.precision=int8"], 2, "calibration data"),
    "pruning without training": (["bad.py:net", *BASE, "--set", "prune.ratio=0.3"], 2, "training data"),
    "drop without labels": (["bad.py:net", *BASE, "--max-drop", "1"], 2, "--max-drop needs"),
    "unknown target": (["bad.py:net", *BASE, "--target", "coreml"], 4, "no target 'coreml'"),
    "another device's target": (["bad.py:net", *BASE, "--target", "tflite/gpu"], 4, "no target 'tflite/gpu'"),
    "unknown device": (["bad.py:net", *BASE, "--device", "pigeon"], 2, "unknown device 'pigeon'"),
    "adb": (["bad.py:net", *BASE, "--device", "adb:-a"], 2, "is not adb:SERIAL"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_mistake_is_named_and_leaves_nothing(
    case: str, user: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments, code, words = CASES[case]
    assert run(["-q", "build", *arguments]) == code
    said = capfd.readouterr()
    errors = [line for line in said.err.splitlines() if line.lower().startswith("error:")]
    assert len(errors) == 1 and words in errors[0], said.err
    assert "Traceback" not in said.err and said.out == ""
    assert not (user / "out").exists()


def test_an_unknown_key_of_a_profile_is_named_with_its_place(
    user: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (user / "mine.toml").write_text('id = "mine"\nextends = "pi4"\ntitle = "x"\n[memory]\nmibb = 12\n')
    assert run(["-q", "build", "bad.py:net", "--profile", "mine.toml", "--input-shape", "1,3,16,16"]) == 2
    said = capfd.readouterr().err
    assert "mine.toml" in said and "memory.mibb" in said and "mib?" in said


def test_raw_pixels_are_warned_about(user: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["-q", "plan", "bad.py:net", *BASE, "--calib", "bad.py:raw"]) == 0
    assert "look like raw 0..255 pixels" in capfd.readouterr().out


def test_an_operator_without_a_kernel_is_named(user: Path, capfd: pytest.CaptureFixture[str]) -> None:
    given = ["--calib", "bad.py:good", "--task", "generic", "--target", "tflite"]
    code = run(["-q", "build", "bad.py:unsupported", *BASE, *given])
    said = capfd.readouterr().err
    assert code == 4 and "det" in said.lower(), said
    assert not (user / "out").exists()


def test_without_qemu_an_explicit_emulator_is_a_missing_dependency(
    user: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(user))
    assert run(["-q", "build", "bad.py:net", *BASE, "--calib", "bad.py:good", "--device", "emulator"]) == 3
    said = capfd.readouterr().err
    assert "qemu-aarch64" in said and "apt-get install" in said
    assert not (user / "out").exists()


@pytest.mark.parametrize(
    ("name", "content"), [("junk.tflite", b"this is text"), ("cut.tflite", b"\x1c\0\0\0TFL3\0\0")]
)
@pytest.mark.parametrize("command", ["inspect", "bench"])
def test_junk_files_are_refused(
    command: str, name: str, content: bytes, user: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (user / name).write_bytes(content)
    assert run([command, name]) in (2, 4)
    said = capfd.readouterr().err
    assert name in said and "Traceback" not in said


def test_an_unknown_command_suggests_the_nearest(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["biuld"]) == 2
    assert "Did you mean build" in capfd.readouterr().err


def test_a_bug_says_so(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    def explode(*_: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("edgekit.store.Store.usage", explode)
    assert run(["cache", "size"]) == 70
    said = capfd.readouterr().err
    assert "Traceback" in said and "a bug in edgekit" in said


@pytest.fixture
def in_folder_of(tiny_build: object) -> Callable[[], Path]:
    return lambda: tiny_build.built.folder  # type: ignore[attr-defined]


def test_the_commands_on_a_bundle_print_one_json_document(
    in_folder_of: Callable[[], Path], capfd: pytest.CaptureFixture[str]
) -> None:
    import json

    folder = str(in_folder_of())
    for command in (["inspect", folder], ["verify", folder], ["bench", folder, "--runs", "3"]):
        assert run([*command, "--json"]) == 0
        assert isinstance(json.loads(capfd.readouterr().out), dict)
    for command in (["profiles", "list"], ["cache", "size"], ["doctor"]):
        assert run([*command, "--json"]) == 0
        json.loads(capfd.readouterr().out)


def test_a_tampered_bundle_is_refused(
    in_folder_of: Callable[[], Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import shutil

    shutil.copytree(in_folder_of() / "bundle", tmp_path / "bundle")
    with (tmp_path / "bundle" / "model.tflite").open("ab") as model:
        model.write(b"x")
    assert run(["verify", str(tmp_path / "bundle")]) in (2, 5)
    assert "model.tflite" in capfd.readouterr().err
