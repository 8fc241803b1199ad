"""Reading what ``trtexec`` of TensorRT 8.2 to 11 prints and exports.

Formats: samples/common/sampleReporting.cpp of NVIDIA/TensorRT. Everything is strict: a figure that is missing
raises DeviceError, it never becomes 0. Times are milliseconds.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edgekit.backends.onnx.tensorrt import device
from edgekit.errors import DeviceError

_HINT = "see the log of trtexec"
_NUMBER = r"[-+]?\d+\.?\d*(?:[eE][-+]?\d+)?"
_LAYER = re.compile(r'\{ "name" : "(?P<name>.*?)", "timeMs" : (?P<figures>[^{}]*)\}', re.DOTALL)
_FIGURE = re.compile(r'"(\w+)" : ([^,}\s]+)')
_COUNT = re.compile(r'\{ "count" : ([^}\s]+) \}')
_PREFIX = re.compile(r"^\[[^\]]*\] \[(?P<level>[A-Z])\] ?(?P<text>.*)$")
_STAT = re.compile(rf"(min|max|mean|median|percentile\((\d+)%\)) = ({_NUMBER}|inf|-?nan) ms")
_METRICS: Mapping[str, str] = {
    "Latency": "latency_ms",
    "Enqueue Time": "enqueue_ms",
    "H2D Latency": "h2d_ms",
    "GPU Compute Time": "compute_ms",
    "D2H Latency": "d2h_ms",
}


@dataclass(frozen=True, kw_only=True)
class Times:
    """Every run after warm-up.

    ``latency_ms`` is one inference with both copies, ``compute_ms`` the GPU alone, ``h2d_ms`` and ``d2h_ms``
    the copies to and from it (0 where trtexec was told not to copy).
    """

    latency_ms: tuple[float, ...]
    compute_ms: tuple[float, ...]
    h2d_ms: tuple[float, ...]
    d2h_ms: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer of an engine in a profile. ``median_ms`` is None in files before TensorRT 8.4."""

    name: str
    total_ms: float
    average_ms: float
    median_ms: float | None
    percent: float


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Times by layer over ``count`` runs, in execution order."""

    count: int
    layers: tuple[Layer, ...]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One line of trtexec's own summary. ``percentiles`` maps 99 to the 99th."""

    min: float
    max: float
    mean: float
    median: float
    percentiles: Mapping[int, float]


@dataclass(frozen=True, kw_only=True)
class Log:
    """What trtexec printed. ``summaries`` is empty when no inference was timed."""

    version: tuple[int, int, int]
    passed: bool
    errors: tuple[str, ...]
    warnings: tuple[str, ...]
    summaries: Mapping[str, Summary]
    throughput_qps: float | None

    def summary(self, name: str) -> Summary:
        """A line of the summary: latency_ms, compute_ms, h2d_ms, d2h_ms, enqueue_ms. Raises DeviceError."""
        found = self.summaries.get(name)
        if found is None:
            raise DeviceError(f"trtexec printed no {name}", hint=_HINT)
        return found


def parse_times(text: str, *, warmup_ms: float = 0) -> Times:
    """The --exportTimes file. Runs that began before ``warmup_ms`` are warm-up: before TensorRT 8.6 the file
    holds them too. Raises DeviceError."""
    try:
        found = device.parse_times(text, warmup_ms)
    except device.Problem as exc:
        raise DeviceError(str(exc), hint=_HINT) from exc
    return Times(**{name: tuple(values) for name, values in found.items()})


def parse_profile(text: str) -> Profile:
    """The --exportProfile file. It is almost JSON: names of layers are not escaped. Raises DeviceError."""
    counted = _COUNT.search(text)
    count = _number(counted.group(1), "count") if counted else math.nan
    if count < 1 or count != count:
        raise DeviceError("the profile of trtexec does not say how many runs it covers", hint=_HINT)
    layers = [_layer(match) for match in _LAYER.finditer(text)]
    if not layers or len(layers) != text.count('"averageMs" :') or not text.rstrip().endswith("]"):
        raise DeviceError("the profile of trtexec is cut off or not one", hint=_HINT)
    return Profile(count=int(count), layers=tuple(layers))


def _layer(match: re.Match[str]) -> Layer:
    name = match.group("name")
    figures = dict(_FIGURE.findall('"timeMs" : ' + match.group("figures")))
    for needed in ("timeMs", "averageMs", "percentage"):
        if needed not in figures:
            raise DeviceError(f"layer {name!r} of trtexec's profile has no {needed}", hint=_HINT)
    value = {key: _number(word, f"{key} of layer {name!r}") for key, word in figures.items()}
    return Layer(
        name=name,
        total_ms=value["timeMs"],
        average_ms=value["averageMs"],
        median_ms=value.get("medianMs"),
        percent=value["percentage"],
    )


