"""The JSON that the app writes about one run."""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.errors import DeviceError, Unsupported
from edgekit.jsoncheck import first_problem, load_schema

if TYPE_CHECKING:
    from edgekit.types import Array


@dataclass(frozen=True, kw_only=True)
class AppResult:
    """A run that went well. ``outputs`` has the arrays of each golden sample, as the file stores them.

    ``runs_ms`` are the timed inferences in order. They begin with inputs that lie ready and end with outputs
    that can be read; ``runtime``, ``device`` and ``thermal`` are the app's own words.
    """

    run_id: str
    model_sha256: str
    runs_ms: tuple[float, ...]
    warmup_ms: tuple[float, ...]
    load_ms: float
    peak_rss_kb: int | None
    outputs: tuple[tuple[Array, ...], ...]
    runtime: Mapping[str, Any]
    device: Mapping[str, Any]
    thermal: Mapping[str, Any]


def result_schema() -> dict[str, Any]:
    """The JSON Schema of the app's result. Treat it as read-only."""
    return load_schema("edgekit.devices.android", "result.schema.json")


def parse_result(
    text: str, *, run_id: str, model_sha256: str, delegate: str, runs: int, where: str
) -> AppResult:
    """The result of the run ``run_id``, checked against what was asked for.

    Raises Unsupported when the app refused the delegate, DeviceError for a run that failed otherwise, for
    text that is no result of this version, and for the result of another run, file or delegate.
    """
    try:
        data = json.loads(text)
    except ValueError as exc:
        raise DeviceError(
            f"the app's result on {where} is not JSON: {exc}", hint="install the app of this edgekit version"
        ) from exc
    if problem := first_problem(data, result_schema()):
        raise DeviceError(
            f"the app's result on {where} is not of schema version 1 at {problem}",
            hint="install the app of this edgekit version",
        )
    if data["run_id"] != run_id:
        raise DeviceError(
            f"the result on {where} is of the run {data['run_id']!r}, not of {run_id!r}",
            hint="another benchmark runs there at the same time: wait for its end, then try again",
        )
    if data["status"] != "ok":
        raise _failed(data["error"], delegate, where)
    for what, got, asked in (
        ("model file", data["bundle"]["model_sha256"], model_sha256),
        ("delegate", data["runtime"]["delegate"], delegate),
        ("number of runs", len(data["runs_ms"]), runs),
    ):
        if got != asked:
            raise DeviceError(f"the app on {where} ran another {what} than it was told: {got}, not {asked}")
    return AppResult(
        run_id=run_id,
        model_sha256=model_sha256,
        runs_ms=tuple(map(float, data["runs_ms"])),
        warmup_ms=tuple(map(float, data["warmup_ms"])),
        load_ms=float(data["load_ms"]),
        peak_rss_kb=data["peak_rss_kb"],
        outputs=tuple(tuple(_array(o, where) for o in g["outputs"]) for g in data["golden"]),
        runtime=data["runtime"],
        device=data["device"],
        thermal=data["thermal"],
    )


def _failed(error: Mapping[str, str], delegate: str, where: str) -> Exception:
    if error["kind"] == "delegate":
        return Unsupported(
            f"the app on {where} cannot run this model on {delegate}: {error['message']}",
            hint="choose another --delegate, or an app with another runtime (android_demo/README.md)",
        )
    return DeviceError(
        f"the app on {where} failed ({error['kind']}): {error['message']}",
        hint="see android_demo/README.md for the app that fits the bundle",
    )


def _array(tensor: Mapping[str, Any], where: str) -> Array:
    dtype, shape = np.dtype(tensor["dtype"]).newbyteorder("<"), tuple(tensor["shape"])
    try:
        raw = base64.b64decode(tensor["data"], validate=True)
    except binascii.Error as exc:
        raise DeviceError(f"an output of the app on {where} is not base64: {exc}") from exc
    if len(raw) != math.prod(shape) * dtype.itemsize:
        raise DeviceError(f"an output of the app on {where} has {len(raw)} bytes for {dtype} {list(shape)}")
    native: Array = np.frombuffer(raw, dtype).reshape(shape).astype(dtype.newbyteorder("="))
    return native
