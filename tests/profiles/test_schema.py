from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from edgekit.errors import ProfileError
from edgekit.profiles import load_profile
from edgekit.profiles.schema import DELEGATES, DeviceProfile, Target
from edgekit.store import digest_json


def test_profiles_and_their_sections_are_frozen() -> None:
    profile = load_profile("pi4")
    for owner, name in (
        (profile, "title"),
        (profile.cores[0], "ghz"),
        (profile.caches, "l2"),
        (profile.memory, "mib"),
    ):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(owner, name, 1)
    assert isinstance(profile.cores, tuple)
    assert isinstance(profile.targets[0].precisions, tuple)


def test_numbers_are_not_taken_from_strings_and_integers_not_from_fractions(board_text: str) -> None:
    import tomllib

    data = tomllib.loads(board_text)
    DeviceProfile.model_validate(data)
    for section, key, bad in (("memory", "mib", "2048"), ("memory", "mib", 2048.5), ("memory", "mib", True)):
        broken = json.loads(json.dumps(data))
        broken[section][key] = bad
        with pytest.raises(ValidationError):
            DeviceProfile.model_validate(broken)


@pytest.mark.parametrize(
    ("runtime", "delegate"), [(r, d) for r, known in DELEGATES.items() for d in known], ids=lambda v: v
)
def test_a_runtime_takes_its_own_delegates(runtime: str, delegate: str) -> None:
    assert Target(runtime=runtime, delegate=delegate, precisions=("float32",)).delegate == delegate


def test_a_runtime_refuses_a_foreign_delegate() -> None:
    with pytest.raises(ValidationError, match="runtime tflite has no delegate 'tensorrt'; it has xnnpack"):
        Target(runtime="tflite", delegate="tensorrt", precisions=("fp16",))


def test_operators_to_keep_in_float32_are_those_of_tflite_files() -> None:
    kept = Target(runtime="tflite", delegate="xnnpack", precisions=("int8",), float_ops=("HARD_SWISH",))
    assert kept.float_ops == ("HARD_SWISH",)
    with pytest.raises(ValidationError, match=r"operators of \.tflite files, not of onnx"):
        Target(runtime="onnx", delegate="cpu", precisions=("int8",), float_ops=("HARD_SWISH",))


def test_a_version_is_numbers_and_dots() -> None:
    assert Target(runtime="onnx", delegate="tensorrt", precisions=("fp16",)).version == ""
    for version in ("10.3", "8.5.2", "11"):
        target = Target(runtime="onnx", delegate="tensorrt", precisions=("fp16",), version=version)
        assert target.version == version
    for version in ("10.x", "v10", "10.", "10.3; rm"):
        with pytest.raises(ValidationError, match="version"):
            Target(runtime="onnx", delegate="tensorrt", precisions=("fp16",), version=version)


def test_precisions_are_given_once_and_at_all() -> None:
    with pytest.raises(ValidationError, match="twice"):
        Target(runtime="tflite", delegate="xnnpack", precisions=("int8", "int8"))
    with pytest.raises(ValidationError):
        Target(runtime="tflite", delegate="xnnpack", precisions=())


def test_never_cpu_max() -> None:
    """qemu's -cpu max gave wrong int8 outputs (SME)."""
    data = load_profile("pi4").model_dump()
    data["emulator"]["cpu"] = "max"
    with pytest.raises(ValidationError, match="cortex-a72"):
        DeviceProfile.model_validate(data)


def test_an_emulator_needs_the_figures_of_its_persona() -> None:
    data = load_profile("pi4").model_dump()
    data["caches"]["l2"] = None
    data["cores"][0]["midr_part"] = None
    with pytest.raises(ValidationError, match=r"emulator section needs caches\.l2, cores\[0\]\.midr_part"):
        DeviceProfile.model_validate(data)


def test_slice_is_json_of_the_named_attributes_only() -> None:
    profile = load_profile("pi4")
    part = profile.slice("constraints", "cores")
    assert set(part) == {"constraints", "cores"}
    assert part["cores"][0]["isa"] == ["neon", "crc32"]
    assert json.loads(json.dumps(part)) == part
    assert digest_json(part) == digest_json(load_profile("pi4").slice("cores", "constraints"))
    assert digest_json(part) != digest_json(load_profile("pi5").slice("cores", "constraints"))


def test_slice_of_something_unknown_is_an_error() -> None:
    with pytest.raises(ValueError, match="no attribute core_s"):
        load_profile("pi4").slice("core_s")


def test_isa_is_what_all_cores_have() -> None:
    data = load_profile("pi5").model_dump()
    little = dict(data["cores"][0], microarchitecture="cortex-a53", isa=("neon", "crc32"))
    mixed = DeviceProfile.model_validate(data | {"cores": [data["cores"][0], little], "emulator": None})
    assert mixed.isa == {"neon", "crc32"}
    assert mixed.core_count == 8
    assert load_profile("android_gpu").isa == frozenset()


def test_target_lookup_keeps_the_order_of_preference() -> None:
    profile = load_profile("pi4")
    assert [t.runtime for t in profile.targets] == ["tflite", "executorch", "onnx", "torchscript"]
    found = profile.target("executorch")
    assert found is not None and found.delegate == "xnnpack"
    assert profile.target("tflite", "gpu") is None


def test_sources_cover_what_lies_under_them() -> None:
    profile = load_profile("pi4")
    assert profile.source_of("caches.l2.kib") == profile.sources["caches"]
    assert profile.source_of("memory.copy_gb_s") == profile.sources["memory.copy_gb_s"]
    assert profile.source_of("memory.peak_gb_s") is None


def test_a_base_is_no_device() -> None:
    with pytest.raises(ProfileError, match="describes no device"):
        load_profile("generic_arm64").require_concrete()
    pi4 = load_profile("pi4")
    assert pi4.require_concrete() is pi4
