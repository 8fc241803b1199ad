"""run.py as a user runs it: in a process of its own, in a bundle, without edgekit."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.bundle import golden_samples, load_manifest, run


def python(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    # -I would drop site-packages' user part only; -P keeps the checkout out of sys.path.
    return subprocess.run(
        [sys.executable, "-P", *map(str, arguments)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_golden_samples_agree(made: Path, tmp_path: Path) -> None:
    done = python(made / "run.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "3 of 3 golden samples agree" in done.stdout
    assert done.stdout.count("max diff 0, ok") == 3


def test_a_wrong_golden_output_ends_with_1(
    write_int8: Callable[..., Path], ingredients: dict[str, Any]
) -> None:
    golden = [*ingredients["int8"].golden]
    first = golden[0].outputs[0]
    golden[0] = type(golden[0])(
        inputs=golden[0].inputs, outputs=(np.where(first < 127, first + 1, 126).astype(np.int8),)
    )
    done = python("run.py", cwd=write_int8(golden=golden))
    assert done.returncode == 1
    assert "4 values out of tolerance" in done.stdout
    assert "2 of 3 golden samples agree (atol 0, rtol 0)" in done.stdout


def test_a_damaged_model_is_not_run(made: Path) -> None:
    (made / "model.tflite").write_bytes(b"not a model")
    done = python("run.py", cwd=made)
    assert done.returncode == 2
    assert done.stderr.startswith("error: model.tflite is damaged or was changed")
    assert "Traceback" not in done.stderr


def test_one_input_in_either_layout_gives_the_same_classes(made: Path, tmp_path: Path) -> None:
    nhwc = np.random.default_rng(5).uniform(-1, 1, (1, 8, 8, 3)).astype(np.float32)
    np.save(tmp_path / "nhwc.npy", nhwc)
    np.save(tmp_path / "nchw.npy", nhwc.transpose(0, 3, 1, 2)[0])  # no batch axis either
    answers = [
        python("run.py", "--input", tmp_path / f"{x}.npy", "--top", "2", cwd=made) for x in ("nhwc", "nchw")
    ]
    assert [a.returncode for a in answers] == [0, 0], answers[0].stderr + answers[1].stderr
    assert answers[0].stdout == answers[1].stdout
    lines = answers[0].stdout.splitlines()
    assert len(lines) == 2
    assert lines[0].split()[1] in ("ant", "bee", "cat", "dog")
    assert float(lines[0].split()[2]) >= float(lines[1].split()[2])


def test_a_stored_input_gives_the_golden_output(write_int8: Callable[..., Path]) -> None:
    bundle = write_int8()
    manifest = load_manifest(bundle)
    sample = golden_samples(manifest)[0]
    done = python("run.py", "--input", bundle / "golden/0_input_0.npy", "--top", "1", cwd=bundle)
    assert done.returncode == 0, done.stderr
    best = int(sample.outputs[0][0].argmax())
    tensor = manifest.outputs[0]
    assert tensor.scale is not None
    assert tensor.zero_point is not None
    score = (int(sample.outputs[0][0, best]) - tensor.zero_point) * tensor.scale
    assert done.stdout.split()[1] == ("ant", "bee", "cat", "dog")[best]
    assert float(done.stdout.split()[2]) == pytest.approx(score, rel=1e-5)


def test_an_image_is_prepared_as_the_manifest_says(made: Path, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(6).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    image.fromarray(pixels).save(tmp_path / "x.png")
    np.save(tmp_path / "x.npy", ((pixels / 255.0 - 0.5) / 0.5).astype(np.float32)[None])
    answers = [python("run.py", "--input", tmp_path / f"x.{kind}", cwd=made) for kind in ("png", "npy")]
    assert answers[0].returncode == 0, answers[0].stderr
    assert answers[0].stdout == answers[1].stdout


@pytest.mark.parametrize(
    ("array", "sentence"),
    [
        (np.zeros((1, 3, 9, 9), np.float32), "is float32 [1, 3, 9, 9]; expected float32 [1, 3, 8, 8] (NCHW)"),
        (np.zeros((1, 3, 8, 8), np.uint8), "is uint8 [1, 3, 8, 8]; expected float32"),
        (np.full((1, 3, 8, 8), np.nan, np.float32), "holds NaN"),
        (np.array(["x"]), "expected float32"),
    ],
)
def test_an_input_that_does_not_fit_is_one_sentence(
    made: Path, tmp_path: Path, array: Any, sentence: str
) -> None:
    np.save(tmp_path / "x.npy", array)
    done = python("run.py", "--input", tmp_path / "x.npy", cwd=made)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_values_far_outside_calibration_are_warned_of(made: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.full((1, 3, 8, 8), 255.0, np.float32))
    done = python("run.py", "--input", tmp_path / "x.npy", cwd=made)
    assert done.returncode == 0
    assert "warning: the input 'x' reaches 255, calibration saw -1 to 1" in done.stderr


def test_other_mistakes(made: Path, tmp_path: Path) -> None:
    (tmp_path / "x.npy").write_bytes(b"junk")
    assert "not a plain .npy" in python("run.py", "--input", tmp_path / "x.npy", cwd=made).stderr
    two = python("run.py", "--input", tmp_path / "x.npy", "--input", tmp_path / "x.npy", cwd=made)
    assert "takes 1 inputs (x)" in two.stderr
    (made / "manifest.json").write_text("{}")
    assert "schema_version None" in python("run.py", cwd=made).stderr
    (made / "manifest.json").write_text(json.dumps({"schema_version": 1}))
    done = python("run.py", cwd=made)
    assert (done.returncode, done.stderr) == (2, "error: manifest.json lacks 'runtime'\n")


def test_run_needs_only_the_standard_library_numpy_and_a_runtime() -> None:
    tree = ast.parse(files("edgekit.bundle").joinpath("run.py").read_text())
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(str(node.module).split(".")[0])
    assert names - set(sys.stdlib_module_names) == {
        "numpy",
        "PIL",
    }  # pillow only for images, inside a function
    ast.parse(files("edgekit.bundle").joinpath("run.py").read_text(), feature_version=(3, 9))


def test_without_a_runtime_the_sentence_names_the_package(
    monkeypatch: pytest.MonkeyPatch, made: Path
) -> None:
    monkeypatch.setattr(run, "TFLITE_MODULES", ("no_such_runtime.interpreter",))
    with pytest.raises(run.Problem, match="pip install ai-edge-litert"):
        run.check_golden(made)


def test_shapes_that_fit_both_layouts_are_asked_about() -> None:
    tensor = {
        "name": "x",
        "shape": [1, 3, 3, 3],
        "dtype": "float32",
        "layout": "NHWC",
        "scale": None,
        "zero_point": None,
        "range": None,
        "source": {"name": "x", "shape": [1, 3, 3, 3], "dtype": "float32", "layout": "NCHW"},
    }
    x = np.arange(27, dtype=np.float32).reshape(1, 3, 3, 3)
    with pytest.raises(run.Problem, match="--layout source or --layout file"):
        run.prepare(x, tensor)
    assert np.array_equal(run.prepare(x, tensor, "file"), x)
    assert np.array_equal(run.prepare(x, tensor, "source"), x.transpose(0, 2, 3, 1))


def test_quantising_saturates_and_rounds() -> None:
    tensor = {"dtype": "int8", "scale": 0.5, "zero_point": 3}
    assert run.to_stored(np.array([-1e9, 0.0, 0.3, 1e9]), tensor).tolist() == [-128, 3, 4, 127]
    assert run.to_real(np.array([3, 5], np.int8), tensor).tolist() == [0.0, 1.0]
