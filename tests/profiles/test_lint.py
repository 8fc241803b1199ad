from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgekit.profiles import DeviceProfile, lint, load_profile
from edgekit.profiles.lint import figures

WriteProfile = Callable[..., Path]


def changed(name: str, **changes: Any) -> list[str]:
    """Findings of a shipped profile with some attributes changed; a dict is merged one level deep."""
    data = load_profile(name).model_dump(exclude_unset=True)
    for key, value in changes.items():
        data[key] = {**(data.get(key) or {}), **value} if isinstance(value, dict) else value
    return lint(DeviceProfile.model_validate(data))


def core(name: str, **changes: Any) -> list[dict[str, Any]]:
    return [load_profile(name).cores[0].model_dump() | changes]


def target(runtime: str, delegate: str, *precisions: str, **more: Any) -> list[dict[str, Any]]:
    return [{"runtime": runtime, "delegate": delegate, "precisions": precisions, **more}]


def test_a_clean_profile(write: WriteProfile) -> None:
    assert lint(load_profile(str(write()))) == []


def test_a_figure_without_source_is_found(write: WriteProfile, board_text: str) -> None:
    path = write(board_text.replace('memory = "test"\n', ""))
    assert lint(load_profile(str(path))) == [
        "memory.mib has no source: add it to [sources], under this key or one above it"
    ]


def test_defaults_of_the_schema_are_not_figures(write: WriteProfile) -> None:
    found = figures(load_profile(str(write())))
    assert "memory.mib" in found and "cores.0.ghz" in found and "os.bits" in found
    assert not any(path.startswith(("protocol", "sources", "cores.0.midr")) for path in found)


def test_a_source_of_no_key_is_found_with_its_spelling() -> None:
    assert changed("pi4", sources={"memory.mibb": "x"}) == [
        "sources: 'memory.mibb' is no key of a profile; did you mean 'mib'?"
    ]
    assert changed("pi4", sources={"cores.0.ghz": "one cluster"}) == []
    assert changed("pi4", sources={"cores": " "})[-1] == "sources: 'cores' is empty"


def test_a_concrete_profile_needs_a_target() -> None:
    assert changed("pi4", targets=[]) == [
        "targets is empty: a profile that is not abstract needs at least one"
    ]
    assert changed("generic_arm64", targets=[]) == []


def test_a_target_is_listed_once() -> None:
    twice = target("tflite", "xnnpack", "int8") * 2
    assert changed("pi4", targets=twice) == ["targets: tflite/xnnpack is listed twice"]


@pytest.mark.parametrize(
    ("name", "given", "finding"),
    [
        ("android_gpu", target("tflite", "gpu", "int8", "fp16"), "put fp16 first"),
        ("android_gpu", target("tflite", "gpu", "fp16", "int8"), None),
        (
            "jetson_nano",
            target("onnx", "tensorrt", "int8", version="8.2"),
            "NVIDIA Maxwell GPU has no int8 path",
        ),
        ("jetson_orin_nx", target("onnx", "tensorrt", "int8", "fp16", version="10.3"), None),
        ("jetson_orin_nx", target("onnx", "tensorrt", "fp16"), "say which TensorRT the device has"),
        (
            "jetson_orin_nx",
            target("onnx", "tensorrt", "fp16", version="8.5.2", min_version="10.0"),
            "version is 8.5.2, older than min_version 10.0",
        ),
        ("jetson_orin_nx", target("onnx", "tensorrt", "fp16", version="10", min_version="10.0"), None),
        ("jetson_orin_nx", target("onnx", "tensorrt", "dynamic", version="10.3"), "leave dynamic out"),
        ("pi4", target("onnx", "tensorrt", "fp16", version="10.3"), "describe it under [accelerator]"),
        ("android_nnapi", target("tflite", "nnapi", "int8"), "deprecated from API 35"),
        ("android_nnapi", target("tflite", "nnapi", "int8", warnings=["deprecated from API 35"]), None),
        ("android_nnapi", target("tflite", "nnapi", "dynamic", warnings=["API 35"]), "leave dynamic out"),
        ("pi4", target("torchscript", "qnnpack", "int8", "fp16"), "QNNPACK has int8 kernels only"),
    ],
)
def test_targets(name: str, given: list[dict[str, Any]], finding: str | None) -> None:
    found = changed(name, targets=given)
    assert found == [] if finding is None else len(found) == 1 and finding in found[0]


def test_static_shapes_where_the_delegate_needs_them() -> None:
    assert "constraints.static_shapes" in changed("android_nnapi", constraints={"static_shapes": False})[0]


@pytest.mark.parametrize(
    ("name", "multiple", "finding"),
    [
        ("pi4", 4, "step by 8 channels on cores without dot product"),
        ("pi4", 16, None),
        ("pi5", 8, "step by 16 channels on cores with dot product"),
        ("pi5", 32, None),
        ("android_gpu", 4, None),
    ],
)
def test_channel_multiple_follows_the_int8_kernels(name: str, multiple: int, finding: str | None) -> None:
    found = changed(name, constraints={"channel_multiple": multiple})
    assert found == [] if finding is None else len(found) == 1 and finding in found[0]


def test_more_threads_than_cores() -> None:
    assert changed("pi4", constraints={"threads": 8}) == [
        "constraints.threads is 8, but the device has 4 cores"
    ]


def test_an_a72_has_no_dot_product() -> None:
    found = changed(
        "pi4", cores=core("pi4", isa=("neon", "crc32", "dotprod")), constraints={"channel_multiple": 16}
    )
    assert found == [
        "cores[0].isa has dotprod, which cortex-a72 does not implement",
        "emulator.features and cores[0].isa disagree on dotprod (dotprod is asimddp in /proc/cpuinfo)",
    ]


def test_an_a76_has_dot_product() -> None:
    isa = tuple(flag for flag in load_profile("pi5").cores[0].isa if flag != "dotprod")
    assert (
        changed("pi5", cores=core("pi5", isa=isa))[0]
        == "cores[0].isa lacks dotprod, which cortex-a76 implements"
    )


def test_the_persona_must_not_hide_what_the_cores_have() -> None:
    features = load_profile("pi5").emulator
    assert features is not None
    hidden = features.features.replace(" asimddp", "")
    assert changed("pi5", emulator={"features": hidden}) == [
        "emulator.features and cores[0].isa disagree on dotprod (dotprod is asimddp in /proc/cpuinfo)"
    ]


def test_crypto_may_be_fused_off() -> None:
    """The Raspberry Pi 4 has an A72 without it; QEMU's A72 has it. Kernels are not chosen by it."""
    assert "aes" not in load_profile("pi4").isa
    assert lint(load_profile("pi4")) == []


def test_emulated_core_and_profile_must_be_the_same() -> None:
    found = changed("pi4", emulator={"cpu": "cortex-a53"})
    assert found == [
        "cores[0] is cortex-a72, but emulator.cpu is cortex-a53",
        "cores[0].midr_part is 0xd08, but cortex-a53 is 0xd03",
    ]


def test_the_emulator_is_64_bit() -> None:
    assert "os.abi is armv7l" in changed("pi4", os={"abi": "armv7l", "bits": 32})[0]
