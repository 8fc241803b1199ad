"""Builds that are refused, warned about, broken off or kept as candidates on the way."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

Cli = Callable[..., Any]
OnlySteps = Callable[..., bool]
DATA = ("--profile", "pi4", "--calib", "model.py:calib", "--eval", "model.py:eval")


class TestConversion:
    @pytest.mark.slow
    def test_an_operator_without_kernel_is_named(
        self,
        cli: Cli,
        work: Path,
        own_store: Path,
        only_steps: OnlySteps,
    ) -> None:
        said = cli("build", "bad.py:determinant", *DATA, "--target", "tflite")
        assert said.code == 4, said.err
        sentence, hint = said.refusal()
        assert "det" in sentence and "edgekit inspect" in hint
        assert not (work / "out").exists()
        assert only_steps(own_store, "preflight")

    def test_a_model_that_no_target_takes_names_what_each_lacks(
        self,
        cli: Cli,
        work: Path,
        own_store: Path,
        only_steps: OnlySteps,
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


@pytest.mark.slow
def test_raw_pixels_are_warned_about_and_built(cli: Cli, work: Path) -> None:
    said = cli("build", "model.py:net", "--profile", "pi4", "--calib", "bad.py:pixels")
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
            *("--set", "search.rungs=none"),  # or a float file would be found
            *("--calib", tmp_path / "faint.npz", "--eval", f"{entry}:eval", "--input-range", "-99,99"),
        )
        assert said.code == 6, said.err
        report = json.loads((tmp_path / "out" / "net" / "pi4" / "report.json").read_text())
        assert report["accuracy"]["drop"] > 0
        assert (tmp_path / "out" / "net" / "pi4" / "bundle" / "manifest.json").exists()


@pytest.mark.slow
def test_ctrl_c_stops_and_the_same_command_goes_on(
    work: Path,
    own_store: Path,
    script: list[str],
    interruptible: Callable[[], None],
    only_steps: OnlySteps,
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
    assert (
        only_steps(own_store, "preflight", "lint", "baseline") and list((own_store / "tmp").iterdir()) == []
    )
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert {s["name"]: s["cached"] for s in json.loads(again.stdout)["stages"]}["baseline"] is True
