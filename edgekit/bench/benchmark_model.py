"""Measuring with TFLite's own benchmark program, given by the user: for delegates without a runner here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekit.backends.tflite import benchmark_model as tool
from edgekit.bench.series import Series, SeriesPlan, fastest_cores
from edgekit.bench.single import TIMEOUT_S
from edgekit.devices.base import Link, RunResult, Workspace, last_lines
from edgekit.errors import DeviceError, Unsupported
from edgekit.types import Artifact, Measurement

_PROGRAM, _MODEL = "benchmark_model", "model.tflite"


def bench_with_binary(
    binary: Path, delegate: str, artifact: Artifact, link: Link, *, plan: SeriesPlan
) -> Series:
    """Measure a .tflite file with ``binary`` on random inputs, by the same plan as the own runner.

    "latency" has the median where this version prints one, and else None; "mean_latency" always. Neither
    has samples: the program prints none. ``detail`` has all that it prints. Raises Unsupported for another
    format, for the emulator and for a sustained run, UserError for another program, DeviceError for an output
    that lacks a number and for a delegate that took a part of the graph only.
    """
    if artifact.format != "tflite":
        raise Unsupported(f"--benchmark-binary runs .tflite files, not {artifact.format}")
    if link.source == "emulator" or plan.sustained_s is not None:
        raise Unsupported(
            "--benchmark-binary measures time, run by run: not on the emulator, and without --sustained"
        )
    found: list[Measurement] = []
    with link.workspace() as space:
        facts = link.facts()
        space.push({_PROGRAM: binary, _MODEL: artifact.path})
        shown = space.run([_PROGRAM, "--help"], timeout_s=60)
        generation = tool.generation_of(shown.stdout + shown.stderr)
        for threads in plan.threads:
            cpus = fastest_cores(facts, threads) if plan.cpus is None else plan.cpus
            options: dict[str, Any] = {
                "graph": _MODEL,
                "threads": threads,
                "warmup": plan.warmup,
                "runs": plan.runs,
                "min_seconds": plan.min_seconds,
            }
            argv = [_PROGRAM, *tool.arguments(generation, delegate, per_op=False, **options)]
            report = tool.parse(_run(space, argv, cpus, link), delegate)
            ops: tuple[Any, ...] = ()
            if plan.per_op:  # a run of its own: the profiler costs time
                argv = [_PROGRAM, *tool.arguments(generation, delegate, per_op=True, **options)]
                ops = tool.parse(_run(space, argv, cpus, link), delegate, per_op=True).ops
            common: dict[str, Any] = {
                "source": link.source,
                "threads": threads,
                "warmup": plan.warmup,
                "device": facts,
            }
            found += _measurements(report, ops, delegate, cpus, facts, common)
    return Series(link=link.name, device=facts, measurements=tuple(found), outputs=(), outputs_sha256=None)


def _run(space: Workspace, argv: list[str], cpus: tuple[int, ...], link: Link) -> str:
    done: RunResult = space.run(argv, timeout_s=TIMEOUT_S, cpus=cpus)
    if done.returncode != 0:
        raise DeviceError(
            f"{_PROGRAM} failed on {link.name} (exit {done.returncode})",
            hint=last_lines(f"{done.stdout}\n{done.stderr}"),
        )
    # Its log goes to stderr on Linux and to stdout elsewhere; each run prints to one of them.
    return f"{done.stdout}\n{done.stderr}"


def _measurements(
    report: tool.BenchmarkReport,
    ops: tuple[Any, ...],
    delegate: str,
    cpus: tuple[int, ...],
    facts: Any,
    common: dict[str, Any],
) -> list[Measurement]:
    t = report.inference
    detail: dict[str, Any] = {
        "tool": f"benchmark_model, {report.generation}",
        "delegate": delegate,
        "delegated": report.delegated,
        **{name: getattr(t, name) for name in ("mean", "min", "max", "std", "p5", "p95")},
        "cores": list(cpus) or None,
        "governor": facts.get("governor"),
    }
    if ops:
        detail["ops"] = [dict(o) for o in ops]

    def one(metric: str, value: float | None, n: int = 1, **rest: Any) -> Measurement:
        return Measurement(metric=metric, unit="ms", median=value, n=n, **rest, **common)

    found = [
        one("latency", t.median, t.n, detail=detail),
        one("mean_latency", t.mean, t.n),
        one("first_run", report.first_ms),
        one("load_time", report.init_ms),
    ]
    if report.peak_memory_mb is not None:
        peak = report.peak_memory_mb * 1024 * 1024  # its "MB" are 2**20 bytes
        found.append(Measurement(metric="peak_memory", unit="bytes", median=peak, n=1, **common))
    return found
