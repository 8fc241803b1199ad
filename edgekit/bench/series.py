"""The whole measurement of one file on one device: cool-down, pinned cores, thread counts, a long run."""

from __future__ import annotations

import hashlib
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.bench.single import TIMEOUT_S, Bench, bench
from edgekit.devices.base import Conditions, Link
from edgekit.errors import DeviceError, Unsupported
from edgekit.measure.statistics import summarize
from edgekit.types import Artifact, Emit, Event, Measurement, RunProtocol, ignore_events

if TYPE_CHECKING:
    from edgekit.backends import Backend
    from edgekit.store import Store
    from edgekit.types import Array

_PILOT_RUNS = 6
_ENOUGH_RUNS = 20_000
_MOST_RUNS = 1_000_000
_BACK_WITHIN_CELSIUS = 2.0
_LOOK_EVERY_S = 5.0
_CURVE_POINTS = 30


@dataclass(frozen=True, kw_only=True)
class SeriesPlan:
    """How to measure. At least ``runs`` runs and ``min_seconds`` of them, or 20,000, after ``warmup`` runs.

    ``threads`` are measured one after the other; before each but the first the device cools down to
    within 2 °C of where it began, for at most ``cool_down_s``. ``cpus`` are the cores to run on, None lets
    them be chosen: the fastest, as many as threads. ``sustained_s`` adds a run of so many seconds.
    """

    warmup: int = 10
    runs: int = 50
    min_seconds: float = 1.0
    threads: tuple[int, ...] = (1,)
    cpus: tuple[int, ...] | None = None
    cool_down_s: float = 120.0
    sustained_s: float | None = None
    per_op: bool = False


@dataclass(frozen=True, kw_only=True)
class Series:
    """Measurements of one file on one device.

    ``outputs_sha256`` is the digest of all its output bytes, None where the program gives none.
    """

    link: str
    device: Mapping[str, Any]
    measurements: tuple[Measurement, ...]
    outputs: tuple[Array, ...]
    outputs_sha256: str | None


def bench_series(
    backend: Backend,
    artifact: Artifact,
    inputs: Sequence[Array],
    link: Link,
    *,
    store: Store,
    plan: SeriesPlan,
    emit: Emit = ignore_events,
    sleep: Callable[[float], None] = time.sleep,
) -> Series:
    """Measure a file by a plan on one device, alone on it.

    On a device and on this host: for each number of threads "latency" (its ``detail`` has p99, governor,
    cores, temperature, clocks and throttling before and after, and how long it cooled down), "first_run",
    "load_time" and "peak_memory"; with ``plan.sustained_s`` "sustained_latency", whose ``detail`` has the
    curve. The emulator counts instructions with one thread. Raises DeviceError, and Unsupported for what
    an emulator cannot be asked.
    """
    work = _Work(backend, artifact, inputs, link, store, plan, emit, sleep)
    with link.exclusive():
        if link.source == "emulator":
            return work.counted()
        return work.timed()


