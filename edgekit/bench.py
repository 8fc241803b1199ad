"""Measuring one file over one link: latency where a clock means something, instructions where not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.backends import Backend
from edgekit.devices.base import Link, RunResult
from edgekit.errors import DeviceError
from edgekit.measure.statistics import summarize
from edgekit.store import Store
from edgekit.types import Artifact, Measurement, RunProtocol

if TYPE_CHECKING:
    from edgekit.types import Array

_TIMEOUT_S = 900.0
_OPERATOR_EVENTS = (2, 8)
"""LiteRT's profile event types of operators outside and inside a delegate; others enclose them."""
_BYTES_PER_KB = 1024


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Measurements of one file, and the outputs (artifact layout) that the device computed."""

    measurements: tuple[Measurement, ...]
    outputs: tuple[Array, ...]


def bench(
    backend: Backend,
    artifact: Artifact,
    inputs: Sequence[Array],
    link: Link,
    *,
    store: Store,
    protocol: RunProtocol,
    subject: str = "final",
    caches: bool = False,
    per_op: bool = False,
    timeout_s: float = _TIMEOUT_S,
) -> Bench:
    """Run a file on ``inputs`` (arrays as the file stores them) and return what the link can know.

    On the emulator: instructions per inference in total and by class, with ``caches`` modelled misses,
    with ``per_op`` instructions by operator, memory; the latency is None there. Elsewhere: latency with
    median, p90 and the interval of the median over ``protocol.runs``.
    """
    emulated = link.source == "emulator"
    facts = link.facts()
    result, report = _run(
        backend, artifact, inputs, link, store, protocol, emulated, caches, False, timeout_s
    )
    common: dict[str, Any] = {
        "source": link.source,
        "subject": subject,
        "threads": protocol.threads,
        "warmup": protocol.warmup,
        "device": facts,
    }
    found: list[Measurement] = []
    if emulated:
        ops = (
            _ops_by_instructions(backend, artifact, inputs, link, store, protocol, timeout_s)
            if per_op
            else None
        )
        found += _counts(result, ops, common)
        found.append(Measurement(metric="latency", unit="ms", median=None, **common))
    else:
        times = [float(t) for t in report["runs_ms"]]
        s = summarize(times)
        found.append(
            Measurement(
                metric="latency",
                unit="ms",
                median=s.median,
                samples=tuple(times),
                p90=s.p90,
                ci95=s.ci95,
                n=s.n,
                **common,
            )
        )
        load = float(report["load_ms"])
        found.append(Measurement(metric="load_time", unit="ms", median=load, samples=(load,), n=1, **common))
    memory = float(report["peak_rss_kb"]) * _BYTES_PER_KB
    note = {"includes": "the emulator itself"} if emulated else {}
    found.append(
        Measurement(
            metric="peak_memory", unit="bytes", median=memory, samples=(memory,), n=1, detail=note, **common
        )
    )
    raw = [result.outputs[f"out{i}.bin"] for i in range(len(artifact.outputs))]
    return Bench(measurements=tuple(found), outputs=tuple(backend.read_outputs(artifact, raw)))


def _run(
    backend: Backend,
    artifact: Artifact,
    inputs: Sequence[Array],
    link: Link,
    store: Store,
    protocol: RunProtocol,
    count: bool,
    caches: bool,
    per_op: bool,
    timeout_s: float,
) -> tuple[RunResult, Mapping[str, Any]]:
    with store.scratch() as scratch:
        command = backend.device_command(
            artifact, inputs, arch=link.arch, protocol=protocol, per_op=per_op, store=store, scratch=scratch
        )
        result = link.run(command, timeout_s=timeout_s, count=count, caches=caches, per_op=per_op)
    if result.returncode != 0:
        last = next((x for x in reversed(result.stderr.splitlines()) if x.strip()), "no message")
        raise DeviceError(f"{artifact.path.name[:12]} does not run on {link.name}: {last}")
    return result, backend.parse(result.stdout)


def _counts(
    result: RunResult, ops: list[dict[str, Any]] | None, common: Mapping[str, Any]
) -> list[Measurement]:
    if not result.regions:
        raise DeviceError("the emulator counted no inference", hint="see `edgekit doctor`")
    samples = tuple(float(r["insns"]) for r in result.regions)
    last = result.regions[-1]
    classes = {
        k: v
        for k, v in last.items()
        if k not in ("insns", "region", "threads") and not k.endswith(("_accesses", "_misses"))
    }
    detail: dict[str, Any] = {"classes": classes}
    if ops is not None:
        detail["ops"] = ops
    found = [
        Measurement(
            metric="instructions",
            unit="instructions",
            median=float(np.median(samples)),
            samples=samples,
            n=len(samples),
            detail=detail,
            **common,
        )
    ]
    for level in ("l1i", "l1d", "l2", "l3"):
        key = f"{level}_misses"
        if key in last:
            misses = tuple(float(r[key]) for r in result.regions)
            found.append(
                Measurement(
                    metric=key,
                    unit="misses",
                    median=float(np.median(misses)),
                    samples=misses,
                    n=len(misses),
                    detail={"modelled": True},
                    **common,
                )
            )
    return found


def _ops_by_instructions(
    backend: Backend,
    artifact: Artifact,
    inputs: Sequence[Array],
    link: Link,
    store: Store,
    protocol: RunProtocol,
    timeout_s: float,
) -> list[dict[str, Any]]:
    """The runtime's own profile under a clock that ticks in instructions (one per microsecond)."""
    one = RunProtocol(warmup=protocol.warmup, runs=1, threads=1)
    _, report = _run(backend, artifact, inputs, link, store, one, True, False, True, timeout_s)
    return [
        {"name": str(e["tag"]), "op": None, "instructions": float(e["us"])}
        for e in report.get("events", [])
        if e["type"] in _OPERATOR_EVENTS
    ]
