from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from edgekit.backends.onnx.tensorrt.bundle import TOLERANCES, bundle_files, companions
from edgekit.errors import Unsupported
from edgekit.profiles import load_profile
from edgekit.profiles.schema import Target
from edgekit.types import Artifact, Scheme, TensorSpec

MakeBundle = Callable[..., Any]


def target(*precisions: str, delegate: str = "tensorrt", version: str = "10.3") -> Target:
    return Target(runtime="onnx", delegate=delegate, precisions=precisions, version=version)  # type: ignore[arg-type]


def artifact(tmp_path: Any, precision: str = "int8", name: str = "x") -> Artifact:
    return Artifact(
        sha256="0" * 64,
        format="onnx",
        precision=precision,  # type: ignore[arg-type]
        path=tmp_path / "model.onnx",
        bytes=1,
        inputs=(TensorSpec(name=name, shape=(1, 3, 4, 4), dtype="float32", layout="NCHW"),),
        outputs=(TensorSpec(name="y", shape=(1, 2), dtype="float32"),),
    )


# -- companions


def test_int8_brings_fp16_along() -> None:
    scheme = Scheme(precision="int8", delegate="tensorrt", overrides={"conv": "float32"}, keep_nchw=True)
    (other,) = companions(target("int8", "fp16", "float32"), scheme)
    assert (other.precision, other.delegate, other.keep_nchw) == ("fp16", "tensorrt", True)
    assert other.overrides == {}, "units are kept float for int8's sake"


@pytest.mark.parametrize("precision", ["fp16", "float32"])
def test_other_precisions_are_alone(precision: Any) -> None:
    assert companions(target("int8", "fp16", "float32"), Scheme(precision=precision)) == ()


def test_a_device_without_fp16_and_other_delegates_have_none() -> None:
    assert companions(target("int8"), Scheme(precision="int8")) == ()
    assert companions(target("int8", "fp16", delegate="openvino"), Scheme(precision="int8")) == ()


# -- files


def test_files_of_a_bundle(tmp_path: Any) -> None:
    profile = load_profile("jetson_orin_nano")
    made = bundle_files(
        [artifact(tmp_path), artifact(tmp_path, "fp16", "x_half")], profile, profile.targets[0]
    )
    assert set(made) == {"build_engine.sh", "bench.sh", "jetson.py", "jetson.json", "README-jetson.md"}
    assert all(
        made[name].startswith(b"#!/usr/bin/env") for name in ("build_engine.sh", "bench.sh", "jetson.py")
    )
    config = json.loads(made["jetson.json"])
    assert (config["line"], config["warmup_ms"], config["exactness"]) == ("10.3", 500, ["fp16", "int8"])
    assert [(e["name"], e["model"], e["inputs"]) for e in config["engines"]] == [
        ("int8", "model.onnx", ["x"]),
        ("fp16", "model_fp16.onnx", ["x_half"]),
    ]
    share, relative = TOLERANCES["fp16"]
    assert config["engines"][1]["tolerance"] == {"share": share, "relative": relative}
    for name in ("build_engine.sh", "bench.sh"):
        assert b"@@" not in made[name]


def test_equal_inputs_give_equal_bytes(tmp_path: Any) -> None:
    profile = load_profile("jetson_orin_nano")
    both = [bundle_files([artifact(tmp_path)], profile, profile.targets[0]) for _ in range(2)]
    assert both[0] == both[1]


def test_other_delegates_have_no_files(tmp_path: Any) -> None:
    profile = load_profile("jetson_orin_nano")
    assert bundle_files([artifact(tmp_path)], profile, target("int8", delegate="cpu")) == {}


@pytest.mark.parametrize("name", ["agx_orin", "nano", "orin_nano", "orin_nx", "xavier_nx"])
def test_every_jetson_profile_has_scripts(tmp_path: Any, name: str) -> None:
    profile = load_profile(f"jetson_{name}")
    found = profile.target("onnx", "tensorrt")
    assert found is not None and found.version
    files = bundle_files([artifact(tmp_path, found.precisions[0])], profile, found)
    assert f"TensorRT {found.version}".encode() in files["build_engine.sh"]


def test_unknown_versions_and_precisions_are_refused(tmp_path: Any) -> None:
    profile = load_profile("jetson_orin_nano")
    with pytest.raises(Unsupported, match=r"TensorRT 9\.1"):
        bundle_files([artifact(tmp_path)], profile, target("int8", version="9.1"))
    with pytest.raises(Unsupported, match="no dynamic engines"):
        bundle_files([artifact(tmp_path, "dynamic")], profile, target("int8"))


# -- README


def test_readme_says_what_was_not_run(tmp_path: Any) -> None:
    profile = load_profile("jetson_orin_nano")
    pair = [artifact(tmp_path), artifact(tmp_path, "fp16")]
    text = bundle_files(pair, profile, profile.targets[0])["README-jetson.md"].decode()
    assert "No TensorRT was run when this folder was made" in text
    for needed in (
        "bash build_engine.sh",
        "bash bench.sh",
        "chosen.json",
        "JetPack 6.1 and 6.2",
        profile.title,
    ):
        assert needed in text
    assert "| `engines/int8.plan` | `model.onnx` | `--int8 --fp16` |" in text
    assert "| `engines/fp16.plan` | `model_fp16.onnx` | `--stronglyTyped` |" in text
    assert "| input | x | float32 | 1x3x4x4 | NCHW |" in text
    assert "INT8 is often *slower*" in text


def test_readme_by_line(tmp_path: Any) -> None:
    profile = load_profile("jetson_orin_nano")

    def readme(version: str, *precisions: str) -> str:
        files = [artifact(tmp_path, p) for p in precisions]
        return bundle_files(files, profile, target("int8", version=version))["README-jetson.md"].decode()

    assert "not with JetPack" in readme("11", "int8", "fp16") and "`(none)`" in readme("11", "int8")
    assert "not with JetPack" not in readme("10.16", "int8")
    assert "`--int8 --fp16`" in readme("8.5", "int8") and "stronglyTyped" not in readme("8.5", "int8", "fp16")
    assert "There is one engine" in readme("10.3", "fp16")


def test_names_of_tensors_break_no_table(tmp_path: Any) -> None:
    profile = load_profile("jetson_orin_nano")
    bad = artifact(tmp_path, name="a|b`c`\n<script>[x](y)")
    files = bundle_files([bad], profile, profile.targets[0])
    text = files["README-jetson.md"].decode()
    assert "| input | a\\|b\\`c\\` \\<script\\>\\[x\\](y) | float32 |" in text
    assert "<script>" not in text
    assert json.loads(files["jetson.json"])["engines"][0]["inputs"] == ["a|b`c`\n<script>[x](y)"]


def test_the_bundle_lists_the_scripts_and_can_be_loaded(make_bundle: MakeBundle) -> None:
    from edgekit.bundle import load_manifest

    bundle = make_bundle()
    manifest = load_manifest(bundle.root)
    assert [m["path"] for m in manifest.data["models"]] == ["model.onnx", "model_fp16.onnx"]
    for name in ("build_engine.sh", "bench.sh", "jetson.py"):
        assert (bundle.root / name).stat().st_mode & 0o100