def _number(word: str, what: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise DeviceError(f"{what} of trtexec is {word!r} instead of a number", hint=_HINT)
    return value


def parse_log(text: str) -> Log:
    """Standard output of trtexec. A failed run is a Log with ``passed`` False and its errors.

    Raises DeviceError when trtexec was cut off (no verdict at the end) or a line of the summary lacks a
    figure.
    """
    verdicts = device.VERDICT.findall(text)
    if not verdicts:
        raise DeviceError("trtexec ended without saying whether it passed or failed", hint=_HINT)
    messages = [m for line in text.splitlines() if (m := _PREFIX.match(line.rstrip()))]
    summaries: dict[str, Summary] = {}
    throughput = None
    for message in messages:
        title, colon, rest = message.group("text").partition(": ")
        if not colon or message.group("level") != "I":
            continue
        if title == "Throughput":
            throughput = _number(rest.split(" ")[0], "throughput")
        elif title in _METRICS and "min = " in rest:
            summaries[_METRICS[title]] = _summary(title, rest)
    if "=== Performance summary ===" in text and "latency_ms" not in summaries:
        raise DeviceError("trtexec's summary has no latency", hint=_HINT)
    try:
        version = device.version_of(text)
    except device.Problem as exc:
        raise DeviceError(str(exc), hint=_HINT) from exc
    return Log(
        version=version,
        passed=verdicts[-1] == "PASSED",
        errors=tuple(m.group("text").strip() for m in messages if m.group("level") == "E"),
        warnings=tuple(m.group("text").strip() for m in messages if m.group("level") == "W"),
        summaries=summaries,
        throughput_qps=throughput,
    )


def _summary(title: str, rest: str) -> Summary:
    found = {key: _number(word, f"{title}: {key}") for key, _, word in _STAT.findall(rest)}
    for needed in ("min", "max", "mean", "median"):
        if needed not in found:
            raise DeviceError(f"trtexec's summary of {title} has no {needed}", hint=_HINT)
    percentiles = {int(p): found[key] for key, p, _ in _STAT.findall(rest) if p}
    if len(percentiles) != rest.count("percentile("):
        raise DeviceError(f"trtexec's summary of {title} has a percentile without a number", hint=_HINT)
    return Summary(**{k: found[k] for k in ("min", "max", "mean", "median")}, percentiles=percentiles)


def require_passed(log: Log) -> None:
    """Raises DeviceError with trtexec's first error when the run failed."""
    if not log.passed:
        shown = log.errors[0] if log.errors else "it printed no error"
        raise DeviceError(f"trtexec failed: {shown}", hint=_HINT)


def runner_report(
    times: str, *, warmup_ms: float = 0, profile: str | None = None, log: str | None = None
) -> Mapping[str, Any]:
    """The files of one measured engine in the form of ``Backend.parse``.

    "runs_ms" is the latency with copies, sample by sample, what an app waits for; "compute_ms", "h2d_ms" and
    "d2h_ms" are its parts. "ops" is there with a profile: {"name", "us"} of one inference, the median where
    the file has it. "load_ms" and "peak_rss_kb" are None: trtexec does not tell. Raises DeviceError.
    """
    if log is not None:
        require_passed(parse_log(log))
    found = parse_times(times, warmup_ms=warmup_ms)
    report: dict[str, Any] = {
        "runs_ms": list(found.latency_ms),
        "compute_ms": list(found.compute_ms),
        "h2d_ms": list(found.h2d_ms),
        "d2h_ms": list(found.d2h_ms),
        "load_ms": None,
        "peak_rss_kb": None,
    }
    if profile is not None:
        report["ops"] = [
            {"name": x.name, "us": 1000 * (x.average_ms if x.median_ms is None else x.median_ms)}
            for x in parse_profile(profile).layers
        ]
    return report


def stand_in(log: str) -> str | None:
    """The program that printed a log of trtexec when it is none but stands in for it; None for trtexec.

    It tells so itself, by a line ``&&&& STAND-IN PATH``, which trtexec never prints.
    """
    found = re.search(r"^&&&& STAND-IN (.+?)\s*$", log, re.MULTILINE)
    return found[1] if found else None


def read_chosen(text: str) -> Mapping[str, Any]:
    """chosen.json as bench.sh wrote it on the device. Raises DeviceError for anything else."""
    try:
        data = json.loads(text)
    except ValueError as exc:
        raise DeviceError(f"chosen.json is not JSON: {exc}", hint="run bench.sh again") from exc
    if not isinstance(data, dict) or data.get("schema_version") != 1 or "chosen" not in data:
        raise DeviceError("chosen.json is not of this version of edgekit", hint="run bench.sh again")
    return data
