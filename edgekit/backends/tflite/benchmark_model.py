"""TFLite's own benchmark program: its options in both generations, and a strict reader of what it prints.

Formats: tensorflow/lite/tools/benchmark/benchmark_model.cc and tensorflow/core/util/stats_calculator.cc for
``benchmark_model``, litert/tools/benchmark_litert_model.h for ``benchmark_litert_model``. Lines may have a
prefix ("INFO: ", or logcat's). What is not printed is None; what has to be there and is not is an error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from edgekit.errors import DeviceError, Unsupported, UserError

Generation = Literal["v1", "v2"]
"""v1: TensorFlow Lite's (--use_xnnpack, --use_gpu, --use_nnapi); v2: LiteRT's (--use_gpu, --use_npu)."""

_NUMBER = r"([-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)"
_V1_DELEGATES: Mapping[str, tuple[str, ...]] = {
    "cpu": ("--use_xnnpack=false",),
    "xnnpack": ("--use_xnnpack=true",),
    "gpu": ("--use_gpu=true", "--use_xnnpack=false", "--require_full_delegation=true"),
    "nnapi": ("--use_nnapi=true", "--use_xnnpack=false", "--require_full_delegation=true"),
}
_V2_DELEGATES: Mapping[str, tuple[str, ...]] = {
    "xnnpack": (),
    "cpu": (),
    "gpu": ("--use_gpu=true", "--use_cpu=false", "--require_full_delegation=true"),
    "npu": ("--use_npu=true", "--use_cpu=false", "--require_full_delegation=true"),
}
_DELEGATE_WORDS = {"gpu": ("gpu",), "nnapi": ("nnapi",), "npu": ("npu", "dispatch"), "xnnpack": ("xnnpack",)}


@dataclass(frozen=True, kw_only=True)
class Timing:
    """One ``count=... first=...`` line, in milliseconds. None for what this version does not print."""

    n: int
    first: float
    mean: float
    min: float
    max: float
    std: float
    p5: float | None = None
    median: float | None = None
    p95: float | None = None


@dataclass(frozen=True, kw_only=True)
class BenchmarkReport:
    """What one run of the program printed. Times in milliseconds, memory in MB as printed.

    ``delegated`` is (nodes of the delegate, nodes of the graph) where it says so, ``fully`` whether it says
    that the delegate took all.
    """

    generation: Generation
    init_ms: float
    first_ms: float
    warmup_ms: float
    inference: Timing
    peak_memory_mb: float | None = None
    overall_memory_mb: float | None = None
    delegated: tuple[int, int] | None = None
    fully: bool | None = None
    ops: tuple[Mapping[str, Any], ...] = ()


def generation_of(help_text: str) -> Generation:
    """Which generation a program is, from what ``--help`` prints. Raises UserError for another program."""
    if "--graph" in help_text and "use_npu" in help_text:
        return "v2"
    if "--graph" in help_text and ("use_nnapi" in help_text or "use_xnnpack" in help_text):
        return "v1"
    raise UserError(
        "--benchmark-binary is no benchmark program of TFLite: its --help names no --graph and --use_xnnpack",
        hint="take benchmark_model for the device's system and machine",
    )


def arguments(
    generation: Generation,
    delegate: str,
    *,
    graph: str,
    threads: int,
    warmup: int,
    runs: int,
    min_seconds: float,
    per_op: bool,
) -> list[str]:
    """Options for one run. Raises Unsupported for a delegate that this generation does not have."""
    delegates = _V1_DELEGATES if generation == "v1" else _V2_DELEGATES
    if delegate not in delegates:
        raise Unsupported(
            f"this benchmark program has no delegate {delegate}; it has {', '.join(delegates)}",
            hint="NNAPI is in TensorFlow Lite's benchmark_model, NPUs are in LiteRT's benchmark_litert_model",
        )
    found = [
        f"--graph={graph}",
        f"--num_threads={threads}",
        f"--warmup_runs={warmup}",
        f"--num_runs={runs}",
        f"--min_secs={min_seconds:g}",
        *delegates[delegate],
    ]
    if per_op:
        found.append("--enable_op_profiling=true" if generation == "v1" else "--use_profiler=true")
    return found


def parse(text: str, delegate: str, *, per_op: bool = False) -> BenchmarkReport:
    """Read one run's output. Raises DeviceError when a number is missing, for an output that holds more than
    one run, and when the delegate that was asked for did not take the whole graph."""
    lines = [_without_prefix(line) for line in text.replace("\r\n", "\n").splitlines()]
    joined = "\n".join(lines)
    read = _read_v2 if "Model initialization:" in joined else _read_v1
    report = read(lines, joined)
    check_delegation(report, delegate, joined)
    if per_op:
        ops = operators(lines)
        if not ops:
            raise DeviceError("the benchmark program printed no profile by operator")
        report = BenchmarkReport(**{**report.__dict__, "ops": tuple(ops)})
    return report


def check_delegation(report: BenchmarkReport, delegate: str, text: str) -> None:
    """Raise DeviceError for a part of the graph that ran where nobody asked for it to run."""
    if delegate == "cpu":
        return
    if report.delegated is not None and report.delegated[0] < report.delegated[1]:
        taken, total = report.delegated
        raise DeviceError(
            f"the {delegate} delegate took {taken} of {total} operators; the others ran on the CPU",
            hint="`edgekit inspect` names the operators that the delegate refuses",
        )
    if report.fully is False or re.search(r"partially executed by the delegate", text):
        raise DeviceError(
            f"the {delegate} delegate took a part of the graph only; the rest ran on the CPU",
            hint="`edgekit inspect` names the operators that the delegate refuses",
        )
    words = "|".join(_DELEGATE_WORDS[delegate])
    applied = re.search(
        rf"({words})[^\n]*(delegate|accelerat)|with delegate \([^)]*({words})", text, re.IGNORECASE
    )
    if report.fully is None and report.delegated is None and not applied:
        raise DeviceError(
            f"the benchmark program does not say that the {delegate} delegate was used: it may have run on "
            "the CPU",
            hint="see what it prints when it is run by hand there",
        )


def operators(lines: Sequence[str]) -> list[dict[str, Any]]:
    """The table "Run Order" of the regular runs: [{"name", "op", "us"}] in order of execution."""
    start = next(
        (i for i, line in enumerate(lines) if "Profiling Info for Regular Benchmark Runs" in line), None
    )
    if start is None:
        return []
    table = next((i for i in range(start, len(lines)) if "Run Order" in lines[i]), None)
    if table is None or table + 1 >= len(lines):
        return []
    header = [_cell(cell) for cell in _cells(lines[table + 1])]
    named = {"avg ms": "avg_ms", "node type": "node type"}
    columns = [named.get(name, name) for name in header]
    if "avg_ms" not in columns or "node type" not in columns:
        raise DeviceError(f"the benchmark program's profile has unknown columns: {', '.join(header)}")
    found = []
    for line in lines[table + 2 :]:
        if not line.strip():
            break
        found.append(_operator(line, columns))
    return found


def _operator(line: str, columns: Sequence[str]) -> dict[str, Any]:
    """One row. In CSV the node type may hold commas itself: the figures are counted from the end."""
    cells = [_cell(cell) for cell in _cells(line)]
    extra = len(cells) - len(columns)
    if extra > 0 and "\t" not in line:
        # The name repeats the type and its commas: half of what is too many belongs to each.
        before = extra // 2 if extra % 2 == 0 else extra
        cells = [", ".join(cells[: before + 1]), *cells[before + 1 :]]
        if len(cells) > len(columns):
            cells = [*cells[: len(columns) - 1], ", ".join(cells[len(columns) - 1 :])]
    try:
        row = dict(zip(columns, cells, strict=True))
        return {
            "name": row.get("name", row["node type"]),
            "op": row["node type"],
            "us": 1000 * float(row["avg_ms"]),
        }
    except ValueError as exc:
        raise DeviceError(
            f"a row of the benchmark program's profile cannot be read: {line.strip()!r}"
        ) from exc


def _cells(line: str) -> list[str]:
    return line.strip("\n").split("\t")[1:] if "\t" in line else line.split(",")


def _cell(text: str) -> str:
    text = text.strip()
    return text[1:-1].strip().lower() if re.fullmatch(r"\[[A-Za-z %]+\]", text) else text


def _read_v1(lines: Sequence[str], text: str) -> BenchmarkReport:
    summaries = re.findall(
        rf"Inference timings in us: Init: {_NUMBER}, First inference: {_NUMBER}, Warmup \(avg\): {_NUMBER}, "
        rf"Inference \(avg\): {_NUMBER}",
        text,
    )
    if len(summaries) != 1:
        raise _unreadable(f"it has {len(summaries)} lines of inference timings instead of one", text)
    init, first, warmup, average = (float(value) / 1000 for value in summaries[0])
    end = next(i for i, line in enumerate(lines) if "Inference timings in us" in line)
    counts = [line for line in lines[:end] if re.match(r"count=\d", line)]
    if not counts:
        raise _unreadable("it has no line with the times of the runs", text)
    timing = stat_line(counts[-1])
    if abs(timing.mean - average) > 0.01 * max(timing.mean, average) + 0.001:
        raise _unreadable(f"its averages differ: {timing.mean:g} and {average:g} ms", text)
    replaced = re.findall(r"Replacing (\d+) out of (\d+) node\(s\) with delegate", text)
    return BenchmarkReport(
        generation="v1",
        init_ms=init,
        first_ms=first,
        warmup_ms=warmup,
        inference=timing,
        peak_memory_mb=_optional(rf"Overall peak memory footprint \(MB\)[^:]*: {_NUMBER}", text),
        overall_memory_mb=_optional(rf"Memory footprint delta[^\n]*overall={_NUMBER}", text),
        delegated=(sum(int(a) for a, _ in replaced), sum(int(b) for _, b in replaced)) if replaced else None,
        fully=True if re.search(r"completely executed by the delegate", text) else None,
    )


def stat_line(line: str) -> Timing:
    """A line of stats_calculator in microseconds. Raises DeviceError for one without runs or numbers."""
    values = {k: float(v) for k, v in re.findall(rf"(\w+)={_NUMBER}", line)}
    n = int(values.get("count", 0))
    if n < 1 or "curr" not in values:
        raise DeviceError(f"the benchmark program timed no run: {line.strip()!r}")
    if n == 1 or "(all same)" in line:
        same = values["curr"] / 1000
        return Timing(n=n, first=same, mean=same, min=same, max=same, std=0.0)
    missing = [name for name in ("first", "avg", "min", "max", "std") if name not in values]
    if missing:
        raise DeviceError(f"the benchmark program printed no {', '.join(missing)}: {line.strip()!r}")
    optional = {name: values[name] / 1000 if name in values else None for name in ("p5", "median", "p95")}
    return Timing(
        n=n,
        first=values["first"] / 1000,
        mean=values["avg"] / 1000,
        min=values["min"] / 1000,
        max=values["max"] / 1000,
        std=values["std"] / 1000,
        **optional,
    )


def _read_v2(lines: Sequence[str], text: str) -> BenchmarkReport:
    def need(label: str) -> float:
        found = re.findall(rf"^{re.escape(label)}:\s*{_NUMBER}\s*(?:ms)?", text, re.MULTILINE)
        if len(found) != 1:
            raise _unreadable(f"it has {len(found)} lines {label!r} instead of one", text)
        return float(found[0])

    runs = re.search(rf"^Inference \(avg\):\s*{_NUMBER} ms \((\d+) runs\)", text, re.MULTILINE)
    if runs is None or int(runs[2]) < 1:
        raise _unreadable("it does not say how many runs were timed", text)
    fully = re.search(r"^Fully accelerated:\s*(True|False|true|false|1|0|yes|no)", text, re.MULTILINE)
    return BenchmarkReport(
        generation="v2",
        init_ms=need("Model initialization"),
        first_ms=need("Warmup (first)"),
        warmup_ms=need("Warmup (avg)"),
        inference=Timing(
            n=int(runs[2]),
            first=need("Warmup (first)"),
            mean=need("Inference (avg)"),
            min=need("Inference (min)"),
            max=need("Inference (max)"),
            std=need("Inference (std)"),
            p5=_optional(rf"^Inference \(p5\):\s*{_NUMBER}", text),
            median=_optional(rf"^Inference \(median\):\s*{_NUMBER}", text),
            p95=_optional(rf"^Inference \(p95\):\s*{_NUMBER}", text),
        ),
        peak_memory_mb=_optional(rf"^Peak memory usage:?\s*{_NUMBER}", text),
        overall_memory_mb=_optional(rf"^Overall footprint:\s*{_NUMBER}", text),
        fully=None if fully is None else fully[1].lower() in ("true", "1", "yes"),
    )


def _optional(pattern: str, text: str) -> float | None:
    found = re.search(pattern, text, re.MULTILINE)
    return float(found[1]) if found else None


def _without_prefix(line: str) -> str:
    """The message: without logcat's columns, a log level, a source line."""
    line = re.sub(r"^\d\d-\d\d \d\d:\d\d:\d\d\.\d+\s+\d+\s+\d+ [VDIWEF] [^:]*: ", "", line)
    line = re.sub(r"^(?:INFO|WARNING|ERROR|VERBOSE): ", "", line)
    return re.sub(r"^\[[\w./]+:\d+\] ", "", line)


def _unreadable(why: str, text: str) -> DeviceError:
    last = [line for line in text.splitlines() if line.strip()][-3:]
    return DeviceError(
        f"the output of the benchmark program cannot be read: {why}",
        hint="it ended with:\n" + "\n".join(last),
    )
