"""What each mistake gives: one sentence, the next step, the right exit code, and nothing left behind."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]
OnlySteps = Callable[..., bool]
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
    name: str,
    cli: Cli,
    work: Path,
    own_store: Path,
    only_steps: OnlySteps,
) -> None:
    arguments, code, words, hint = MISTAKES[name]
    said = cli("build", *arguments)
    assert said.code == code, said.err
    sentence, following = said.refusal()
    assert re.search(words, sentence), sentence
    assert re.search(hint, following), following
    assert not (work / "out").exists()
    assert only_steps(own_store, "preflight", "lint")


@pytest.mark.parametrize("name", ["unknown target", "channels last"])
def test_plan_refuses_what_build_refuses(name: str, cli: Cli, work: Path) -> None:
    arguments, code, words, _ = MISTAKES[name]
    said = cli("plan", *arguments)
    assert said.code == code
    assert re.search(words, said.refusal()[0])
