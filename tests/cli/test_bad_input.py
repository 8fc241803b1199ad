"""What each mistake gives: one sentence, the next step, the right exit code, and nothing left behind."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from edgekit.store import Store

Cli = Callable[..., Any]

PI4 = ("--profile", "pi4")
SHAPED = (*PI4, "--input-shape", "1,3,16,16")
CALIB = (*PI4, "--calib", "model.py:calib")
DATA = (*CALIB, "--eval", "model.py:eval")

# Arguments of build, exit code, and what the sentence and the next step say.
MISTAKES: dict[str, tuple[tuple[str, ...], int, str, str]] = {
    "unknown profile": (
        ("model.py:net", "--profile", "pi44"),
        2,
        r"no profile named 'pi44'",
        r"did you mean pi4 or",
    ),
    "profile file missing": (
        ("model.py:net", "--profile", "./my.toml"),
        2,
        r"no profile file my\.toml",
        r"profiles list",
    ),
    "abstract profile": (
        ("model.py:net", "--profile", "generic_arm64"),
        2,
        r"'generic_arm64' is a base for other profiles",
        r"profiles list",
    ),
    "no profile": (("model.py:net",), 2, r"Missing option '--profile'", r"edgekit build --help"),
    "unknown option": (("model.py:net", "--profle", "pi4"), 2, r"Did you mean '--profile'", r"build --help"),
    "model file missing": (("gone.py:net", *DATA), 2, r"no such file: gone\.py", r"check the path"),
    "onnx missing": (("gone.onnx", *DATA), 2, r"no such file: gone\.onnx", r"check the path"),
    "module missing": (("gone.models:net", *DATA), 2, r"importing gone\.models failed", r"in Python"),
    "no callable named": (("model.py", *DATA), 2, r"model\.py names no callable", r"model\.py:NAME"),
    "callable missing": (("bad.py:nett", *DATA), 2, r"bad\.py has no 'nett'", r"did you mean net"),
    "not callable": (("bad.py:number", *DATA), 2, r"is a int, not a callable", r"function or class"),
    "a folder": ((".", *DATA), 2, r"cannot tell what kind of model '\.' is", r"file\.py:callable"),
    "callable raises": (
        ("bad.py:raises", *DATA),
        2,
        r"raises\(\) failed at bad\.py:\d+ \(in raises\): RuntimeError: the weights are on holiday",
        r"on its own",
    ),
    "callable exits": (("bad.py:exits", *DATA), 2, r"exits\(\) failed at .*: SystemExit: 3", r"on its own"),
    "callable with arguments": (
        ("bad.py:needs_an_argument", *DATA),
        2,
        r"missing 1 required positional argument",
        r"on its own",
    ),
    "callable returns no model": (("bad.py:text", *DATA), 2, r"returned a str, not a torch", r"return the"),
    "forward fails": (
        ("bad.py:wrong_width", *DATA),
        2,
        r"forward pass of bad\.py:wrong_width failed at bad\.py:\d+ \(in forward\) .*\(1, 3, 16, 16\)",
        r"--input-shape",
    ),
    "float64 weights": (("bad.py:double", *DATA), 2, r"forward pass of bad\.py:double", r"model\.float\(\)"),
    "NaN weights": (
        ("bad.py:nan_weights", *DATA),
        2,
        r"parameter 'head\.weight' of bad\.py:nan_weights holds 1 NaN",
        r"other weights",
    ),
    "NaN outputs": (("bad.py:nan_outputs", *DATA), 2, r"output 'output' of .* holds 3 NaN", r"log\(0\)"),
    "wrong shape": (
        ("model.py:net", *PI4, "--input-shape", "1,1,16,16"),
        2,
        r"input of shape \(1, 1, 16, 16\)",
        r"--input-shape",
    ),
    "unparsable shape": (
        ("model.py:net", *PI4, "--input-shape", "banana"),
        2,
        r"'banana' is not a shape",
        r"build --help",
    ),
    "empty shape": (("model.py:net", *PI4, "--input-shape", "0,3,16,16"), 2, r"at least 1", r"--help"),
    "impossible shape": (
        ("model.py:net", *PI4, "--input-shape", "1,3,9999999,9999999"),
        2,
        r"does not fit into this machine's memory",
        r"--input-shape",
    ),
    "a batch": (
        ("model.py:net", *PI4, "--input-shape", "8,3,16,16"),
        2,
        r"shape \(8, 3, 16, 16\), but the files that edgekit builds take one sample",
        r"--input-shape 1,3,16,16",
    ),
    "no shape": (("model.py:net", *PI4), 2, r"input shape of model\.py:net is not known", r"--calib"),
    "data missing": (("model.py:net", *PI4, "--calib", "gone.npz"), 2, r"no such data: gone\.npz", r"path"),
    "data raises": (
        ("model.py:net", *PI4, "--calib", "bad.py:torn"),
        2,
        r"bad\.py:\d+ \(in torn\): ValueError: row 2 is torn",
        r"on its own",
    ),
    "channels last": (
        ("model.py:net", *PI4, "--calib", "bad.py:nhwc"),
        2,
        r"\(16, 16, 3\) but the model takes \(3, 16, 16\): that is channels-last",
        r"permute\(2, 0, 1\)",
    ),
    "channels last beside a shape": (
        ("model.py:net", *SHAPED, "--calib", "bad.py:nhwc"),
        2,
        r"that is channels-last",
        r"permute\(2, 0, 1\)",
    ),
    "bytes": (
        ("model.py:net", *PI4, "--calib", "bad.py:bytes_"),
        2,
        r"samples of bad\.py:bytes_ are uint8 but the model takes float32",
        r"x / 255",
    ),
    "pixels beside normalised data": (
        ("model.py:net", *PI4, "--calib", "bad.py:pixels", "--eval", "model.py:eval"),
        2,
        r"not preprocessed alike",
        r"one preprocessing",
    ),
    "outside of the declared range": (
        ("model.py:net", *PI4, "--calib", "bad.py:pixels", "--input-range", "-1,1"),
        2,
        r"outside the declared input range -1\.\.1",
        r"--input-range",
    ),
    "NaN samples": (
        ("model.py:net", *PI4, "--calib", "bad.py:with_nan"),
        2,
        r"1 of 60 samples of bad\.py:with_nan hold NaN .* the first is sample 3",
        r"remove",
    ),
    "samples of two shapes": (
        ("model.py:net", *PI4, "--calib", "bad.py:ragged"),
        2,
        r"sample 1 of bad\.py:ragged has shape \(3, 17, 16\)",
        r"one shape",
    ),
    "empty data": (("model.py:net", *PI4, "--calib", "bad.py:empty"), 2, r"holds no samples", r"callable"),
    "no data returned": (
        ("model.py:net", *PI4, "--calib", "bad.py:nothing"),
        2,
        r"returned nothing",
        r"list",
    ),
    "one calibration sample": (
        ("model.py:net", *PI4, "--calib", "bad.py:one"),
        2,
        r"at least 2 calibration samples",
        r"more",
    ),
    "empty evaluation data": (
        ("model.py:net", *CALIB, "--eval", "bad.py:empty"),
        2,
        r"bad\.py:empty holds no samples",
        r"callable",
    ),
    "labels out of range": (
        ("model.py:net", *CALIB, "--eval", "bad.py:far_labels"),
        2,
        r"label 3 of sample 2 of bad\.py:far_labels is outside 0\.\.2",
        r"count from 0",
    ),
    "labels missing": (
        ("model.py:net", *CALIB, "--eval", "bad.py:unlabelled"),
        2,
        r"bad\.py:unlabelled has no labels",
        r"leave --eval away",
    ),
    "labels that are no classes": (
        ("model.py:net", *CALIB, "--eval", "bad.py:float_labels"),
        2,
        r"no labels, .* they are float64",
        r"class index",
    ),
    "one source twice": (
        ("model.py:net", *PI4, "--calib", "model.py:eval", "--eval", "model.py:eval"),
        2,
        r"model\.py:eval is given for both calibration and evaluation",
        r"--allow-overlap",
    ),
    "one content twice": (
        ("model.py:net", *PI4, "--calib", "bad.py:unlabelled", "--eval", "model.py:eval"),
        2,
        r"150 samples stand in both",
        r"--allow-overlap",
    ),
    "unknown setting": (
        ("model.py:net", *DATA, "--set", "prune.ratoi=0.3"),
        2,
        r"no setting 'prune\.ratoi'",
        r"did you mean prune\.ratio",
    ),
    "setting without value": (("model.py:net", *DATA, "--set", "prune.ratio"), 2, r"key=value", r"0\.3"),
    "setting out of range": (
        ("model.py:net", *DATA, "--set", "prune.ratio=3"),
        2,
        r"prune\.ratio=3: must be between 0 and 0\.95",
        r"share of channels",
    ),
    "setting not a number": (
        ("model.py:net", *DATA, "--set", "finetune.lr=nan"),
        2,
        r"lr=nan: must",
        r"rate",
    ),
    "int8 without data": (
        ("model.py:net", *SHAPED, "--set", "quantize.precision=int8"),
        2,
        r"int8 needs calibration data",
        r"--calib",
    ),
    "pruning without training data": (
        ("model.py:net", *DATA, "--set", "prune.ratio=0.3"),
        2,
        r"no training data",
        r"--train",
    ),
    "a limit without labels": (
        ("model.py:net", *CALIB, "--max-drop", "1"),
        2,
        r"--max-drop needs labelled evaluation data",
        r"--eval",
    ),
    "a limit that is no number": (
        ("model.py:net", *DATA, "--max-drop", "nan"),
        2,
        r"not a finite",
        r"--help",
    ),
    "a size that is no number": (("model.py:net", *DATA, "--max-size", "inf"), 2, r"not a finite", r"--help"),
    "a range that is no range": (("model.py:net", *DATA, "--input-range", "nan,1"), 2, r"'nan,1'", r"--help"),
    "no classifier": (
        ("bad.py:images", *CALIB, "--task", "classification"),
        2,
        r"cannot be a classifier: its output is \(1, 3, 16, 16\)",
        r"--task",
    ),
    "weights missing": (
        ("model.py:net", *DATA, "--weights", "gone.pt"),
        2,
        r"'gone\.pt' does not",
        r"--help",
    ),
    "unknown device": (
        ("model.py:net", *DATA, "--device", "pigeon"),
        2,
        r"unknown device 'pigeon'",
        r"local, emulator, ssh:",
    ),
    "device that would be an option of adb": (
        ("model.py:net", *DATA, "--device", "adb:-a"),
        2,
        r"'adb:-a' is not adb:SERIAL",
        r"adb devices",
    ),
    "unknown target": (
        ("model.py:net", *DATA, "--target", "coreml"),
        4,
        r"profile pi4 has no target 'coreml'",
        r"tflite/xnnpack",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_in_one_sentence_and_leaves_nothing(
    name: str, cli: Cli, work: Path, own_store: Path
) -> None:
    arguments, code, words, hint = MISTAKES[name]
    said = cli("build", *arguments)
    assert said.code == code, said.err
    sentence, following = said.refusal()
    assert re.search(words, sentence), sentence
    assert re.search(hint, following), following
    assert not (work / "out").exists()
    assert only_steps(own_store, "preflight")


@pytest.mark.parametrize("name", ["unknown target", "channels last"])
def test_plan_refuses_what_build_refuses(name: str, cli: Cli, work: Path) -> None:
    arguments, code, words, _ = MISTAKES[name]
    said = cli("plan", *arguments)
    assert said.code == code
    assert re.search(words, said.refusal()[0])


class TestProfileFiles:
    def test_an_unknown_key_is_named_with_its_place(self, cli: Cli, work: Path, tmp_path: Path) -> None:
        path = tmp_path / "mine.toml"
        path.write_text('id = "mine"\ntitle = "x"\nextends = "pi4"\n[memory]\nmibb = 1\n')
        said = cli("build", "model.py:net", "--profile", path)
        assert said.code == 2
        assert said.refusal() == (f"{path}: unknown key memory.mibb", "did you mean mib?")

    def test_a_syntax_error_is_named_with_its_line(self, cli: Cli, work: Path, tmp_path: Path) -> None:
        path = tmp_path / "mine.toml"
        path.write_text('id = "mine"\ntitle = x\n')
        said = cli("build", "model.py:net", "--profile", path)
        assert said.code == 2
        assert re.match(rf"{re.escape(str(path))} is not valid TOML: .*line 2", said.refusal()[0])

    def test_a_folder_is_no_profile(self, cli: Cli, work: Path, tmp_path: Path) -> None:
        said = cli("plan", "model.py:net", "--profile", f"{tmp_path}/")
        assert said.code == 2 and str(tmp_path) in said.err and "Traceback" not in said.err


class TestModelFiles:
    def test_a_pickle_is_refused_unread(self, cli: Cli, work: Path, tmp_path: Path) -> None:
        import pickle

        class Trap:
            def __reduce__(self) -> tuple[Any, tuple[str]]:
                return Path.touch, (tmp_path / "ran",)  # type: ignore[return-value]

        path = tmp_path / "weights.bin"
        path.write_bytes(pickle.dumps({"head.weight": Trap()}))
        said = cli("build", "model.py:net", *DATA, "--weights", path)
        assert said.code == 2
        sentence, hint = said.refusal()
        assert "a pickle that holds more than tensors" in sentence and "state_dict" in hint
        assert not (tmp_path / "ran").exists()

    def test_a_pickled_model_is_refused_as_one(self, cli: Cli, work: Path, tmp_path: Path) -> None:
        import torch

        torch.save(torch.nn.Linear(2, 2), tmp_path / "model.pt")
        said = cli("build", tmp_path / "model.pt", *DATA)
        assert said.code == 2
        sentence, hint = said.refusal()
        assert "is a pickled object, not a TorchScript file" in sentence and "--weights" in hint

    def test_weights_of_another_model(self, cli: Cli, work: Path, tmp_path: Path) -> None:
        import torch

        torch.save({"other.weight": torch.zeros(1)}, tmp_path / "weights.pt")
        said = cli("build", "model.py:net", *DATA, "--weights", tmp_path / "weights.pt")
        assert said.code == 2
        assert re.search(r"does not fit the model: .* lacks \d+ .*unknown 1", said.refusal()[0])

    @pytest.mark.parametrize("suffix", [".onnx", ".pt2", ".pt"])
    def test_text_is_no_model(self, suffix: str, cli: Cli, work: Path, tmp_path: Path) -> None:
        path = tmp_path / f"model{suffix}"
        path.write_text("this is text")
        said = cli("build", path, *DATA)
        assert said.code == 2 and f"model{suffix} is not a" in said.refusal()[0]

    def test_an_onnx_graph_cannot_be_pruned(self, cli: Cli, work: Path, tmp_path: Path) -> None:
        said = cli(
            *("build", write_onnx(tmp_path / "flat.onnx"), *DATA),
            *("--train", "model.py:train", "--set", "prune.ratio=0.3"),
        )
        assert said.code == 2
        sentence, hint = said.refusal()
        assert "cannot be pruned: its source is fixed" in sentence and "file.py:callable" in hint

    def test_an_onnx_graph_with_nan_weights(self, cli: Cli, work: Path, tmp_path: Path) -> None:
        said = cli("build", write_onnx(tmp_path / "flat.onnx", np.nan), *DATA)
        assert said.code == 2 and "initializer 'w'" in said.refusal()[0]


def write_onnx(path: Path, weight: float = 0.1) -> Path:
    """A flatten and a matrix product, (1, 3, 16, 16) to (1, 3)."""
    onnx = pytest.importorskip("onnx")
    from onnx import helper, numpy_helper

    x, y = (
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in (("x", [1, 3, 16, 16]), ("y", [1, 3]))
    )
    w = numpy_helper.from_array(np.full((768, 3), weight, np.float32), "w")
    nodes = [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("MatMul", ["f", "w"], ["y"])]
    graph = helper.make_graph(nodes, "g", [x], [y], [w])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


class TestConversion:
    @pytest.mark.slow
    def test_an_operator_without_kernel_is_named(self, cli: Cli, work: Path, own_store: Path) -> None:
        said = cli("build", "bad.py:determinant", *DATA, "--target", "tflite")
        assert said.code == 4, said.err
        sentence, hint = said.refusal()
        assert "det" in sentence and "edgekit inspect" in hint
        assert not (work / "out").exists()
        assert only_steps(own_store, "preflight")

    def test_a_model_that_no_target_takes_names_what_each_lacks(
        self, cli: Cli, work: Path, own_store: Path
    ) -> None:
        said = cli("build", "bad.py:determinant", *DATA)
        assert said.code == 4, said.err
        for target in ("tflite/xnnpack", "executorch/xnnpack", "onnx/cpu", "torchscript/qnnpack"):
            assert f"target {target}: " in said.refusal()[0]
        assert only_steps(own_store, *["preflight"] * 4)

    @pytest.mark.slow
    def test_a_branch_that_was_not_converted_is_found(self, cli: Cli, work: Path, own_store: Path) -> None:
        """The tracer follows the branch of one sample; the first samples agree, later ones do not."""
        said = cli("build", "bad.py:branches", *DATA)
        assert said.code == 5, said.err
        sentence, hint = said.refusal()
        assert re.search(r"differs from the torch model on \d+ of 150 samples", sentence)
        assert "torch.where" in hint
        assert not (work / "out").exists()


def only_steps(root: Path, *allowed: str) -> bool:
    """Whether a store holds at most as many steps as may have been done, and none with a model file."""
    records = [json.loads(p.read_text()) for p in (root / "steps").glob("*/*.json")]
    return len(records) <= len(allowed) and not any("artifact" in r for r in records)


@pytest.mark.slow
def test_raw_pixels_are_warned_about_and_built(cli: Cli, work: Path) -> None:
    said = cli("build", "model.py:net", *PI4, "--calib", "bad.py:pixels")
    assert said.code in (0, 6), said.err
    words = "look like raw 0..255 pixels"
    assert words in said.err, "said before the work starts"
    assert words in said.out, "and in the summary"
    report = json.loads((work / "out" / "net" / "pi4" / "report.json").read_text())
    assert sum(words in w for w in report["warnings"]) == 1


class TestGates:
    def test_a_broken_gate_keeps_the_bundle(
        self, tiny_build: Any, tiny_command: list[str], cli: Cli, tmp_path: Path
    ) -> None:
        said = cli(*tiny_command, "--max-size", "0.001", "--out", tmp_path)
        assert said.code == 6
        errors = [line for line in said.err.splitlines() if line.startswith(("error:", "  next:"))]
        assert errors[0] == "error: the file was built, but it does not pass: file_size"
        folder = tmp_path / "net" / "pi4"
        assert str(folder / "report.html") in errors[1]
        report = json.loads((folder / "report.json").read_text())
        assert report["status"] == "gate_failed"
        assert [g["name"] for g in report["gates"] if not g["passed"]] == ["file_size"]
        assert cli("verify", folder).code == 0, "the candidate is a whole bundle"

    def test_no_drop_at_all_after_damage(
        self, tiny_model_dir: Path, tiny_build: Any, cli: Cli, tmp_path: Path
    ) -> None:
        """Calibrated on noise of a hundredth of the size, the file loses accuracy, and the gate sees it."""
        np.savez(
            tmp_path / "faint.npz",
            x=np.random.default_rng(0).normal(0, 0.02, (40, 3, 16, 16)).astype(np.float32),
        )
        entry = tiny_model_dir / "model.py"
        said = cli(
            *("build", f"{entry}:net", "--profile", "pi4", "--max-drop", "0", "--out", tmp_path / "out"),
            *("--calib", tmp_path / "faint.npz", "--eval", f"{entry}:eval", "--input-range", "-99,99"),
        )
        assert said.code == 6, said.err
        report = json.loads((tmp_path / "out" / "net" / "pi4" / "report.json").read_text())
        assert report["accuracy"]["drop"] > 0
        assert (tmp_path / "out" / "net" / "pi4" / "bundle" / "manifest.json").exists()


class TestOutput:
    @pytest.fixture(autouse=True)
    def built(self, tiny_build: Any) -> None:
        """Steps come from the cache: only the output is at stake here."""

    def test_a_file_in_the_way(self, tiny_command: list[str], cli: Cli, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("mine")
        for out in (tmp_path / "file", tmp_path / "file" / "below"):
            said = cli(*tiny_command, "--out", out)
            assert said.code == 2
            assert "file" in said.refusal()[0]
        assert (tmp_path / "file").read_text() == "mine"

    def test_a_read_only_folder(
        self, tiny_command: list[str], cli: Cli, small_disk: Callable[..., Path]
    ) -> None:
        out = small_disk(40, read_only=True) / "out"
        said = cli(*tiny_command, "--out", out)
        assert said.code == 2
        sentence, hint = said.refusal()
        assert sentence == f"the output folder {out}/net/pi4 cannot be written: the file system is read-only"
        assert "--out" in hint
        assert "baseline" not in said.err, "found before the work starts"

    def test_a_folder_without_permission(self, tiny_command: list[str], cli: Cli, tmp_path: Path) -> None:
        if os.geteuid() == 0:
            pytest.skip("root may write everywhere")
        (tmp_path / "closed").mkdir(mode=0o500)
        said = cli(*tiny_command, "--out", tmp_path / "closed" / "out")
        assert said.code == 2 and "no permission" in said.refusal()[0]

    @pytest.mark.parametrize("kilobytes", [20, 60, 100])
    def test_a_full_disk_leaves_nothing(
        self, kilobytes: int, tiny_command: list[str], cli: Cli, small_disk: Callable[..., Path]
    ) -> None:
        disk = small_disk(kilobytes)
        said = cli(*tiny_command, "--out", disk / "out")
        assert said.code == 5
        sentence, hint = said.refusal()
        assert sentence.startswith("the disk is full while writing") and "free some space" in hint
        assert list(disk.iterdir()) == []

    def test_a_full_disk_leaves_the_former_build_as_it_was(
        self, tiny_command: list[str], cli: Cli, small_disk: Callable[..., Path]
    ) -> None:
        disk = small_disk(400)
        assert cli(*tiny_command, "--out", disk / "out").code == 0
        before = contents(disk / "out")
        free = shutil.disk_usage(disk).free
        (disk / "filler").write_bytes(b"\0" * max(0, free - 24_000))
        said = cli(*tiny_command, "--max-size", "1", "--out", disk / "out")
        assert said.code == 5 and "the disk is full" in said.refusal()[0]
        assert contents(disk / "out") == before


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


class TestStore:
    def test_a_full_disk(
        self, cli: Cli, work: Path, small_disk: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        root = small_disk(16) / "store"
        monkeypatch.setenv("EDGEKIT_CACHE", str(root))
        said = cli("build", "model.py:net", *DATA)
        assert said.code == 5
        sentence, hint = said.refusal()
        assert sentence.startswith("the disk is full while") and "EDGEKIT_CACHE" in hint
        assert not (work / "out").exists()
        assert all_whole(root)

    def test_a_disk_that_fills_up_while_the_converter_runs(
        self,
        tiny_build: Any,
        cli: Cli,
        work: Path,
        small_disk: Callable[..., Path],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        root = small_disk(2000) / "store"
        root.mkdir()
        (root / "native").symlink_to(tiny_build.store.root / "native")
        monkeypatch.setenv("EDGEKIT_CACHE", str(root))
        said = cli("build", "model.py:net", *DATA)
        assert said.code == 5
        assert said.refusal()[0] == "the disk is full while converting the model"
        assert not (work / "out").exists()
        assert all_whole(root) and only_steps(root, "preflight", "baseline")
        assert list((root / "tmp").iterdir()) == [], "scratch is cleared away"

    def test_a_read_only_folder(
        self, cli: Cli, work: Path, small_disk: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("EDGEKIT_CACHE", str(small_disk(40, read_only=True)))
        said = cli("build", "model.py:net", *DATA)
        assert said.code == 5 and "EDGEKIT_CACHE" in said.refusal()[1]

    def test_a_file_in_the_way(
        self, cli: Cli, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "file").write_text("mine")
        monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "file" / "store"))
        said = cli("build", "model.py:net", *DATA)
        assert said.code == 5 and "a file is in the way" in said.refusal()[0]

    def test_a_cut_object_is_made_again(
        self,
        tiny_build: Any,
        tiny_command: list[str],
        copied_store: Path,
        cli: Cli,
        tmp_path: Path,
    ) -> None:
        model = next(f["sha256"] for f in tiny_build.built.report["bundle"]["files"] if "tflite" in f["path"])
        damaged = Store(copied_store).object_path(model)
        whole = damaged.read_bytes()
        damaged.chmod(0o644)
        damaged.write_bytes(whole[:100])
        said = cli(*tiny_command, "--json", "--out", tmp_path / "out")
        assert said.code == 0, said.err
        report = json.loads(said.out)
        assert report["digest"] == tiny_build.built.report["digest"]
        cached = {s["name"]: s["cached"] for s in report["stages"]}
        assert cached["convert"] and not cached["quantize"]
        assert damaged.read_bytes() == whole


def all_whole(root: Path) -> bool:
    """Whether every stored object has the bytes that its name promises."""
    from edgekit.store import digest_file

    return all(digest_file(p) == p.name for p in (root / "objects").glob("*/*"))


class TestMissingParts:
    @pytest.fixture(autouse=True)
    def built(self, tiny_build: Any) -> None:
        """Steps come from the cache."""

    @pytest.fixture
    def without_qemu(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "bin").mkdir()
        monkeypatch.setenv("PATH", str(tmp_path / "bin"))

    @pytest.fixture
    def offline(self, copied_store: Path, monkeypatch: pytest.MonkeyPatch, arm64_tools: None) -> None:
        """No package index, and a store without the arm64 library."""
        (copied_store / "native").unlink()
        monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/")
        monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
        monkeypatch.setenv("PIP_RETRIES", "1")
        monkeypatch.delenv("EDGEKIT_LITERT_AARCH64_WHEEL", raising=False)

    def asked_for(self, cli: Cli, command: list[str], out: Path) -> tuple[str, str]:
        said = cli(*command, "--device", "emulator", "--out", out)
        assert said.code == 3, said.err
        assert "convert" not in said.err, "found before the work starts"
        assert not out.exists()
        refusal: tuple[str, str] = said.refusal()
        return refusal

    def not_asked_for(self, cli: Cli, command: list[str], out: Path) -> str:
        said = cli(*command, "--json", "--out", out)
        assert said.code == 0, said.err
        report = json.loads(said.out)
        assert report["measurements"] == []
        (warning,) = (w for w in report["warnings"] if w.startswith("nothing was measured"))
        assert warning in said.err
        return str(warning)

    def test_no_qemu(self, without_qemu: None, tiny_command: list[str], cli: Cli, tmp_path: Path) -> None:
        sentence, hint = self.asked_for(cli, tiny_command, tmp_path / "out")
        assert sentence == "qemu-aarch64 is not installed"
        assert hint.startswith("apt-get install --no-install-recommends qemu-user ")

    def test_no_qemu_but_none_asked_for(
        self, without_qemu: None, tiny_command: list[str], cli: Cli, tmp_path: Path
    ) -> None:
        warning = self.not_asked_for(cli, tiny_command, tmp_path / "out")
        assert "qemu-aarch64 is not installed; apt-get install" in warning

    @pytest.mark.parametrize("command", ["bench", "verify"])
    def test_no_qemu_for_a_bundle(self, command: str, without_qemu: None, tiny_build: Any, cli: Cli) -> None:
        said = cli(command, tiny_build.built.folder, "--device", "emulator")
        assert said.code == 3 and "qemu-aarch64 is not installed" in said.refusal()[0]

    @pytest.mark.emulator
    def test_no_network(self, offline: None, tiny_command: list[str], cli: Cli, tmp_path: Path) -> None:
        sentence, hint = self.asked_for(cli, tiny_command, tmp_path / "out")
        assert "the package index cannot be reached" in sentence
        assert "pip download" in hint and "EDGEKIT_LITERT_AARCH64_WHEEL" in hint

    @pytest.mark.emulator
    def test_no_network_but_no_emulator_asked_for(
        self, offline: None, tiny_command: list[str], cli: Cli, tmp_path: Path
    ) -> None:
        warning = self.not_asked_for(cli, tiny_command, tmp_path / "out")
        assert "the package index cannot be reached" in warning


@pytest.mark.slow
def test_ctrl_c_stops_and_the_same_command_goes_on(
    work: Path, own_store: Path, script: list[str], interruptible: Callable[[], None]
) -> None:
    command = [*script, "build", "model.py:net", *DATA, "--json"]
    pipe = subprocess.PIPE
    first = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, preexec_fn=interruptible)
    assert first.stderr is not None
    for line in first.stderr:
        if line.startswith("baseline: done"):
            break
    first.send_signal(signal.SIGINT)  # the converter is starting or running
    out, err = first.communicate(timeout=60)
    assert first.returncode == 130, err
    assert "error: stopped\n  next: run the same command again" in err and "Traceback" not in err
    assert out == "" and not (work / "out").exists()
    assert only_steps(own_store, "preflight", "baseline") and list((own_store / "tmp").iterdir()) == []
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert {s["name"]: s["cached"] for s in json.loads(again.stdout)["stages"]}["baseline"] is True


class TestFilesGivenToOtherCommands:
    JUNK: ClassVar[dict[str, Callable[[bytes], bytes]]] = {
        "text": lambda whole: b"this is text",
        "empty": lambda whole: b"",
        "cut in half": lambda whole: whole[: len(whole) // 2],
        "cut after the magic": lambda whole: whole[:8],
        "no offsets": lambda whole: whole[:8] + b"\xff" * 400,
        "names that are no text": lambda whole: whole.replace(b"PartitionedCall", b"\xff\xfe" * 7 + b"\xff"),
    }

    @pytest.mark.parametrize("command", ["inspect", "bench", "verify"])
    @pytest.mark.parametrize("name", JUNK)
    def test_a_file_that_is_no_model(
        self, name: str, command: str, tiny_build: Any, cli: Cli, tmp_path: Path
    ) -> None:
        whole = (tiny_build.built.folder / "bundle" / "model.tflite").read_bytes()
        path = tmp_path / "junk.tflite"
        path.write_bytes(self.JUNK[name](whole))
        said = cli(command, path)
        assert said.code == 2, said.err
        assert "junk.tflite" in said.refusal()[0]

    @pytest.mark.parametrize("command", ["inspect", "bench", "verify"])
    def test_a_folder_that_is_no_bundle(self, command: str, cli: Cli, tmp_path: Path) -> None:
        said = cli(command, tmp_path)
        assert said.code == 2
        assert said.refusal()[0] == f"{tmp_path} is no bundle: it has no manifest.json"

    @pytest.mark.parametrize("command", ["inspect", "bench", "verify"])
    def test_nothing_there(self, command: str, cli: Cli, tmp_path: Path) -> None:
        said = cli(command, tmp_path / "gone")
        assert said.code == 2 and "does not exist" in said.refusal()[0]

    def test_another_kind_of_file(self, cli: Cli, work: Path) -> None:
        said = cli("bench", "model.py")
        assert said.code == 4 and "model.py is not a model file or a bundle" in said.refusal()[0]

    def test_a_bare_file_has_no_golden_samples(self, tiny_build: Any, cli: Cli) -> None:
        said = cli("verify", tiny_build.built.folder / "bundle" / "model.tflite")
        assert said.code == 2 and "without golden samples" in said.refusal()[0]

    @pytest.mark.parametrize("command", ["inspect", "bench", "verify"])
    @pytest.mark.parametrize(
        ("damage", "code", "words"),
        [
            ("tampered model", 5, "model.tflite is damaged or was changed"),
            ("missing model", 2, "lacks the file 'model.tflite'"),
            ("missing golden sample", 2, "lacks the file 'golden/0_input_0.npy'"),
            ("manifest that is no JSON", 2, "manifest.json is not JSON"),
            ("manifest that lacks keys", 2, "is not a valid manifest"),
            ("path that leads out", 2, "lies outside the bundle"),
        ],
    )
    def test_a_damaged_bundle(
        self,
        damage: str,
        code: int,
        words: str,
        command: str,
        tiny_build: Any,
        cli: Cli,
        tmp_path: Path,
    ) -> None:
        bundle = tmp_path / "bundle"
        shutil.copytree(tiny_build.built.folder / "bundle", bundle)
        damage_bundle(bundle, damage)
        said = cli(command, bundle)
        assert said.code == code, said.err
        assert words in said.refusal()[0]

    @pytest.mark.parametrize(
        ("arguments", "code", "words"),
        [
            (("--device", "pigeon"), 2, "unknown device 'pigeon'"),
            (("--device", "ssh:-oProxyCommand=id"), 2, "is not ssh:"),
            (("--device", "emulator", "--profile", "pi44"), 2, "no profile named 'pi44'"),
            (("--device", "emulator", "--profile", "jetson_nano"), 4, "cannot be emulated"),
            (("--runs", "0"), 2, "'--runs'"),
        ],
    )
    def test_bench_that_cannot_be(
        self, arguments: Iterable[str], code: int, words: str, tiny_build: Any, cli: Cli
    ) -> None:
        said = cli("bench", tiny_build.built.folder, *arguments)
        assert said.code == code, said.err
        assert words in said.refusal()[0]

    def test_a_bare_file_needs_a_profile_to_be_emulated(self, tiny_build: Any, cli: Cli) -> None:
        said = cli("bench", tiny_build.built.folder / "bundle" / "model.tflite", "--device", "emulator")
        assert said.code == 2 and "--profile" in said.refusal()[1]


def damage_bundle(bundle: Path, damage: str) -> None:
    manifest = bundle / "manifest.json"
    match damage:
        case "tampered model":
            with (bundle / "model.tflite").open("ab") as model:
                model.write(b"x")
        case "missing model":
            (bundle / "model.tflite").unlink()
        case "missing golden sample":
            (bundle / "golden" / "0_input_0.npy").unlink()
        case "manifest that is no JSON":
            manifest.write_text("{")
        case "manifest that lacks keys":
            manifest.write_text('{"schema_version": 1}')
        case "path that leads out":
            manifest.write_text(manifest.read_text().replace('"model.tflite"', '"../model.tflite"'))
        case _:
            raise ValueError(damage)
