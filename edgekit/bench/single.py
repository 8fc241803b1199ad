"""Measuring one file over one link: latency where a clock means something, instructions where not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.backends import Backend
from edgekit.devices.base import Link, RunResult
from edgekit.errors import DeviceError, MissingDependency
from edgekit.measure.statistics import summarize
from edgekit.store import Store
from edgekit.types import Artifact, Measurement, RunProtocol

if TYPE_CHECKING:
    from edgekit.types import Array

TIMEOUT_S = 900.0
"""For one run of a file."""
_CLOCK_ERROR = 1.05
"""No two clocks of working machines differ by more."""
_BYTES_PER_KB = 1024
_FALLBACK = "fallback"
"""Where a report tells that a Python of the device ran the file in place of edgekit's own runner."""


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
    cpus: Sequence[int] = (),
    facts: Mapping[str, Any] | None = None,
    timeout_s: float = TIMEOUT_S,
) -> Bench:
    """Run a file on ``inputs`` (arrays as the file stores them) and return what the link can know.

    On the emulator: instructions per inference in total and by class, with ``caches`` modelled misses,
    memory; the latency is None there. Elsewhere: latency with median, p90 and the interval of the median
    over ``protocol.runs``, on the cores ``cpus`` (all when empty). ``facts`` are the link's, where they are
    known already. Where a Python of the device ran the file because there is no runner of edgekit for it,
    ``detail`` has "python": {"runtime", "because"}.

    With ``per_op`` the first measurement's ``detail`` has "ops", one {"name", "op", "instructions"} or
    {"name", "op", "us"} per operator of one inference, in execution order; "op" is its type where the name is
    that of a node, else None. They come from a run of their own under the runtime's profiler, which costs
    time itself: their sum is more than the latency. Raises DeviceError when the runtime there gives no
    profile, or when the file does not run.
    """
    work = _Work(
        backend=backend,
        artifact=artifact,
        inputs=inputs,
        link=link,
        store=store,
        cpus=tuple(cpus),
        timeout_s=timeout_s,
    )
    emulated = link.source == "emulator"
    result, report = work.run(protocol, count=emulated, caches=caches)
    common: dict[str, Any] = {
        "source": link.source,
        "subject": subject,
        "threads": protocol.threads,
        "warmup": protocol.warmup,
        "device": link.facts() if facts is None else facts,
    }
    ops = work.by_operator(protocol, emulated=emulated) if per_op else None
    if emulated:
        found = _counts(result, ops, common)
        found.append(Measurement(metric="latency", unit="ms", median=None, **common))
    else:
        check_times(report, result.seconds, link.name)
        found = _times(report, ops, common)
    memory = float(report["peak_rss_kb"]) * _BYTES_PER_KB
    note = {"includes": "the emulator itself"} if emulated else dict(report.get(_FALLBACK, {}))
    found.append(
        Measurement(
            metric="peak_memory", unit="bytes", median=memory, samples=(memory,), n=1, detail=note, **common
        )
    )
    raw = [result.outputs[f"out{i}.bin"] for i in range(len(artifact.outputs))]
    return Bench(measurements=tuple(found), outputs=tuple(backend.read_outputs(artifact, raw)))


@dataclass(frozen=True, kw_only=True)
class _Work:
    """One file, its inputs and the link that it runs over."""

    backend: Backend
    artifact: Artifact
    inputs: Sequence[Array]
    link: Link
    store: Store
    cpus: tuple[int, ...]
    timeout_s: float

    def run(
        self, protocol: RunProtocol, *, count: bool = False, caches: bool = False, per_op: bool = False
    ) -> tuple[RunResult, Mapping[str, Any]]:
        """Run the file there; returns what came back and the runner's own report.

        ``per_op`` switches the runtime's profiler on; with ``count`` its clock ticks in instructions.
        """
        with self.store.scratch() as scratch:
            command = self.backend.device_command(
                self.artifact,
                self.inputs,
                arch=self.link.arch,
                protocol=protocol,
                per_op=per_op,
                store=self.store,
                scratch=scratch,
            )
            if self.cpus:
                command = replace(command, cpus=self.cpus)
            try:
                result = self.link.run(
                    command, timeout_s=self.timeout_s, count=count, caches=caches, per_op=per_op and count
                )
            except MissingDependency as exc:
                if not command.fallback:
                    raise
                raise MissingDependency(
                    f"{exc}; edgekit's own runner is not there either: {command.fallback}", hint=exc.hint
                ) from exc
        if result.returncode != 0:
            last = next((x for x in reversed(result.stderr.splitlines()) if x.strip()), "no message")
            raise DeviceError(f"the {self.artifact.format} file does not run on {self.link.name}: {last}")
        report = dict(self.backend.parse(result.stdout, result.outputs))
        if command.fallback:
            report[_FALLBACK] = {"python": {"runtime": report["runtime"], "because": command.fallback}}
        return result, report

    def by_operator(self, protocol: RunProtocol, *, emulated: bool) -> list[dict[str, Any]]:
        """The runtime's own profile of one inference; on the emulator its microseconds are instructions."""
        once = RunProtocol(warmup=protocol.warmup, runs=1, threads=1 if emulated else protocol.threads)
        _, report = self.run(once, count=emulated, per_op=True)
        if not report.get("ops"):
            raise DeviceError(
                f"the {self.artifact.format} runtime gave no profile by operator on {self.link.name}",
                hint="measure without the times of operators",
            )
        unit = "instructions" if emulated else "us"
        return [{"name": str(o["name"]), "op": o.get("op"), unit: float(o["us"])} for o in report["ops"]]


def check_times(report: Mapping[str, Any], seconds: float, where: str) -> None:
    """Raise DeviceError for times that no clock can have measured which did not jump.

    ``seconds`` is how long the program ran by the clock of this machine, 0 where that is not known.
    """
    times = [float(t) for t in report["runs_ms"]]
    load = float(report["load_ms"])
    if not all(math.isfinite(t) and t > 0 for t in times) or not (math.isfinite(load) and load >= 0):
        raise DeviceError(
            f"a run on {where} took {min(times):g} ms by its clock: the clock jumped", hint="measure again"
        )
    told = (sum(times) + load) / 1000
    if seconds > 0 and told > seconds * _CLOCK_ERROR:
        raise DeviceError(
            f"the runs on {where} took {told:.3g} s by its clock, but {seconds:.3g} s by this machine's: "
            "the clock there jumped or runs fast",
            hint="measure again",
        )


def _times(
    report: Mapping[str, Any], ops: list[dict[str, Any]] | None, common: Mapping[str, Any]
) -> list[Measurement]:
    times = tuple(float(t) for t in report["runs_ms"])
    s = summarize(times)
    load = float(report["load_ms"])
    note = dict(report.get(_FALLBACK, {}))
    return [
        Measurement(
            metric="latency",
            unit="ms",
            median=s.median,
            samples=times,
            p90=s.p90,
            ci95=s.ci95,
            n=s.n,
            detail=note if ops is None else {"ops": ops, **note},
            **common,
        ),
        Measurement(metric="load_time", unit="ms", median=load, samples=(load,), n=1, detail=note, **common),
    ]


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
