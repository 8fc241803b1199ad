"""What a file costs where it will run: by a measurement, by counted instructions, or by the estimate."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgekit.bench import bench
from edgekit.build.lowering import digest_arrays
from edgekit.errors import StepFailed, UserError
from edgekit.measure.estimate import estimate_latency
from edgekit.types import Artifact, RunProtocol, to_json

if TYPE_CHECKING:
    from edgekit.backends import Backend
    from edgekit.build.runner import Runner
    from edgekit.devices.base import Link
    from edgekit.measure.estimate import Estimate
    from edgekit.plan import Request
    from edgekit.profiles.schema import DeviceProfile, Target
    from edgekit.types import Array

COUNTED = RunProtocol(warmup=1, runs=1, threads=1)
"""Counts of instructions repeat exactly, so one run is enough; the warm-up packs weights."""
_ARM = ("aarch64", "arm64", "armv7l", "armv8l", "arm64-v8a", "armeabi-v7a")


class Costs:
    """Costs of files of one target over one link; ``sample`` holds one (1, ...) array per input."""

    def __init__(
        self,
        backend: Backend,
        runner: Runner,
        profile: DeviceProfile,
        target: Target,
        link: Link | None,
        sample: Sequence[Array],
    ) -> None:
        self._backend, self._runner, self._profile, self._target = backend, runner, profile, target
        self._link, self._sample = link, sample

    @property
    def counts(self) -> bool:
        """Whether the link counts instructions, and has no latency."""
        return self._link is not None and self._link.source == "emulator"

    def estimate(self, file: Artifact) -> Estimate | None:
        """What the profile's coefficients predict, None where they do not describe the target."""
        units = [to_json(u) for u in self._backend.units(file)]
        covered = [to_json(c) for c in self._backend.coverage(file, self._target)]
        return estimate_latency(self._profile, self._target, units, coverage=covered)

    def measured(self, file: Artifact) -> float:
        """Instructions on an emulator, from the cache where they were counted before; elsewhere the median
        latency in ms, measured anew each time. Raises StepFailed where the link gives neither."""
        link = self._link
        if link is None:
            raise StepFailed("nothing can be measured", hint="see `edgekit doctor`")
        if not self.counts:
            protocol = self._profile.protocol
            threads = self._profile.constraints.threads
            return self._bench(
                file, link, RunProtocol(warmup=protocol.warmup, runs=protocol.runs, threads=threads)
            )
        key = {
            "backend": self._backend.name,
            "file": file.sha256,
            "profile": self._profile.slice("cores", "caches", "memory", "emulator"),
            "device": link.facts(),
            "sample": digest_arrays(self._sample),
            "tools": self._backend.tools(),
        }

        def work() -> dict[str, Any]:
            return {"objects": [], "count": self._bench(file, link, COUNTED)}

        return float(self._runner.run("count", key, work)["count"])

    def _bench(self, file: Artifact, link: Link, protocol: RunProtocol) -> float:
        encoded = self._backend.session(file).encode(self._sample)
        done = bench(self._backend, file, encoded, link, store=self._runner.store, protocol=protocol)
        metric = "instructions" if self.counts else "latency"
        value = next((m.median for m in done.measurements if m.metric == metric), None)
        if value is None:
            raise StepFailed(f"{link.name} gave no {metric}")
        return float(value)


class GateCosts:
    """The gates "latency" and "speedup" of any file, on the basis that the finished build judges them by."""

    def __init__(self, costs: Costs, baseline: Artifact, link: Link | None) -> None:
        self._costs, self._baseline, self._link = costs, baseline, link
        self._before: float | None = None

    def of(self, file: Artifact, names: Sequence[str]) -> Mapping[str, float | None]:
        """Milliseconds, and how many times cheaper than the float32 original; None where nothing tells."""
        found: dict[str, float | None] = {}
        if "latency" in names:
            found["latency"] = self._latency(file)
        if "speedup" in names:
            before, after = self._original(), self._one(file)
            found["speedup"] = None if before is None or not after else before / after
        return found

    def _latency(self, file: Artifact) -> float | None:
        if self._link is not None and not self._costs.counts:
            return self._costs.measured(file)
        return self._estimated(file)

    def _original(self) -> float | None:
        if self._before is None:
            self._before = self._one(self._baseline)
        return self._before

    def _one(self, file: Artifact) -> float | None:
        return self._estimated(file) if self._link is None else self._costs.measured(file)

    def _estimated(self, file: Artifact) -> float | None:
        found = self._costs.estimate(file)
        return None if found is None else found.ms


def check_judge(request: Request, profile: DeviceProfile, link: Link | None = None) -> None:
    """Raise UserError where a latency or a speed-up would be judged by a machine of another kind.

    Without ``link`` by the request alone, before anything is loaded.
    """
    if request.latency_ms is None and request.speedup is None:
        return
    abi, hint = profile.os.abi, "name the device (--device ssh:... or adb:...), or leave --device out: the "
    hint += "emulator or the profile's estimate tells it then"
    if link is None:
        if request.device != "local" or platform.machine() == abi:
            return
        where, arch = "--device local is this computer", platform.machine()
    else:
        if link.source == "emulator" or (link.arch in _ARM) == (abi in _ARM):
            return
        where, arch = f"--device {link.name} is a machine", link.arch
    wanted = "--latency" if request.latency_ms is not None else "--speedup"
    raise UserError(f"{where} ({arch}), which says nothing about {wanted} on {profile.id} ({abi})", hint=hint)
