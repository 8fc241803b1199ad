"""Measuring with the Android app: for delegates that only an app has, and as an app sees a phone."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.bench.series import Series, SeriesPlan
from edgekit.bench.single import TIMEOUT_S, check_times
from edgekit.devices.adb import AdbLink
from edgekit.devices.android import AppResult, AppRun, run_app
from edgekit.devices.base import Conditions, Link
from edgekit.errors import Unsupported, UserError
from edgekit.measure.statistics import summarize
from edgekit.types import Emit, Event, Measurement, ignore_events

if TYPE_CHECKING:
    from edgekit.types import Array

_MOST_RUNS = 100_000
"""What the app takes."""
_BYTES_PER_KB = 1024
_MARGIN = 1.1
"""So many more runs when the first ones were too short, since later ones may be quicker."""


@dataclass(frozen=True, kw_only=True)
class AppSeries:
    """``series`` as of any other way to measure; ``golden`` has the outputs of each golden sample."""

    series: Series
    golden: tuple[tuple[Array, ...], ...]


def bench_with_app(
    files: Mapping[str, Path],
    model_sha256: str,
    delegate: str,
    link: Link,
    *,
    plan: SeriesPlan,
    apk: Path | None,
    emit: Emit = ignore_events,
) -> AppSeries:
    """Measure a bundle by the app on a phone; ``files`` and ``delegate`` as in :class:`AppRun`.

    Gives "latency", "first_run", "load_time" and, where Android tells it, "peak_memory" of the app's whole
    process. The latency begins with inputs that lie ready and ends with outputs that can be read; the Java
    API of the older runtime copies both within. ``detail`` has the runtime, what the app knows of the device,
    and thermal status and battery before and after.

    Raises Unsupported for a link that is not adb and for what the app cannot do (operators, cores, a
    sustained run), UserError for several numbers of threads, and what :func:`run_app` raises.
    """
    if not isinstance(link, AdbLink):
        raise Unsupported(f"the app runs on a phone over adb, not on {link.name}", hint="--device adb:SERIAL")
    if plan.per_op or plan.sustained_s is not None or plan.cpus is not None:
        raise Unsupported(
            "the app cannot list operators, choose cores or run sustained",
            hint="leave --per-op, --cores and --sustained out, or measure --via binary",
        )
    if len(plan.threads) != 1:
        raise UserError("the app measures one number of threads", hint="give one with --threads")
    run = AppRun(
        files=files,
        model_sha256=model_sha256,
        delegate=delegate,
        threads=plan.threads[0],
        warmup=plan.warmup,
        runs=min(plan.runs, _MOST_RUNS),
    )
    with link.exclusive():
        facts, before = link.facts(), link.conditions()
        result = run_app(link, run, apk=apk, timeout_s=TIMEOUT_S)
        seconds = sum(result.runs_ms) / 1000
        if 0 < seconds < plan.min_seconds:
            more = math.ceil(run.runs * _MARGIN * plan.min_seconds / seconds)
            run = replace(run, runs=min(more, _MOST_RUNS))
            result = run_app(link, run, apk=None, timeout_s=TIMEOUT_S)
        after = link.conditions()
    check_times({"runs_ms": result.runs_ms, "load_ms": result.load_ms}, 0, link.name)
    for text in result.runtime["warnings"]:
        emit(Event(kind="warning", step=f"bench {link.name}", message=str(text)))
    first = result.outputs[0] if result.outputs else ()
    digest = hashlib.sha256(b"".join(np.ascontiguousarray(o).tobytes() for o in first))
    series = Series(
        link=link.name,
        device=facts,
        measurements=tuple(_measurements(result, run, facts, before, after)),
        outputs=first,
        outputs_sha256=digest.hexdigest(),
    )
    return AppSeries(series=series, golden=result.outputs)


def _measurements(
    result: AppResult, run: AppRun, facts: Mapping[str, Any], before: Conditions, after: Conditions
) -> list[Measurement]:
    common: dict[str, Any] = {
        "source": "device",
        "threads": run.threads,
        "warmup": run.warmup,
        "device": facts,
    }
    s = summarize(result.runs_ms)
    detail = {
        "via": "app",
        "runtime": dict(result.runtime),
        "app": dict(result.device),
        "thermal": dict(result.thermal),
        "delegate": run.delegate,
        "p99": s.p99,
        "governor": facts.get("governor"),
        "celsius": [before.celsius, after.celsius],
        "mhz": [list(before.mhz), list(after.mhz)],
        "throttled": after.throttled,
        "battery": [before.battery_data, after.battery_data],
    }

    def once(metric: str, unit: str, value: float) -> Measurement:
        return Measurement(metric=metric, unit=unit, median=value, samples=(value,), n=1, **common)

    found = [
        Measurement(
            metric="latency",
            unit="ms",
            median=s.median,
            samples=result.runs_ms,
            p90=s.p90,
            ci95=s.ci95,
            n=s.n,
            detail=detail,
            **common,
        ),
        once("first_run", "ms", (*result.warmup_ms, *result.runs_ms)[0]),
        once("load_time", "ms", result.load_ms),
    ]
    if result.peak_rss_kb is not None:
        found.append(once("peak_memory", "bytes", float(result.peak_rss_kb) * _BYTES_PER_KB))
    return found
