"""Why the built file is cheaper or dearer than float32, operator by operator, on the device and on this host.

A verdict comes from the profile's device alone. This host is shown beside it because it is where people try
files first: LiteRT's int8 MobileNetV3 is slower than float32 on x86 and cheaper on Arm, and one kind of
operator is the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from edgekit.backends import Backend
from edgekit.bench import bench
from edgekit.build.lowering import digest_arrays
from edgekit.build.measuring import ON_THE_CPU
from edgekit.build.runner import Runner
from edgekit.devices.base import Link
from edgekit.errors import DeviceError, MissingDependency
from edgekit.measure.operators import KindCost, compare_kinds, explained, totals
from edgekit.types import Artifact, Measurement, RunProtocol, to_json

if TYPE_CHECKING:
    from edgekit.profiles.schema import DeviceProfile
    from edgekit.types import Array

_FILES = ("float32", "final")
_ROUNDS = 3
"""Profiles of each file on a machine with a clock, taking turns: of each kind the median counts."""
_TIMED = RunProtocol(warmup=2, runs=5, threads=1)
_COUNTED = RunProtocol(warmup=1, runs=1, threads=1)


def explain(
    runner: Runner,
    backend: Backend,
    link: Link,
    profile: DeviceProfile,
    files: Mapping[str, Artifact],
    sample: Sequence[Array],
    *,
    delegate: str,
    measured: Mapping[str, Measurement] | None = None,
) -> dict[str, Any]:
    """The report's "by_operator" of ``files``: "float32" and "final", of the same network.

    {"places": [{"where", "device", "unit", "before", "after", "ratio", "rows", "reason"}], "missing": [...]}:
    the device or its emulator first, then this host where it can run the files and is not the device.
    ``before`` and ``after`` are instructions, or milliseconds by the clock, of one inference; ``ratio`` is
    after / before; ``rows`` are :class:`edgekit.measure.operators.KindCost`, in instructions or microseconds.
    What could not be profiled is in "missing" with the reason. Times are never from the cache; instructions
    of a file by operator are taken from ``measured``, by the file's SHA-256, where they are there, and not
    counted again.
    """
    known = measured or {}
    places, missing = [], []
    links = [(link, True)]
    if link.source != "host" and delegate in ON_THE_CPU:
        from edgekit.devices.open import open_link

        links.append((open_link("local", profile, runner.store), False))
    for each, is_device in links:
        try:
            place = _place(runner, backend, each, profile, files, sample, known, is_device=is_device)
            places.append(place)
        except (DeviceError, MissingDependency) as exc:
            missing.append(f"no profile by operator on {each.name}: {exc}")
    return {"places": places, "missing": missing}


def counts_by_operator(
    measured: Sequence[Measurement], files: Mapping[str, Artifact]
) -> dict[str, Measurement]:
    """The counts of instructions by operator in ``measured``, by the SHA-256 of the file in ``files``."""
    return {
        files[m.subject].sha256: m
        for m in measured
        if m.metric == "instructions" and m.median is not None and m.detail.get("ops")
    }


def _place(
    runner: Runner,
    backend: Backend,
    link: Link,
    profile: DeviceProfile,
    files: Mapping[str, Artifact],
    sample: Sequence[Array],
    known: Mapping[str, Measurement],
    *,
    is_device: bool,
) -> dict[str, Any]:
    known = known if link.source == "emulator" else {}

    def work() -> dict[str, Any]:
        with link.exclusive():
            return _profiles(runner, backend, link, files, sample, known)

    if link.source == "emulator":
        key = {
            "backend": backend.name,
            "files": {name: files[name].sha256 for name in _FILES},
            "profile": profile.slice("cores", "caches", "memory", "emulator"),
            "device": link.facts(),
            "sample": digest_arrays(sample),
            "tools": backend.tools(),
        }
        found = runner.run("operators", key, work)
    else:
        found = work()
    unit = "instructions" if link.source == "emulator" else "us"
    before, after = (found[name] for name in _FILES)
    rows = compare_kinds(
        *({k: (int(n), float(c)) for k, (n, c) in f["kinds"].items()} for f in (before, after))
    )
    ratio = after["cost"] / before["cost"]
    return {
        "where": _where(link, profile),
        "device": is_device,
        "unit": unit,
        "before": before["cost"],
        "after": after["cost"],
        "ratio": ratio,
        "rows": to_json(rows),
        "reason": _reason(files["final"].precision, ratio, rows, unit),
    }


def _where(link: Link, profile: DeviceProfile) -> str:
    if link.source == "emulator" and profile.emulator is not None:
        return f"emulated {profile.emulator.cpu}"
    return f"this host ({link.arch})" if link.source == "host" else link.name


def _profiles(
    runner: Runner,
    backend: Backend,
    link: Link,
    files: Mapping[str, Artifact],
    sample: Sequence[Array],
    known: Mapping[str, Measurement],
) -> dict[str, Any]:
    """By file: "cost" of one inference (ms or instructions), and count and cost of each kind of operator."""
    emulated = link.source == "emulator"
    inputs = {name: backend.session(files[name]).encode(sample) for name in _FILES}
    costs: dict[str, list[float]] = {name: [] for name in _FILES}
    kinds: dict[str, list[dict[str, tuple[int, float]]]] = {name: [] for name in _FILES}
    for _ in range(1 if emulated else _ROUNDS):
        for name in _FILES:
            first = known.get(files[name].sha256)
            if first is None:
                done = bench(
                    backend,
                    files[name],
                    inputs[name],
                    link,
                    store=runner.store,
                    protocol=_COUNTED if emulated else _TIMED,
                    per_op=True,
                )
                first = done.measurements[0]
            assert first.median is not None  # latency or instructions
            costs[name].append(first.median)
            kinds[name].append(totals(first.detail["ops"], "instructions" if emulated else "us"))
    return {
        "objects": [],
        **{name: {"cost": median(costs[name]), "kinds": _middle(kinds[name])} for name in _FILES},
    }


def _middle(profiles: Sequence[Mapping[str, tuple[int, float]]]) -> dict[str, tuple[int, float]]:
    """Of each kind the median over several profiles of one file."""
    every = dict.fromkeys(kind for p in profiles for kind in p)
    return {
        kind: (
            max(p.get(kind, (0, 0.0))[0] for p in profiles),
            median(p.get(kind, (0, 0.0))[1] for p in profiles),
        )
        for kind in every
    }


def _reason(precision: str, ratio: float, rows: Sequence[KindCost], unit: str) -> str:
    how = "instructions" if unit == "instructions" else "time"
    causes = explained(rows, unit)
    return f"{precision} takes {ratio:.2f} times the {how} of float32" + (f": {causes}" if causes else "")
