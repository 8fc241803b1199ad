"""A draft of a profile from what a device says of itself, each figure with its source."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

from edgekit.errors import Unsupported

_STEP, _STEP_DOTPROD = 8, 16
_MOST_THREADS = 4
_GENERIC = {"aarch64": "generic_arm64", "x86_64": "generic_x86_64"}
_PHONE_TARGETS = """\
[[targets]]
runtime = "tflite"
delegate = "xnnpack"
precisions = ["int8", "float32", "dynamic", "fp16", "int16x8"]
min_version = "2.14.0"

[[targets]]
runtime = "executorch"
delegate = "xnnpack"
precisions = ["int8", "float32", "dynamic"]
min_version = "1.5.1"
warnings = ["org.pytorch:executorch-android must have the version of the exporter"]
"""


def draft_profile(facts: Mapping[str, Any]) -> tuple[str, str]:
    """(id, TOML text) of a profile for the device with these facts; it passes `edgekit profiles check`.

    What the device does not tell is left out. Latency estimates and an emulator are not in it: their
    figures cannot be read off. Raises Unsupported for a machine that no target is known for.
    """
    arch = str(facts.get("arch"))
    phone = facts.get("api_level") is not None
    if arch not in _GENERIC:
        raise Unsupported(
            f"no profile can be drafted for a machine of {arch}", hint="edgekit builds for aarch64 and x86_64"
        )
    name = str(facts.get("name") or "device")
    identifier = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") or "device"
    if not identifier[0].isalpha():
        identifier = f"device_{identifier}"
    return identifier, "\n".join(_lines(facts, identifier, name, arch, phone)) + "\n"


def _lines(facts: Mapping[str, Any], identifier: str, name: str, arch: str, phone: bool) -> Iterator[str]:
    yield f"# Draft by `edgekit profiles detect {_one_line(facts.get('link'))}`: read it before you build."
    yield f"id = {_text(identifier)}"
    if not phone:
        yield f"extends = {_text(_GENERIC[arch])}"
    yield f"title = {_text(name)}"
    if facts.get("soc"):
        yield f"soc = {_text(facts['soc'])}"
    abi = "arm64-v8a" if phone else arch
    system = _text(facts.get("os") or ("Android" if phone else "Linux"))
    yield from ("", "[os]", f"name = {system}", "bits = 64", f"abi = {_text(abi)}")
    isa = sorted(facts.get("isa") or ())
    for cluster in facts.get("clusters") or ():
        yield from ("", "[[cores]]", *_cluster(cluster, isa))
    caches = list(_caches(facts))
    if caches:
        yield from ("", "[caches]", *caches)
    if facts.get("memory_mib"):
        yield from ("", "[memory]", f"mib = {facts['memory_mib']}")
    if phone:
        yield from ("", _PHONE_TARGETS.rstrip())
    step = _STEP_DOTPROD if "dotprod" in isa else _STEP
    threads = _threads(facts)
    yield from ("", "[constraints]")
    if arch == "aarch64":
        yield f"channel_multiple = {step}"
    yield from ("static_shapes = true", f"threads = {threads}")
    if phone:
        yield from ("", "[protocol]", "warmup = 10", "runs = 100")
    yield from ("", "[sources]", *_sources(facts, arch, phone, bool(caches)))


def _cluster(cluster: Mapping[str, Any], isa: list[str]) -> Iterator[str]:
    implementer, part = cluster.get("midr_implementer"), cluster.get("midr_part")
    kind = cluster.get("microarchitecture") or (
        f"unknown (implementer {implementer:#x}, part {part:#x})" if implementer and part else "unknown"
    )
    yield f"microarchitecture = {_text(kind)}"
    yield f"count = {cluster['count']}"
    if cluster.get("max_mhz"):
        yield f"ghz = {cluster['max_mhz'] / 1000}"
    if cluster.get("min_mhz"):
        yield f"min_ghz = {cluster['min_mhz'] / 1000}"
    yield f"isa = {json.dumps(isa)}"
    for key in ("midr_implementer", "midr_part", "midr_variant", "midr_revision"):
        if cluster.get(key) is not None:
            yield f"{key} = {cluster[key]:#x}"


def _caches(facts: Mapping[str, Any]) -> Iterator[str]:
    names = {(1, "Data"): "l1d", (1, "Instruction"): "l1i", (2, "Unified"): "l2", (3, "Unified"): "l3"}
    for cache in facts.get("caches") or ():
        name = names.get((cache["level"], cache["type"]))
        if name:
            figures = {k: cache[k] for k in ("kib", "ways", "shared_by", "line_bytes") if cache.get(k)}
            yield f"{name} = {{ {', '.join(f'{k} = {v}' for k, v in figures.items())} }}"


def _threads(facts: Mapping[str, Any]) -> int:
    """As many as the fastest kind of core has, or all cores, and no more than four."""
    clusters = [c for c in facts.get("clusters") or () if c.get("max_mhz")]
    count = max(clusters, key=lambda c: float(c["max_mhz"]))["count"] if clusters else facts.get("cores") or 1
    total = sum(c["count"] for c in facts.get("clusters") or ()) or facts.get("cores") or 1
    big = sum(c["count"] for c in clusters if c["max_mhz"] > 0.7 * max(x["max_mhz"] for x in clusters))
    return int(max(1, min(_MOST_THREADS, max(count, big), total)))


def _sources(facts: Mapping[str, Any], arch: str, phone: bool, caches: bool) -> Iterator[str]:
    read = f"read on {_one_line(facts.get('link'))} by edgekit, {time.strftime('%Y-%m-%d')}"
    system = "system properties" if phone else "os-release and the ELF header of its shell"
    yield f"os = {_text(f'{system}, {read}')}"
    if facts.get("clusters"):
        yield f"cores = {_text(f'/proc/cpuinfo, cpufreq and midr_el1 in sysfs, {read}')}"
    if caches:
        yield f"caches = {_text(f'sysfs, first core, {read}')}"
    if facts.get("memory_mib"):
        yield f'"memory.mib" = {_text(f"MemTotal of /proc/meminfo (what the kernel leaves), {read}")}'
    if arch == "aarch64":
        rule = "XNNPACK in LiteRT 2.3, counted: int8 steps by 8 output channels, by 16 with dot product"
        yield f'"constraints.channel_multiple" = {_text(rule)}'
    yield f'"constraints.threads" = {_text("choice of edgekit: the fast cores, at most four")}'
    if phone:
        yield f"targets = {_text('what edgekit builds for 64-bit Android; not run on this device by detect')}"
        yield f"protocol = {_text('10 warm-ups and 100 runs of benchmark_model over adb, choice of edgekit')}"


def _text(value: Any) -> str:
    """A TOML string; JSON's differ in the escape of DEL only."""
    return json.dumps(_one_line(value), ensure_ascii=False).replace("\x7f", "\\u007f")


def _one_line(value: Any) -> str:
    return "".join(char for char in " ".join(str(value).split()) if char.isprintable())
