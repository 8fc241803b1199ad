"""A profile file with measured coefficients, which extends the one that they started from."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.errors import UserError
from edgekit.measure.estimate.calibration import Calibrated, Point
from edgekit.profiles import load_profile

if TYPE_CHECKING:
    from edgekit.profiles.schema import DeviceProfile, Target

_PACKAGE = {
    "tflite": "ai-edge-litert",
    "executorch": "executorch",
    "onnx": "onnxruntime",
    "torchscript": "torch",
}
"""What runs the files of a runtime, as tools' versions name it."""
_LEFT_OUT = frozenset({"name", "arch", "emulated"})


def conditions(device: Mapping[str, Any], runtime: str) -> str:
    """Under which the runs were taken, as the link tells: processor, clocks, governor, temperature, ..."""
    told = {k: v for k, v in device.items() if k not in _LEFT_OUT and v not in (None, "", [], {})}
    unknown = [k for k in ("governor", "clock_ghz", "temperature_c") if not any(k[:5] in t for t in told)]
    text = "; ".join(f"{key} {_plain(value)}" for key, value in told.items())
    missing = f"; not told: {', '.join(unknown)}" if unknown else ""
    return f"{runtime}; {text}{missing}"


def runtime_name(target: Target, tools: Mapping[str, str]) -> str:
    """Runtime with its version, and delegate: "tflite (ai-edge-litert 2.3.0) with xnnpack"."""
    package = _PACKAGE[target.runtime]
    version = tools.get(package, "version unknown")
    return f"{target.runtime} ({package} {version}) with {target.delegate}"


def check_out(out: Path) -> None:
    """Raise UserError unless a profile can be written there, which is found before long work starts."""
    if out.suffix != ".toml":
        raise UserError(
            f"{out} is no profile: its name must end in .toml", hint="give --out a name such as my_board.toml"
        )
    if out.exists():
        raise UserError(f"{out} is there already", hint="give another name to --out, or remove it")
    if not out.parent.is_dir():
        raise UserError(f"there is no folder {out.parent}", hint="make it first")


def write_profile(
    out: Path,
    base: str,
    profile: DeviceProfile,
    target: Target,
    found: Calibrated,
    points: Sequence[Point],
    *,
    runtime: str,
    state: str,
) -> DeviceProfile:
    """Write ``out`` and return the profile that it holds; ``base`` is the name or path that ``profile`` has.

    The whole file appears under its name or none. Raises UserError when ``out`` is there already, is not a
    .toml file, or its folder cannot be written.
    """
    check_out(out)
    lines = "\n".join(_lines(out, base, profile, target, found, points, runtime, state)) + "\n"
    draft = out.with_name(f".{out.stem}.{os.getpid()}.toml")  # beside it: what it extends is found from there
    try:
        draft.write_text(lines, encoding="utf-8")
        load_profile(str(draft.resolve()))
        draft.replace(out)
    except OSError as exc:
        raise UserError(f"{out} cannot be written: {exc.strerror}") from exc
    finally:
        draft.unlink(missing_ok=True)
    return load_profile(str(out.resolve()))


def _is_path(name: str) -> bool:
    return "/" in name or name.endswith(".toml")


def _extends(out: Path, base: str) -> str:
    if not _is_path(base):
        return base
    return os.path.relpath(Path(base).expanduser().resolve(), out.parent.resolve())


def _lines(
    out: Path,
    base: str,
    profile: DeviceProfile,
    target: Target,
    found: Calibrated,
    points: Sequence[Point],
    runtime: str,
    state: str,
) -> Iterator[str]:
    model = profile.estimate
    assert model is not None
    error = f"{100 * found.error:.0f} % median error with one model left out"
    if found.network_error is not None:
        error += f", {100 * found.network_error:.0f} % mean error on networks left out"
    models = ", ".join(dict.fromkeys(p.model for p in points))
    name = re.sub(r"[^a-z0-9_]+", "_", out.stem.lower()).strip("_")
    yield f"id = {json.dumps(name if name[:1].isalpha() else f'board_{name}'.rstrip('_'))}"
    yield f"extends = {json.dumps(_extends(out, base))}"
    yield f"title = {json.dumps(f'{profile.title}, calibrated', ensure_ascii=False)}"
    yield f"description = {json.dumps(profile.description, ensure_ascii=False)}"
    yield ""
    yield "[estimate]"
    rates = [f"fp32 = {found.fp32:.4g}", f"int8 = {found.int8:.4g}"]
    if model.macs_per_cycle.fp16 is not None:
        rates.append(f"fp16 = {model.macs_per_cycle.fp16 * model.efficiency:.4g}")
    yield f"macs_per_cycle = {{ {', '.join(rates)} }}"
    yield "efficiency = 1.0"
    yield f"depthwise = {{ fp32 = {found.depthwise_fp32:.4g}, int8 = {found.depthwise_int8:.4g} }}"
    yield f"op_us = {found.op_us:.4g}"
    yield f"copy_gb_s = {found.copy_gb_s:.4g}"
    yield f"runtime = {json.dumps(runtime)}"
    yield f"targets = [{json.dumps(f'{target.runtime}/{target.delegate}')}]"
    yield 'calibration = "measured"'
    yield f"conditions = {json.dumps(state, ensure_ascii=False)}"
    yield f"validated_on = {json.dumps(f'{found.n_points} own runs of {models}: {error}')}"
    for key, of in (("macs_range", _macs), ("bytes_range", _bytes)):
        low, high = _range(getattr(model, key), [of(p) for p in points])
        yield f"{key} = [{low:.3e}, {high:.3e}]"
    yield f"n_points = {found.n_points}"
    if found.network_sigma is not None:  # no narrower than what the user's own networks were off by
        sigmas = {k: max(v, found.network_sigma) for k, v in model.sigma.model_dump().items()}
        yield f"sigma = {{ {', '.join(f'{k} = {v:.4g}' for k, v in sigmas.items())} }}"
    if found.interval_log is not None:
        yield f"interval_log = {found.interval_log:.4g}"
    rows = ", ".join("[" + ", ".join(f"{v:.6e}" for v in row) + "]" for row in found.covariance)
    yield f"covariance = [{rows}]"
    yield ""
    yield "[sources]"
    kept = [k for k, seen in found.seen.items() if not seen]
    note = f"; not run and therefore as before: {', '.join(kept)}" if kept else ""
    yield f"estimate = {json.dumps(f'edgekit calibrate: {error}{note}')}"


def _range(known: tuple[float, float] | None, values: Sequence[float]) -> tuple[float, float]:
    """From the smallest to the largest of what was checked, a network that moves nothing left out."""
    some = [v for v in values if v > 0]
    return min([*some, *(known or ())[:1]]) * 0.999, max([*some, *(known or ())[1:]]) * 1.001


def _macs(point: Point) -> float:
    return sum(op.macs for op in point.ops)


def _bytes(point: Point) -> float:
    return float(sum(op.bytes for op in point.ops))


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_plain(v)}" for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_plain(v) for v in value)
    return str(value)
