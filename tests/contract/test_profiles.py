"""What every shipped profile must keep, written once and run for each."""

from __future__ import annotations

import json
import tomllib

import pytest

from edgekit.profiles import DeviceProfile, lint, load_profile
from edgekit.profiles.lint import EMULATED, HWCAPS, figures
from edgekit.profiles.loader import shipped_files
from edgekit.store import digest_json

FILES = shipped_files()
EXPECTED = {
    "generic_arm64", "pi3b", "pi4", "pi5", "pi_zero2w", "android_xnnpack", "android_gpu", "android_nnapi",
    "jetson_nano", "jetson_xavier_nx", "jetson_orin_nano", "jetson_orin_nx", "jetson_agx_orin",
}  # fmt: skip


def test_the_promised_profiles_ship() -> None:
    assert set(FILES) >= EXPECTED


EXTENDING = sorted(name for name, path in FILES.items() if "extends" in tomllib.loads(path.read_text()))
EMULATED_PROFILES = ["android_xnnpack", "pi3b", "pi4", "pi5", "pi_zero2w"]


@pytest.fixture(params=sorted(FILES))
def profile(request: pytest.FixtureRequest) -> DeviceProfile:
    return load_profile(request.param)


def test_id_is_the_file_name(profile: DeviceProfile) -> None:
    assert FILES[profile.id].stem == profile.id
    assert profile.title


def test_lints_clean(profile: DeviceProfile) -> None:
    assert lint(profile) == []


def test_each_figure_has_a_source(profile: DeviceProfile) -> None:
    stated = figures(profile)
    assert stated
    assert [path for path in stated if not profile.source_of(path)] == []


@pytest.mark.parametrize("name", EXTENDING)
def test_a_changed_figure_has_a_source_of_its_own(name: str) -> None:
    """A board that overrides a figure must not live on its base's source for another value."""
    profile = load_profile(name)
    own = tomllib.loads(FILES[name].read_text())
    base = load_profile(own["extends"])
    sources = own.get("sources", {})
    for path in figures(profile):
        value = _at(profile, path)
        if value != _at(base, path):
            covered = any(path == key or path.startswith(f"{key}.") for key in sources)
            assert covered, f"{path} = {value} is not the one of {base.id}, but {name} states no source"


def _at(profile: DeviceProfile, path: str) -> object:
    value: object = profile.model_dump(mode="json")
    for part in path.split("."):
        if isinstance(value, list):
            value = value[int(part)] if int(part) < len(value) else None
        elif isinstance(value, dict):
            value = value.get(part)
    return value


def test_a_device_has_targets_and_a_base_is_marked(profile: DeviceProfile) -> None:
    assert profile.abstract == (profile.id == "generic_arm64")
    if not profile.abstract:
        assert profile.require_concrete().targets


def test_slices_are_json(profile: DeviceProfile) -> None:
    for name in DeviceProfile.model_fields:
        part = profile.slice(name)
        assert json.loads(json.dumps(part, allow_nan=False)) == part
        assert len(digest_json(part)) == 64


def test_the_emulated_profiles() -> None:
    assert [name for name in sorted(FILES) if load_profile(name).emulator] == EMULATED_PROFILES


@pytest.mark.parametrize("name", EMULATED_PROFILES)
def test_the_persona_shows_what_the_emulated_core_has(name: str) -> None:
    profile = load_profile(name)
    assert profile.emulator is not None
    implemented, part = EMULATED[profile.emulator.cpu]
    shown = {flag for flag, name in HWCAPS.items() if name in profile.emulator.features.split()}
    assert shown == set(profile.isa)
    assert shown <= implemented
    for flag in ("dotprod", "fp16", "lse", "i8mm"):
        assert (flag in shown) == (flag in implemented)
    assert {cluster.midr_part for cluster in profile.cores} == {part}


def test_what_the_planner_relies_on(profile: DeviceProfile) -> None:
    for target in profile.targets:
        if target.delegate == "nnapi":
            assert any("35" in warning for warning in target.warnings)
        if target.delegate == "gpu":
            assert target.precisions[0] == "fp16"
    if profile.id.startswith("pi"):
        assert profile.emulator is not None and profile.estimate is not None
        assert (profile.targets[0].runtime, profile.targets[0].precisions[0]) == ("tflite", "int8")
        assert profile.constraints.channel_multiple == (16 if "dotprod" in profile.isa else 8)
    if profile.id.startswith("jetson"):
        assert profile.emulator is None, "needs a GPU"
        assert profile.targets[0].delegate == "tensorrt"
