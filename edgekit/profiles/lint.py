"""What is wrong with a profile that loads: figures without a source, contradictions, unwise targets."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from edgekit.profiles.complaints import fields_at
from edgekit.profiles.schema import Delegate, DeviceProfile, Target

# What QEMU 7.2 implements of the optional extensions, and the core's Main ID Register part number
# (Arm's Technical Reference Manuals). neoverse-n1 is the server sister of the A76.
_ARMV8_0 = frozenset({"neon", "crc32", "aes", "sha2"})
_ARMV8_2 = _ARMV8_0 | {"lse", "rdm", "fp16", "dotprod"}
EMULATED: Mapping[str, tuple[frozenset[str], int]] = {
    "cortex-a35": (_ARMV8_0, 0xD04),
    "cortex-a53": (_ARMV8_0, 0xD03),
    "cortex-a57": (_ARMV8_0, 0xD07),
    "cortex-a72": (_ARMV8_0, 0xD08),
    "cortex-a76": (_ARMV8_2, 0xD0B),
    "neoverse-n1": (_ARMV8_2, 0xD0C),
}
# Kernel names of the Features line (Documentation/arch/arm64/elf_hwcaps.rst) for each isa flag.
HWCAPS: Mapping[str, str] = {
    "neon": "asimd",
    "crc32": "crc32",
    "aes": "aes",
    "sha2": "sha2",
    "lse": "atomics",
    "rdm": "asimdrdm",
    "fp16": "asimdhp",
    "dotprod": "asimddp",
    "i8mm": "i8mm",
    "bf16": "bf16",
    "sve": "sve",
}
# Runtimes choose kernels by these: the persona must neither promise nor hide them. The crypto
# extensions may be absent from a chip (Raspberry Pi 3 and 4) though QEMU's core has them.
_STEERING = frozenset({"neon", "lse", "rdm", "fp16", "dotprod", "i8mm", "bf16", "sve"})

# XNNPACK's int8 kernels step by 8 output channels, with dot product by 16 (measured with LiteRT 2.3).
_INT8_CPU_DELEGATES: tuple[Delegate, ...] = ("xnnpack", "qnnpack")
_INT8_STEP, _INT8_STEP_DOTPROD = 8, 16
_NNAPI_PRECISIONS = frozenset({"int8", "fp16", "float32"})
_QNNPACK_PRECISIONS = {"int8", "dynamic", "float32"}
"""What torch runs beside it: dynamic int8 for linear and recurrent layers, float32 everywhere."""


def lint(profile: DeviceProfile) -> list[str]:
    """Findings, one sentence each; an empty list for a clean profile."""
    return [
        *_sources(profile),
        *_targets(profile),
        *_constraints(profile),
        *_emulator(profile),
    ]


def figures(profile: DeviceProfile) -> list[str]:
    """Key paths of all figures that the profile states (defaults of the schema are not figures)."""
    data = profile.model_dump(mode="python", exclude_unset=True)
    return [path for key, value in data.items() if key != "sources" for path in _numbers(value, key)]


def _numbers(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _numbers(item, f"{path}.{key}")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _numbers(item, f"{path}.{index}")
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield path


def _sources(profile: DeviceProfile) -> Iterator[str]:
    for path in figures(profile):
        if profile.source_of(path) is None:
            yield f"{path} has no source: add it to [sources], under this key or one above it"
    for key, text in profile.sources.items():
        *above, last = (part for part in key.split(".") if not part.isdigit())
        known = fields_at(above)
        if last not in known:
            near = difflib.get_close_matches(last, known, n=1)
            yield f"sources: {key!r} is no key of a profile" + (
                f"; did you mean {near[0]!r}?" if near else ""
            )
        if not text.strip():
            yield f"sources: {key!r} is empty"


def _targets(profile: DeviceProfile) -> Iterator[str]:
    if not profile.targets and not profile.abstract:
        yield "targets is empty: a profile that is not abstract needs at least one"
    for index, target in enumerate(profile.targets):
        where = f"targets[{index}] ({target.runtime}/{target.delegate})"
        for problem in _target(profile, target):
            yield f"{where}: {problem}"
    pairs = [(t.runtime, t.delegate) for t in profile.targets]
    for runtime, delegate in sorted({pair for pair in pairs if pairs.count(pair) > 1}):
        yield f"targets: {runtime}/{delegate} is listed twice"


def _target(profile: DeviceProfile, target: Target) -> Iterator[str]:
    first = target.precisions[0]
    if target.version and target.min_version and _parts(target.version) < _parts(target.min_version):
        yield f"version is {target.version}, older than min_version {target.min_version}"
    match target.delegate:
        case "gpu" if first == "int8":
            yield "the GPU delegate computes in float and dequantises int8 weights; put fp16 first"
        case "tensorrt":
            if profile.accelerator is None:
                yield "TensorRT needs an NVIDIA GPU: describe it under [accelerator]"
            elif "int8" in target.precisions and not profile.accelerator.int8:
                yield f"{profile.accelerator.name} has no int8 path; leave int8 out"
            if "dynamic" in target.precisions:
                yield "TensorRT has no dynamic-range precision; leave dynamic out"
            if not target.version:
                yield 'say which TensorRT the device has, for example version = "10.3" (JetPack 6.2)'
        case "nnapi":
            if not set(target.precisions) <= _NNAPI_PRECISIONS:
                yield "NNAPI runs full int8 or float models; leave dynamic out"
            if not any("35" in warning for warning in target.warnings):
                yield "warnings must say that NNAPI is deprecated from API 35 (Android 15)"
        case "qnnpack" if first != "int8" or not set(target.precisions) <= _QNNPACK_PRECISIONS:
            yield "QNNPACK has int8 kernels only: put int8 first, and behind it at most dynamic and float32"
        case _:
            pass
    if target.delegate in ("xnnpack", "nnapi") and not profile.constraints.static_shapes:
        yield "this delegate takes static shapes only; set constraints.static_shapes = true"


def _parts(version: str) -> tuple[int, ...]:
    """Numbers of a version, without zeros at the end: "10.0" is as old as "10"."""
    numbers = [int(part) if part.isdigit() else 0 for part in version.split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def _constraints(profile: DeviceProfile) -> Iterator[str]:
    threads, cores = profile.constraints.threads, profile.core_count
    if cores and threads > cores:
        yield f"constraints.threads is {threads}, but the device has {cores} cores"
    on_cpu = [t for t in profile.targets if t.delegate in _INT8_CPU_DELEGATES and "int8" in t.precisions]
    if not on_cpu or not profile.cores:
        return
    step = _INT8_STEP_DOTPROD if "dotprod" in profile.isa else _INT8_STEP
    if profile.constraints.channel_multiple % step:
        kind = "with" if step == _INT8_STEP_DOTPROD else "without"
        yield (
            f"constraints.channel_multiple is {profile.constraints.channel_multiple}, but int8 kernels "
            f"step by {step} channels on cores {kind} dot product"
        )


def _emulator(profile: DeviceProfile) -> Iterator[str]:
    emulator = profile.emulator
    if emulator is None:
        return
    implemented, part = EMULATED[emulator.cpu]
    features = frozenset(emulator.features.split())
    shown = frozenset(flag for flag, name in HWCAPS.items() if name in features)
    for index, cluster in enumerate(profile.cores):
        where = f"cores[{index}]"
        if cluster.microarchitecture != emulator.cpu:
            yield f"{where} is {cluster.microarchitecture}, but emulator.cpu is {emulator.cpu}"
        if cluster.midr_part != part:
            yield f"{where}.midr_part is {cluster.midr_part:#x}, but {emulator.cpu} is {part:#x}"
        if excess := frozenset[str](cluster.isa) - implemented:
            yield f"{where}.isa has {_listed(excess)}, which {emulator.cpu} does not implement"
        if hidden := (implemented & _STEERING) - frozenset[str](cluster.isa):
            yield f"{where}.isa lacks {_listed(hidden)}, which {emulator.cpu} implements"
        if shown != (stated := frozenset[str](cluster.isa) & HWCAPS.keys()):
            differ = shown ^ stated
            names = ", ".join(f"{flag} is {HWCAPS[flag]}" for flag in sorted(differ))
            yield (
                f"emulator.features and {where}.isa disagree on {_listed(differ)} ({names} in /proc/cpuinfo)"
            )
    if profile.os.abi not in ("aarch64", "arm64-v8a"):
        yield f"the emulator runs 64-bit ARM programs, but os.abi is {profile.os.abi}"


def _listed(flags: frozenset[str]) -> str:
    return ", ".join(sorted(flags))
