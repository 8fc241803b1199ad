"""What a bundle for TensorRT holds beside the ONNX files, and which further precisions it needs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib.resources import files
from typing import TYPE_CHECKING

from edgekit.backends.onnx.tensorrt import scripts
from edgekit.backends.onnx.tensorrt.lines import Line, line_of
from edgekit.backends.onnx.tensorrt.scripts import Engine
from edgekit.types import Artifact, Precision, Scheme

if TYPE_CHECKING:
    from edgekit.profiles.schema import DeviceProfile, Target

DELEGATE = "tensorrt"

TOLERANCES: Mapping[Precision, tuple[float, float]] = {
    "float32": (1e-3, 1e-3),
    "fp16": (0.02, 0.02),
    "int8": (0.1, 0.1),
}
"""How far an engine may be from what ONNX Runtime computes with the same file: a share of the output's
largest value, and a share of each value. TensorRT fuses layers and rounds int8 in other places, so that
values move by some of 127 steps. Judged, not measured: no TensorRT was at hand."""
_TO_FIRST = (0.25, 0.1)
"""The same against the outputs of the bundle's first file in another precision: the error of its
quantisation comes on top."""
_WARMUP_MS = 500


def companions(target: Target, scheme: Scheme) -> tuple[Scheme, ...]:
    """An int8 file is joined by an fp16 one: which engine is faster shows on the device only.

    An fp16 file is alone: int8 was not asked for and needs calibration and gates of its own.
    """
    if target.delegate != DELEGATE or scheme.precision != "int8" or "fp16" not in target.precisions:
        return ()
    return (replace(scheme, precision="fp16", io="float", overrides={}),)


def bundle_files(
    artifacts: Sequence[Artifact], profile: DeviceProfile, target: Target
) -> Mapping[str, bytes]:
    """build_engine.sh, bench.sh, jetson.py with its jetson.json, and README-jetson.md.

    ``artifacts`` are the file of the plan and its companions. Empty for delegates other than TensorRT.
    Raises Unsupported for a TensorRT version or a precision without engines.
    """
    if target.delegate != DELEGATE:
        return {}
    line = line_of(target.version)
    engines = [_engine(artifact, place) for place, artifact in enumerate(artifacts)]
    warmup_ms = profile.protocol.warmup_ms if profile.protocol.warmup_ms is not None else _WARMUP_MS
    bench = scripts.bench_script(line, engines, warmup_ms=warmup_ms, runs=profile.protocol.runs)
    return {
        "build_engine.sh": scripts.build_script(line, engines).encode(),
        "bench.sh": bench.encode(),
        "jetson.py": files("edgekit.backends.onnx.tensorrt").joinpath("device.py").read_bytes(),
        "jetson.json": _config(line, engines, profile, warmup_ms).encode(),
        "README-jetson.md": _readme(line, engines, artifacts[0], profile).encode(),
    }


def _engine(artifact: Artifact, place: int) -> Engine:
    return Engine(
        name=artifact.precision,
        model="model.onnx" if place == 0 else f"model_{artifact.precision}.onnx",
        precision=artifact.precision,
        inputs=tuple(t.name for t in artifact.inputs),
        outputs=tuple(t.name for t in artifact.outputs),
    )


def _config(line: Line, engines: Sequence[Engine], profile: DeviceProfile, warmup_ms: int) -> str:
    rows = []
    for engine in engines:
        limits = {"tolerance": TOLERANCES[engine.precision], "tolerance_to_first": _TO_FIRST}
        rows.append({**asdict(engine), **{k: {"share": v[0], "relative": v[1]} for k, v in limits.items()}})
    made = {
        "schema_version": 1,
        "profile": profile.id,
        "line": line.name,
        "since": line.since,
        "before": line.before,
        "int64": line.int64,
        "warmup_ms": warmup_ms,
        "exactness": [p for p in scripts.EXACTNESS if any(e.name == p for e in engines)],
        "engines": rows,
    }
    return json.dumps(made, indent=1, allow_nan=False) + "\n"


def _readme(line: Line, engines: Sequence[Engine], artifact: Artifact, profile: DeviceProfile) -> str:
    rows = [
        f"| `engines/{e.name}.plan` | `{e.model}` | `{' '.join(line.flags(e.precision)) or '(none)'}` |"
        for e in engines
    ]
    tensors = [
        f"| {side} | {_cell(t.name)} | {t.dtype} | {'x'.join(map(str, t.shape))} | {t.layout or ''} |"
        for side, specs in (("input", artifact.inputs), ("output", artifact.outputs))
        for t in specs
    ]
    jetpack = f" (JetPack {line.jetpack})" if line.jetpack else ""
    several = len(engines) > 1
    return scripts.template("README-jetson.md").format(
        device=_cell(profile.title),
        version=f"{line.name}{jetpack}",
        line=line.name,
        engines="\n".join(rows),
        tensors="\n".join(tensors),
        typing=_TYPING_11 if line.since >= (11, 0) else _TYPING_10 if line.since >= (10, 0) else _TYPING_8,
        pick=_PICK if several else "There is one engine, so it is kept if it gives the golden outputs.",
        jetson_11=_JETSON_11 if line.since >= (11, 0) else "",
    )


def _cell(text: str) -> str:
    """Text for a table cell or a line of Markdown."""
    clean = "".join(c if c.isprintable() else " " for c in text)
    for mark in "\\`|*_<>[]{}":
        clean = clean.replace(mark, "\\" + mark)
    return clean


_PICK = """\
INT8 is often *slower* than FP16 on Orin class devices, since layers without an int8 form need
conversions around them. That cannot be known without the device, so both are built here, and the faster
of those that give the golden outputs is kept. Differences below 2 % count as a tie, which the more exact
engine wins."""
_TYPING_8 = """\
INT8 comes from the QuantizeLinear / DequantizeLinear pairs in the file (explicit quantisation, no
calibration on the device); `--fp16` leaves the other layers to half precision. The FP16 file holds
half-precision weights already and takes and gives float32."""
_TYPING_10 = """\
INT8 comes from the QuantizeLinear / DequantizeLinear pairs in the file (explicit quantisation, no
calibration on the device); `--int8 --fp16` allows half precision for all layers without such pairs, which
`--stronglyTyped` would keep in float32. TensorRT 10.16 calls these two flags deprecated but still has them.
The FP16 file holds half-precision weights already and is built with `--stronglyTyped`, so that the device
computes with the types that were checked when the bundle was made. Building a float32 file with `--fp16`
instead would let TensorRT choose per layer, with numbers that nobody has looked at before."""
_TYPING_11 = """\
TensorRT 11 knows no precision flags any more: the types of the file are kept (strong typing). INT8 comes
from the QuantizeLinear / DequantizeLinear pairs, layers without them compute in float32; the FP16 file
holds half-precision weights already."""
_JETSON_11 = """
NVIDIA supports TensorRT 11 on other devices, not with JetPack (release notes of 11.0 to 11.4): on a
Jetson, use the profile's default instead.
"""
