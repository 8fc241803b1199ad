"""Writing a bundle and believing one: contents, tampering, paths that lead out, replacement, damage."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.bundle import (
    GoldenSample,
    Tolerance,
    compare,
    golden_samples,
    load_manifest,
    verify_bundle,
)
from edgekit.bundle.golden import accelerator_tolerance
from edgekit.errors import StepFailed, StoreError, UserError
from edgekit.store import digest_file

Write = Callable[..., Path]


def edit(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    file = bundle / "manifest.json"
    manifest = json.loads(file.read_text())
    change(manifest)
    file.write_text(json.dumps(manifest))


def test_contents(made: Path) -> None:
    files = sorted(str(p.relative_to(made)) for p in made.rglob("*") if p.is_file())
    golden = [f"golden/{i}_{side}_0.npy" for i in range(3) for side in ("input", "output")]
    assert files == sorted(["README.txt", "manifest.json", "model.tflite", "run.py", *golden])
    assert sorted(p.name for p in made.parent.iterdir()) == ["bundle"]
    manifest = load_manifest(made)
    assert load_manifest(made / "manifest.json") == manifest
    assert manifest.model_path == made / "model.tflite"
    assert manifest.inputs[0].layout == "NHWC"
    assert manifest.data["inputs"][0]["source"] == {
        "name": "image",
        "shape": [1, 3, 8, 8],
        "dtype": "float32",
        "layout": "NCHW",
    }
    assert manifest.data["labels"] == ["ant", "bee", "cat", "dog"]
    assert manifest.data["licences"] == {"model": "BSD-2-Clause"}
    assert str(made) not in (made / "manifest.json").read_text()


def test_golden_samples_come_back_and_verify(made: Path) -> None:
    manifest = load_manifest(made)
    assert [s.inputs[0].shape for s in golden_samples(manifest)] == [(1, 8, 8, 3)] * 3
    results = verify_bundle(manifest)
    assert [r.passed for r in results] == [True] * 3
    assert all(r.elements == 4 for r in results)


def test_accelerators_may_round_otherwise_but_not_compute_otherwise(made: Path) -> None:
    manifest = load_manifest(made)
    expected = [list(s.outputs) for s in golden_samples(manifest)]
    largest = max(float(abs(o).max()) for outputs in expected for o in outputs)
    integer = expected[0][0].dtype.kind == "i"
    near, far = (2, 3) if integer else (0.009 * largest, 0.02 * largest)
    allowed = accelerator_tolerance(manifest)

    def shifted(by: float) -> list[list[Any]]:
        wide = [[o.astype(np.float64) for o in outputs] for outputs in expected]
        signs = [[np.where(o > 0, -1, 1) for o in outputs] for outputs in wide]  # within the type's range
        return [
            [(o + by * s).astype(expected[0][0].dtype) for o, s in zip(row, sign, strict=True)]
            for row, sign in zip(wide, signs, strict=True)
        ]

    assert all(r.passed for r in compare(expected, shifted(near), allowed))
    assert not any(r.passed for r in compare(expected, shifted(far), allowed))


def test_verification_through_another_runner_sees_a_difference(write_int8: Write) -> None:
    manifest = load_manifest(write_int8())
    by_input = {s.inputs[0].tobytes(): s.outputs for s in golden_samples(manifest)}

    def one_step_off(inputs: Any) -> list[Any]:
        expected = by_input[inputs[0].tobytes()][0]
        return [np.where(expected < 127, expected + 1, expected - 1).astype(np.int8)]

    results = verify_bundle(manifest, one_step_off)
    assert [(r.passed, r.max_abs, r.mismatched) for r in results] == [(False, 1.0, 4)] * 3


@pytest.mark.parametrize("name", ["model.tflite", "golden/1_output_0.npy", "golden/2_input_0.npy"])
def test_a_changed_file_is_noticed(made: Path, name: str) -> None:
    data = bytearray((made / name).read_bytes())
    data[-1] ^= 1
    (made / name).write_bytes(bytes(data))
    with pytest.raises(StepFailed, match=f"{name} is damaged or was changed"):
        load_manifest(made)


def test_a_missing_file_is_noticed(made: Path) -> None:
    (made / "golden/0_input_0.npy").unlink()
    with pytest.raises(UserError, match=r"lacks the file 'golden/0_input_0\.npy'"):
        load_manifest(made)


@pytest.mark.parametrize(
    "path", ["/etc/hostname", "../secret", "golden/../../secret", "a\\b", "C:x", "", "golden"]
)
def test_paths_that_leave_the_bundle_are_refused(made: Path, path: str) -> None:
    secret = made.parent / "secret"
    secret.write_text("secret")

    def point(manifest: dict[str, Any]) -> None:
        manifest["models"][0].update(path=path, sha256=digest_file(secret))

    edit(made, point)
    with pytest.raises(UserError, match=r"outside the bundle|plain relative|lacks|not a valid manifest"):
        load_manifest(made)


def test_links_that_leave_the_bundle_are_refused(made: Path) -> None:
    outside = made.parent / "outside.tflite"
    shutil.move(made / "model.tflite", outside)
    (made / "model.tflite").symlink_to(outside)
    with pytest.raises(UserError, match="link that leads out"):
        load_manifest(made)


def test_a_linked_bundle_is_still_a_bundle(made: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(made)
    assert load_manifest(tmp_path / "link").name == "tiny"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda m: m.update(schema_version=2), "schema_version 2"),
        (lambda m: m.pop("licences"), "'licences' is a required property"),
        (lambda m: m.update(extra=1), "'extra'"),
        (lambda m: m["inputs"][0].update(shape=[0]), r"\$\.inputs\[0\]\.shape"),
        (lambda m: m["golden"]["tolerance"].update(atol=-1), r"\$\.golden\.tolerance\.atol"),
        (lambda m: m["provenance"].pop("plan_digest"), "'plan_digest'"),
        (lambda m: m["models"].clear(), r"\$\.models"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(
    made: Path, change: Callable[[dict[str, Any]], object], sentence: str
) -> None:
    edit(made, change)
    with pytest.raises(UserError, match=sentence):
        load_manifest(made)


@pytest.mark.parametrize("text", ["{", "[]", '"x"'])
def test_a_manifest_that_is_not_json_of_ours_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=r"not JSON|schema_version None"):
        load_manifest(tmp_path)
    with pytest.raises(UserError, match="cannot be read"):
        load_manifest(tmp_path / "nothing")


def test_golden_pickles_are_refused(write_int8: Write) -> None:
    bundle = write_int8()
    file = bundle / "golden/0_input_0.npy"
    np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)

    def accept(manifest: dict[str, Any]) -> None:
        manifest["golden"]["samples"][0]["inputs"][0]["sha256"] = digest_file(file)

    edit(bundle, accept)
    with pytest.raises(UserError, match=r"not a plain \.npy"):
        golden_samples(load_manifest(bundle))


# -- writing


def test_an_old_bundle_and_left_overs_are_replaced(write_int8: Write, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / ".bundle.new.killed").mkdir(parents=True)
    (out / ".bundle.old").mkdir()
    bundle = write_int8()
    (bundle / "stale").touch()
    write_int8(golden=[])
    assert sorted(p.name for p in bundle.iterdir()) == [
        "README.txt",
        "manifest.json",
        "model.tflite",
        "run.py",
    ]
    assert [p.name for p in out.iterdir()] == ["bundle"]


def test_a_failed_write_keeps_the_old_bundle(
    write_int8: Write, ingredients: dict[str, Any], tmp_path: Path
) -> None:
    bundle = write_int8()
    before = {p.name: p.read_bytes() for p in bundle.iterdir() if p.is_file()}
    damaged = tmp_path / "damaged.tflite"
    damaged.write_bytes(b"x")
    with pytest.raises(StepFailed, match="damaged"):
        write_int8(artifact=replace(ingredients["int8"].artifact, path=damaged))
    assert {p.name: p.read_bytes() for p in bundle.iterdir() if p.is_file()} == before
    assert [p.name for p in bundle.parent.iterdir()] == ["bundle"]


def test_a_full_disk_is_one_clear_error(
    write_int8: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(source: Path, target: Path) -> None:
        raise OSError(28, os.strerror(28), str(target))

    monkeypatch.setattr("edgekit.bundle.write.shutil.copyfile", full)
    with pytest.raises(StoreError, match="disk is full"):
        write_int8()
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("side", ["inputs", "outputs"])
def test_samples_that_do_not_fit_the_file_are_refused(
    write_int8: Write, ingredients: dict[str, Any], side: str, tmp_path: Path
) -> None:
    good = ingredients["int8"].golden[0]
    arrays = {"inputs": good.inputs, "outputs": good.outputs}
    bad = GoldenSample(**{**arrays, side: tuple(a.astype(np.float32) for a in arrays[side])})
    with pytest.raises(StepFailed, match=f"{side} of golden sample 0 hold float32"):
        write_int8(golden=[bad])
    assert not (tmp_path / "out").exists()


def test_equal_inputs_give_equal_bundles(ingredients: dict[str, Any], tmp_path: Path) -> None:
    one, two = (ingredients["int8"].write(tmp_path / name) for name in ("one", "two"))
    for file in one.rglob("*"):
        if file.is_file():
            assert file.read_bytes() == (two / file.relative_to(one)).read_bytes()


# -- comparing


@pytest.mark.parametrize(
    ("expected", "got", "tolerance", "mismatched", "max_abs"),
    [
        ([1, 2], [1, 2], Tolerance(), 0, 0.0),
        ([1, 2], [1, 3], Tolerance(), 1, 1.0),
        ([1, 2], [1, 3], Tolerance(atol=1), 0, 1.0),
        ([100.0], [101.0], Tolerance(rtol=0.02), 0, 1.0),
        ([100.0], [101.0], Tolerance(rtol=0.002), 1, 1.0),
        ([float("nan")], [float("nan")], Tolerance(), 0, 0.0),
        ([float("nan")], [0.0], Tolerance(atol=9), 1, float("inf")),
        ([0.0], [float("nan")], Tolerance(atol=9), 1, float("inf")),
        ([float("inf")], [float("inf")], Tolerance(), 0, 0.0),
        ([float("inf")], [1.0], Tolerance(rtol=1), 1, float("inf")),
        ([1.0], [float("inf")], Tolerance(rtol=1), 1, float("inf")),
        ([], [], Tolerance(), 0, 0.0),
    ],
)
def test_compare(
    expected: list[float], got: list[float], tolerance: Tolerance, mismatched: int, max_abs: float
) -> None:
    (result,) = compare([[np.array(expected)]], [[np.array(got)]], tolerance)
    assert (result.mismatched, result.max_abs) == (mismatched, max_abs)
    assert result.passed == (mismatched == 0)


def test_int8_extremes_do_not_wrap() -> None:
    low, high = np.array([-128], np.int8), np.array([127], np.int8)
    assert compare([[low]], [[high]], Tolerance())[0].max_abs == 255.0


def test_what_cannot_be_compared_is_an_error() -> None:
    x = np.zeros((1, 2), np.float32)
    with pytest.raises(StepFailed, match="cannot be compared"):
        compare([[x]], [[x[0]]], Tolerance())
    with pytest.raises(StepFailed, match="cannot be compared"):
        compare([[x]], [[x.astype(np.float64)]], Tolerance())
    with pytest.raises(StepFailed, match="2 outputs, 1 came back"):
        compare([[x, x]], [[x]], Tolerance())
    with pytest.raises(StepFailed, match="0 samples came back"):
        compare([[x]], [], Tolerance())


@pytest.mark.parametrize("bad", [-1.0, float("inf"), float("nan")])
def test_a_tolerance_is_finite_and_not_negative(bad: float) -> None:
    with pytest.raises(ValueError, match="tolerance"):
        Tolerance(atol=bad)
