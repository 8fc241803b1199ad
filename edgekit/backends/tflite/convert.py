"""ONNX or torch.export programs to a float .tflite: runs the worker process and reads what it made."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.backends.tflite.session import CHANNELS_LAST
from edgekit.errors import ConversionError, Unsupported
from edgekit.store import check_full_disk

_TIMEOUT_S = 900
_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
_FRAMEWORK_LINE = re.compile(r"[IW]\d{4} ")
"""What TensorFlow's C++ side logs: "I0000 00:00:1795374325.058091 29413 devices.cc:67] ..."."""
_LAYOUT = {3: "NWC", 4: "NHWC", 5: "NDHWC"}
_LAYOUT_FIRST = {3: "NCW", 4: "NCHW", 5: "NCDHW"}
_REPLACE = "replace the operation in the model by supported ones"


@dataclass(frozen=True)
class Converted:
    """A float .tflite and the log of its conversion. ``inputs`` are signature names in model order."""

    path: Path
    log: str
    inputs: tuple[str, ...]


def convert(
    onnx_path: Path,
    scratch: Path,
    *,
    keep_inputs: tuple[str, ...] = (),
    sequences: tuple[str, ...] = (),
) -> Converted:
    """Convert an ONNX file by onnx2tf, in ``scratch``.

    Inputs named by ``keep_inputs`` stay channels-first at the price of a TRANSPOSE; those named by
    ``sequences`` have no channels and stay as they are. Raises Unsupported for an operator that onnx2tf does
    not know, ConversionError for anything else that goes wrong, with the converter's own words.
    """
    job = {"onnx": str(onnx_path), "keep_channels_first": list(keep_inputs), "keep_as_is": list(sequences)}
    return _run("onnx2tf", job, scratch)


def convert_program(
    program: Path, scratch: Path, *, inputs_last: list[int], outputs_last: list[int]
) -> Converted:
    """Convert a torch.export program (.pt2) by litert-torch, in ``scratch``.

    The named inputs and outputs, counted from 0, become channels-last in the file. Raises Unsupported for
    an operator without lowering, ConversionError for anything else.
    """
    job = {"program": str(program), "inputs_last": inputs_last, "outputs_last": outputs_last}
    return _run("litert-torch", job, scratch)


def _run(exporter: str, job: Mapping[str, Any], scratch: Path) -> Converted:
    path = scratch / "job.json"
    path.write_text(json.dumps({"exporter": exporter, "parent": os.getpid(), **job}))
    env = os.environ | {
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TF_ENABLE_ONEDNN_OPTS": "0",
        "PYTHONHASHSEED": "0",
        "NO_COLOR": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    # -P: the worker's own folder must not shadow top-level modules of the same names
    command = [sys.executable, "-P", str(Path(__file__).with_name("worker.py")), str(path)]
    try:
        done = subprocess.run(
            command, cwd=scratch, env=env, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as exc:
        raise ConversionError(f"{exporter} did not finish within {_TIMEOUT_S} s") from exc
    log = _ESCAPES.sub("", done.stdout + done.stderr)
    answer = scratch / "result.json"
    if done.returncode != 0 or not answer.exists():
        check_full_disk(log, "converting the model")
        raise _explain(log, done.returncode, exporter)
    return Converted(scratch / "model.tflite", log, tuple(json.loads(answer.read_text())["inputs"]))


def _explain(log: str, returncode: int, exporter: str = "onnx2tf") -> ConversionError | Unsupported:
    unknown = _unsupported(log)
    if unknown is not None:
        return Unsupported(unknown, hint=_REPLACE)
    if returncode < 0:
        return ConversionError(f"{exporter} was killed by signal {-returncode} (out of memory?)")
    lines = [line.strip() for line in log.splitlines() if line.strip() and not _FRAMEWORK_LINE.match(line)]
    node = next((line for line in reversed(lines) if "onnx_op_name" in line), None)
    error = next(
        (line for line in reversed(lines) if re.match(r"(\w+\.)*\w*(Error|Exception)\b", line)), None
    )
    where = f" at {node.split('onnx_op_name:')[-1].strip()}" if node else ""
    return ConversionError(
        f"{exporter} cannot convert the model{where}: {error or (lines[-1] if lines else 'no output')}",
        hint="write the named operation with standard torch operations and static shapes",
    )


def _unsupported(log: str) -> str | None:
    """What a log says of an operator that the exporter or TFLite does not have; None for another fault."""
    unknown = re.search(r"ERROR: (\w+) OP is not yet implemented", log) or re.search(
        r"No module named 'onnx2tf\.ops\.(\w+)'", log
    )
    if unknown:
        return f"operator {unknown.group(1)} has no TFLite conversion in onnx2tf"
    foreign = sorted(set(re.findall(r"'tf\.(\w+)' op is neither a custom op nor a flex op", log)))
    if foreign:
        return f"operator {', '.join(foreign)} has no TFLite kernel"
    limited = re.search(r"The current implementation of (\w+) supports only ([^\n]+?)\.(?:\s|$)", log)
    if limited:
        return f"onnx2tf converts {limited.group(1)} only with {limited.group(2)}"
    lowering = re.search(r"Lowering not found: ([\w.]+)", log)
    if lowering:
        return f"operator {lowering.group(1)} has no TFLite conversion in litert-torch"
    concrete = re.search(r"jax\.errors\.\w*Concret\w*: ([^\n]{0,200})", log)
    if concrete:
        return f"a shape depends on the values of a tensor, and TFLite's are fixed: {concrete.group(1)}"
    running = re.search(r"While executing .*target=torch\.ops\.([\w.]+)", log)
    if running and "Unsupported ir element type: complex" in log:
        return f"operator {running.group(1)} computes with complex numbers, which TFLite kernels do not take"
    return None


def input_layout(source: tuple[int, ...], stored: tuple[int, ...], *, kept: bool) -> str | None:
    """Layout of a stored input whose source is channels-first. None where no axis has that meaning.

    Raises ConversionError when the stored shape is neither the source's nor its channels-last form.
    """
    rank = len(source)
    if rank not in CHANNELS_LAST:
        if source != stored:
            raise ConversionError(f"onnx2tf changed an input of shape {source} to {stored}")
        return None
    last = tuple(source[a] for a in CHANNELS_LAST[rank])
    if not kept and stored == last:
        return _LAYOUT[rank]
    if stored == source:
        return _LAYOUT_FIRST[rank] if rank > 3 else None
    raise ConversionError(f"onnx2tf changed an input of shape {source} to {stored}")


def output_layout(reference: np.ndarray, stored: np.ndarray) -> str | None:
    """Layout of a stored output, found by comparing its values with the source's.

    onnx2tf writes most outputs of rank 3 to 5 channels-last but leaves those behind a Reshape or a
    Transpose as they are; shapes alone do not tell when axes have equal length.
    """
    rank = reference.ndim
    candidates: list[tuple[str | None, np.ndarray]] = []
    if stored.shape == reference.shape:
        candidates.append((_LAYOUT_FIRST.get(rank) if rank > 3 else None, stored))
    if rank in CHANNELS_LAST and stored.shape == tuple(reference.shape[a] for a in CHANNELS_LAST[rank]):
        candidates.append((_LAYOUT[rank], stored.transpose((0, rank - 1, *range(1, rank - 1)))))
    if not candidates:
        raise ConversionError(f"onnx2tf changed an output of shape {reference.shape} to {stored.shape}")
    return min(candidates, key=lambda c: float(np.abs(c[1] - reference).max()))[0]
