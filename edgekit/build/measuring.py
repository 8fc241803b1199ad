"""The step that runs the files on a device or an emulator of it."""

from __future__ import annotations

import platform
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.backends import Backend
from edgekit.bench import Bench, bench
from edgekit.build.equality import tolerance_of
from edgekit.build.lowering import digest_arrays
from edgekit.build.runner import Runner
from edgekit.devices.base import Link
from edgekit.devices.process import ending_processes
from edgekit.errors import MissingDependency
from edgekit.types import Artifact, Event, Measurement, RunProtocol, to_json

if TYPE_CHECKING:
    from edgekit.profiles.schema import DeviceProfile, Target
    from edgekit.types import Array

ON_THE_CPU = frozenset({"xnnpack", "cpu", "openvino", "qnnpack"})
_COUNTED = RunProtocol(warmup=1, runs=1, threads=1)
"""Counts of instructions repeat exactly, so one run is enough; the warm-up packs weights."""


def open_for_build(
    device: str,
    asked_for: bool,
    profile: DeviceProfile,
    backend: Backend,
    runner: Runner,
    *,
    delegate: str,
) -> tuple[Link | None, list[str]]:
    """The link to measure over, with all that runs there; what is missing is found before long work starts.

    None and a warning when it cannot be had and was not asked for.
    """
    from edgekit.devices.open import open_link

    try:
        link = open_link(device, profile, runner.store)
        python = backend.device_python(link.arch, delegate)
        link.prepare(count=link.source == "emulator", python=python)
        backend.runtime_files(link.arch, runner.store)
        return link, []
    except MissingDependency as exc:
        if asked_for:
            raise
        text = f"nothing was measured: {exc}; {exc.hint}"
        runner.emit(Event(kind="warning", step="measure", message=text))
        return None, [text]


def measure(
    runner: Runner,
    backend: Backend,
    link: Link,
    profile: DeviceProfile,
    files: Mapping[str, Artifact],
    samples: Sequence[Array],
    *,
    by_operator: Collection[str] = ("final",),
) -> tuple[list[Measurement], Mapping[str, Any]]:
    """Measure "baseline" and "final" on one sample; compare the outputs with this host's.

    On the emulator the subjects in ``by_operator`` are counted by operator too; both files run side by side.

    Returns the measurements and, by subject, {"identical": bool, "within": bool, "max_abs": float}, where
    "within" is the backend's tolerance between machines. Latency is not
    repeatable and therefore measured anew each time; counts come from the cache.
    """

    def work() -> dict[str, Any]:
        # Counts do not change when two run at once; times do.
        workers = 2 if link.source == "emulator" else 1
        with ThreadPoolExecutor(max_workers=workers) as pool, ending_processes(), link.exclusive():
            jobs = {
                s: pool.submit(
                    _one, runner, backend, link, profile, s, a, samples, by_operator=s in by_operator
                )
                for s, a in files.items()
            }
            done = {s: job.result() for s, job in jobs.items()}
        equal = {s: _compare(backend, files[s], samples, d) for s, d in done.items()}
        return {"measurements": [to_json(m) for d in done.values() for m in d.measurements], "equal": equal}

    if link.source != "emulator":
        result: Mapping[str, Any] = work()
    else:
        key = {
            "backend": backend.name,
            "files": {s: a.sha256 for s, a in files.items()},
            "profile": profile.slice("cores", "caches", "memory", "emulator"),
            "device": link.facts(),
            "by_operator": sorted(by_operator),
            "sample": digest_arrays(samples),
            "tools": backend.tools(),
        }
        result = runner.run("measure", key, work)
    found = [
        Measurement(**{**m, "samples": tuple(m["samples"]), "ci95": _pair(m["ci95"])})
        for m in result["measurements"]
    ]
    return found, result["equal"]


def on_the_device(measurements: Sequence[Measurement], profile: DeviceProfile, target: Target) -> bool:
    """Whether latency was taken where it counts: on the device, or on this host when it is of that kind.

    A file for a phone's GPU or for an Arm core that ran on an x86 host says nothing about the device.
    """
    if {m.source for m in measurements if m.metric == "latency"} != {"host"}:
        return True
    return profile.os.abi == platform.machine() and target.delegate in ON_THE_CPU


def _one(
    runner: Runner,
    backend: Backend,
    link: Link,
    profile: DeviceProfile,
    subject: str,
    artifact: Artifact,
    samples: Sequence[Array],
    *,
    by_operator: bool,
) -> Bench:
    emulated = link.source == "emulator"
    protocol = (
        _COUNTED
        if emulated
        else RunProtocol(
            warmup=profile.protocol.warmup, runs=profile.protocol.runs, threads=profile.constraints.threads
        )
    )
    encoded = backend.session(artifact).encode(samples)
    return bench(
        backend,
        artifact,
        encoded,
        link,
        store=runner.store,
        protocol=protocol,
        subject=subject,
        caches=emulated and subject == "final",
        per_op=emulated and by_operator,
    )


def _compare(backend: Backend, artifact: Artifact, samples: Sequence[Array], done: Bench) -> dict[str, Any]:
    session = backend.session(artifact)
    here = session.run_raw(session.encode(samples))
    share, relative = tolerance_of(backend, artifact)
    worst, within = 0.0, True
    for a, b in zip(here, done.outputs, strict=True):
        wide, other = a.astype(np.float64), b.astype(np.float64)
        distance, size = np.abs(wide - other), np.abs(wide)
        worst = max(worst, float(distance.max(initial=0.0)))
        within &= bool((distance <= share * size.max(initial=0.0) + relative * size).all())
    identical = all(np.array_equal(a, b) for a, b in zip(here, done.outputs, strict=True))
    return {"identical": identical, "within": within, "max_abs": worst}


def _pair(value: Sequence[float] | None) -> tuple[float, float] | None:
    return None if value is None else (value[0], value[1])
