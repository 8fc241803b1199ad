"""What goes to a runner on a device and comes back from it: the same for every runtime's runner."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.errors import DeviceError

if TYPE_CHECKING:
    from edgekit.profiles.schema import DeviceProfile, Target
    from edgekit.types import Array, RunProtocol, Scheme, TensorSpec


def common_refusals(
    runtime: str, delegates: Sequence[str], profile: DeviceProfile, target: Target, scheme: Scheme
) -> list[str]:
    """Why no backend could do it: a delegate without rules, a precision that the profile does not list."""
    reasons = []
    if target.delegate not in delegates:
        reasons.append(
            f"the {runtime} backend knows the rules of {', '.join(delegates)}; "
            f"delegate {target.delegate!r} is not supported"
        )
    if scheme.precision not in target.precisions:
        reasons.append(
            f"{profile.id} lists {', '.join(target.precisions)} for {target.runtime}/{target.delegate}, "
            f"not {scheme.precision}"
        )
    if scheme.float_ops and runtime != "TFLite":
        reasons.append(f"quantize.float_ops names operators of .tflite files, not of {runtime}")
    return reasons


def options(protocol: RunProtocol, *, per_op: bool) -> list[str]:
    """The options that all runners share: warm-up, runs, threads, profile."""
    numbers = {"-w": protocol.warmup, "-n": protocol.runs, "-t": protocol.threads}
    return [*(part for flag, n in numbers.items() for part in (flag, str(n))), *(["-p"] if per_op else [])]


def write_inputs(inputs: Sequence[Array], folder: Path) -> dict[str, Path]:
    """Write each input as in0.bin, in1.bin ... (C order, as the file stores it); the files by name."""
    files = {}
    for i, value in enumerate(inputs):
        path = folder / f"in{i}.bin"
        path.write_bytes(np.ascontiguousarray(value).tobytes())
        files[path.name] = path
    return files


def output_names(outputs: Sequence[TensorSpec]) -> tuple[str, ...]:
    """out0.bin, out1.bin ...: the files that the runner writes."""
    return tuple(f"out{i}.bin" for i in range(len(outputs)))


def last_report(stdout: str, runner: str) -> dict[str, Any]:
    """The last JSON object with "runs_ms" on standard output. Raises DeviceError when there is none."""
    for line in reversed(stdout.splitlines()):
        report: Any = None
        if line.startswith("{"):
            with contextlib.suppress(json.JSONDecodeError):
                report = json.loads(line)
        if isinstance(report, dict) and "runs_ms" in report:
            return report
    raise DeviceError(f"the {runner} runner printed no report", hint=f"it printed: {stdout[-200:]!r}")


def read_outputs(specs: Sequence[TensorSpec], files: Sequence[bytes], runner: str) -> list[Array]:
    """Arrays from the bytes of the output files. Raises DeviceError for a wrong size."""
    arrays: list[Array] = []
    for i, (raw, spec) in enumerate(zip(files, specs, strict=True)):
        size = math.prod(spec.shape) * np.dtype(spec.dtype).itemsize
        if len(raw) != size:
            raise DeviceError(f"output {i} of the {runner} runner has {len(raw)} bytes instead of {size}")
        arrays.append(np.frombuffer(raw, dtype=spec.dtype).reshape(spec.shape))
    return arrays


def in_and_out(inputs: Mapping[str, Path], outputs: Sequence[str]) -> list[str]:
    """-i and -o for files in the order of the model's inputs and outputs."""
    return [
        *(part for name in inputs for part in ("-i", name)),
        *(part for name in outputs for part in ("-o", name)),
    ]