class _Work:
    def __init__(
        self,
        backend: Backend,
        artifact: Artifact,
        inputs: Sequence[Array],
        link: Link,
        store: Store,
        plan: SeriesPlan,
        emit: Emit,
        sleep: Callable[[float], None],
    ) -> None:
        self._backend, self._artifact, self._inputs = backend, artifact, inputs
        self._link, self._store, self._plan = link, store, plan
        self._emit, self._sleep = emit, sleep
        self._facts = link.facts()

    def counted(self) -> Series:
        plan = self._plan
        if plan.threads != (1,) or plan.sustained_s is not None or plan.cpus:
            raise Unsupported(
                "the emulator counts instructions of one thread; it has no clock to measure more with",
                hint="leave --threads, --cores and --sustained out",
            )
        protocol = RunProtocol(warmup=plan.warmup, runs=plan.runs, threads=1)
        done = self._bench(protocol, caches=True, per_op=plan.per_op)
        return self._series(done, list(done.measurements))

    def timed(self) -> Series:
        start = self._link.conditions().celsius
        found: list[Measurement] = []
        typical: dict[int, float] = {}
        done: Bench | None = None
        for place, threads in enumerate(self._plan.threads):
            waited = self._cool_down(start) if place else 0.0
            done, measured = self._one(threads, waited)
            found += measured
            typical[threads] = next(m.median for m in measured if m.metric == "latency") or 0.0
        if self._plan.sustained_s is not None:
            fastest = min(typical, key=lambda threads: typical[threads])
            waited = self._cool_down(start)
            found.append(self._sustained(fastest, typical[fastest], self._plan.sustained_s, waited))
        assert done is not None
        return self._series(done, found)

    def _one(self, threads: int, waited: float) -> tuple[Bench, list[Measurement]]:
        """One number of threads: a short run for the first inference and the pace, then the measured one."""
        plan, cpus = self._plan, self._cores(threads)
        pilot = self._bench(RunProtocol(warmup=0, runs=_PILOT_RUNS, threads=threads), cpus=cpus)
        first = _metric(pilot, "latency")
        pace = float(np.median(first.samples[1:]))
        runs = max(plan.runs, min(math.ceil(1000 * plan.min_seconds / pace), _ENOUGH_RUNS))
        before = self._link.conditions()
        protocol = RunProtocol(warmup=plan.warmup, runs=runs, threads=threads)
        done = self._bench(
            protocol, cpus=cpus, per_op=plan.per_op, timeout_s=TIMEOUT_S + 4 * runs * pace / 1000
        )
        after = self._link.conditions()
        latency = _metric(done, "latency")
        detail = {
            **latency.detail,
            "p99": summarize(latency.samples).p99,
            **self._circumstances(cpus, before, after, waited),
        }
        first_run = replace(
            first,
            metric="first_run",
            median=first.samples[0],
            samples=first.samples[:1],
            n=1,
            p90=None,
            ci95=None,
        )
        runner = {k: v for k, v in first.detail.items() if k == "python"}
        others = [m for m in done.measurements if m.metric != "latency"]
        return done, [replace(latency, detail=detail), replace(first_run, detail=runner), *others]

    def _sustained(self, threads: int, pace_ms: float, seconds: float, waited: float) -> Measurement:
        """A run of so many seconds at the pace of before, with the device's conditions beside it."""
        cpus = self._cores(threads)
        runs = math.ceil(1000 * seconds / pace_ms)
        if runs > _MOST_RUNS:
            raise Unsupported(
                f"a sustained run of {seconds:g} s would be {runs} inferences of {pace_ms:.3g} ms",
                hint=f"measure at most {_MOST_RUNS * pace_ms / 60000:.3g} minutes",
            )
        self._say(f"sustained run of {seconds / 60:g} min with {threads} threads")
        watch = _Watch(self._link)
        with watch:
            done = self._bench(
                RunProtocol(warmup=0, runs=runs, threads=threads),
                cpus=cpus,
                timeout_s=TIMEOUT_S + 10 * seconds,
            )
        latency = _metric(done, "latency")
        curve = throttling_curve(latency.samples)
        last = latency.samples[-max(1, len(latency.samples) // 4) :]
        s = summarize(last)
        detail = {
            "curve": curve,
            "conditions": watch.seen,
            "p99": s.p99,
            "of": "the last quarter of the run",
            "slowdown": curve[-1]["median_ms"] / curve[0]["median_ms"],
            "seconds": sum(latency.samples) / 1000,
            **self._circumstances(cpus, watch.first, watch.last, waited),
        }
        return replace(
            latency,
            metric="sustained_latency",
            median=s.median,
            p90=s.p90,
            ci95=s.ci95,
            n=s.n,
            samples=(),
            detail=detail,
        )

    def _cool_down(self, start: float | None) -> float:
        """Wait until the temperature is back; the seconds waited. Nothing where there is no sensor."""
        waited = 0.0
        if start is None:
            return waited
        while (now := self._link.conditions().celsius) is not None and now > start + _BACK_WITHIN_CELSIUS:
            if waited >= self._plan.cool_down_s:
                self._say(
                    f"still {now:.1f} °C after cooling down for {waited:.0f} s; it began at {start:.1f} °C",
                    warning=True,
                )
                break
            self._sleep(_LOOK_EVERY_S)
            waited += _LOOK_EVERY_S
        return waited

    def _cores(self, threads: int) -> tuple[int, ...]:
        if self._plan.cpus is not None:
            known = self._facts.get("cores")
            if known and max(self._plan.cpus, default=0) >= known:
                raise DeviceError(
                    f"{self._link.name} has cores 0 to {known - 1}, not {max(self._plan.cpus)}",
                    hint="choose others with --cores",
                )
            return self._plan.cpus
        return fastest_cores(self._facts, threads)

    def _circumstances(
        self, cpus: Sequence[int], before: Conditions, after: Conditions, waited: float
    ) -> dict[str, Any]:
        return {
            "cores": list(cpus) or None,
            "governor": self._facts.get("governor"),
            "celsius": [before.celsius, after.celsius],
            "mhz": [list(before.mhz), list(after.mhz)],
            "throttled": after.throttled,
            "battery": [before.battery_data, after.battery_data],
            "cooled_down_s": waited,
        }

    def _bench(self, protocol: RunProtocol, **options: Any) -> Bench:
        return bench(
            self._backend,
            self._artifact,
            self._inputs,
            self._link,
            store=self._store,
            protocol=protocol,
            facts=self._facts,
            **options,
        )

    def _series(self, done: Bench, measurements: list[Measurement]) -> Series:
        digest = hashlib.sha256(b"".join(np.ascontiguousarray(o).tobytes() for o in done.outputs))
        return Series(
            link=self._link.name,
            device=self._facts,
            measurements=tuple(measurements),
            outputs=done.outputs,
            outputs_sha256=digest.hexdigest(),
        )

    def _say(self, text: str, *, warning: bool = False) -> None:
        self._emit(
            Event(kind="warning" if warning else "info", step=f"bench {self._link.name}", message=text)
        )


class _Watch:
    """Notes a device's conditions from beside a long run, every few seconds."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._start = time.monotonic()
        self.first = link.conditions()
        self.last = self.first
        self.seen: list[dict[str, Any]] = []
        self._note(self.first)

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()
        if error[0] is None:
            self.last = self._link.conditions()
            self._note(self.last)

    def _look(self) -> None:
        while not self._over.wait(_LOOK_EVERY_S):
            try:
                self._note(self._link.conditions())
            except DeviceError:
                return  # the run itself says what is wrong

    def _note(self, now: Conditions) -> None:
        self.seen.append(
            {
                "second": round(time.monotonic() - self._start, 1),
                "celsius": now.celsius,
                "mhz": list(now.mhz),
                "throttled": now.throttled,
                "battery": now.battery_data,
            }
        )


def throttling_curve(samples_ms: Sequence[float], points: int = _CURVE_POINTS) -> list[dict[str, float]]:
    """Medians of equal parts of the running time: [{"second", "median_ms", "n"}], second at a part's end."""
    ends = np.cumsum(np.asarray(samples_ms, np.float64)) / 1000
    total = float(ends[-1])
    part = np.minimum((ends / total * points).astype(int), points - 1)
    values = np.asarray(samples_ms, np.float64)
    return [
        {
            "second": float(ends[part == p][-1]),
            "median_ms": float(np.median(values[part == p])),
            "n": int((part == p).sum()),
        }
        for p in range(points)
        if (part == p).any()
    ]


def fastest_cores(facts: Mapping[str, Any], threads: int) -> tuple[int, ...]:
    """Numbers of the ``threads`` fastest cores of a device that has several kinds; none to pin to otherwise.

    A machine with equal cores, or without taskset, is left to its scheduler.
    """
    clusters = [c for c in facts.get("clusters") or () if c.get("max_mhz")]
    programs = [str(p).rpartition("/")[2] for p in facts.get("programs") or ()]
    if len(clusters) < 2 or "taskset" not in programs:
        return ()
    by_speed = sorted(clusters, key=lambda c: -float(c["max_mhz"]))
    cores = [int(cpu) for cluster in by_speed for cpu in cluster["cpus"]]
    return tuple(sorted(cores[:threads])) if threads <= len(cores) else ()


def _metric(done: Bench, name: str) -> Measurement:
    return next(m for m in done.measurements if m.metric == name)
