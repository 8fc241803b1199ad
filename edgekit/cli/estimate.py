"""`edgekit estimate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.console import json_option, print_json, print_rows, print_table

if TYPE_CHECKING:
    from edgekit.cli.targets import Subject
    from edgekit.measure.estimate import Estimate
    from edgekit.profiles.schema import DeviceProfile, Target

_OPAQUE = "unknown"
"""``Unit.precision`` of a part that holds operators of its own, in a form of a delegate's."""


@click.command("estimate")
@click.argument("path", metavar="BUNDLE|FILE", type=click.Path(exists=True, path_type=Path))
@click.option("--profile", metavar="NAME|FILE", help="The device; without it the bundle's own.")
@click.option("--threads", type=click.IntRange(1), help="Threads of the runtime; without it the profile's.")
@click.option("--per-op", is_flag=True, help="Also list operators: what each is predicted to take.")
@click.option(
    "--emulate", is_flag=True, help="Also run the file on the emulator: instructions of each operator."
)
@json_option
def estimate(
    path: Path, profile: str | None, threads: int | None, per_op: bool, emulate: bool, as_json: bool
) -> None:
    """Predict the latency of a BUNDLE or a model FILE on a device that is not here.

    From the operators of the file (arithmetic, bytes moved, dispatch) and the coefficients of the profile: a
    median with a 90 % interval, what the coefficients were checked on, and what of the file lies outside of
    that. `edgekit calibrate` fits them to a device of your own.

    With --emulate the runtime is run for the emulated device as well. Instructions tell which kernels run and
    how operators compare; they are no milliseconds.
    """
    from edgekit.cli.targets import open_subject

    subject = open_subject(path)
    device = _profile(profile, subject)
    target = _target(device, subject)
    found = _estimated(device, target, subject, threads)
    instructions = _instructions(device, subject) if emulate else None
    if as_json:
        data = {"file": str(path), "target": f"{target.runtime}/{target.delegate}", **_json(found, per_op)}
        print_json(data if instructions is None else {**data, "instructions": instructions})
        return
    _print(found, target, device)
    if per_op:
        rows = [
            (str(i), o.name, o.op, o.kind, *(f"{v:.2g}" for v in (o.ms, o.compute_ms, o.memory_ms)))
            for i, o in enumerate(found.ops)
        ]
        print_table(("#", "operator", "op", "kind", "ms", "compute", "memory"), rows)
    if instructions is not None:
        total = sum(o["instructions"] for o in instructions) or 1
        counted = [
            (o["name"], f"{o['instructions']:,.0f}", f"{100 * o['instructions'] / total:.1f} %")
            for o in instructions
        ]
        print_table(("operator", "instructions", "share"), counted)


def _profile(name: str | None, subject: Subject) -> DeviceProfile:
    from edgekit.errors import UserError
    from edgekit.profiles import load_profile

    chosen = name or (subject.manifest.profile if subject.manifest is not None else None)
    if chosen is None:
        raise UserError("a model file does not say which device it is for", hint="name one with --profile")
    return load_profile(chosen).require_concrete()


def _target(profile: DeviceProfile, subject: Subject) -> Target:
    """The profile's first target of the file's runtime."""
    from edgekit.errors import Unsupported

    runtime = subject.backend.name
    found = next((t for t in profile.targets if t.runtime == runtime), None)
    if found is None:
        known = ", ".join(sorted({t.runtime for t in profile.targets}))
        raise Unsupported(
            f"{profile.id} has no target that runs {runtime} files", hint=f"its runtimes: {known}"
        )
    return found


def _estimated(profile: DeviceProfile, target: Target, subject: Subject, threads: int | None) -> Estimate:
    from edgekit.errors import Unsupported
    from edgekit.measure.estimate import estimate_latency
    from edgekit.types import to_json

    units = subject.backend.units(subject.artifact)
    if any(u.precision == _OPAQUE for u in units):
        raise Unsupported(
            f"{subject.artifact.path.name} does not tell what its delegate computes",
            hint="the report of the build that made it has the estimate",
        )
    covered = subject.backend.coverage(subject.artifact, target)
    found = estimate_latency(profile, target, to_json(units), coverage=to_json(covered), threads=threads)
    if found is None:
        raise Unsupported(
            f"the profile {profile.id} has no coefficients for {target.runtime}/{target.delegate}",
            hint="measure on the device: `edgekit bench`, or fit coefficients to it: `edgekit calibrate`",
        )
    return found


def _instructions(profile: DeviceProfile, subject: Subject) -> list[dict[str, Any]]:
    """Instructions of one inference by operator, as the runtime names them."""
    from edgekit.bench import bench
    from edgekit.cli.targets import raw_inputs
    from edgekit.devices import open_link
    from edgekit.store import Store
    from edgekit.types import RunProtocol

    store = Store()
    done = bench(
        subject.backend,
        subject.artifact,
        raw_inputs(subject.artifact, subject.manifest),
        open_link("emulator", profile, store),
        store=store,
        protocol=RunProtocol(warmup=1, runs=1, threads=1),
        per_op=True,
    )
    counted = next(m for m in done.measurements if m.metric == "instructions")
    ops: list[dict[str, Any]] = counted.detail["ops"]
    return ops


def _json(found: Estimate, per_op: bool) -> dict[str, Any]:
    from edgekit.measure.estimate import significant

    median, interval = found.shown
    data: dict[str, Any] = {
        "profile": found.profile,
        "threads": found.threads,
        "ms": median,
        "interval90": list(interval),
        "basis": found.basis,
        "runtime": found.runtime,
        "validated_on": found.validated_on,
        "within_validated_range": found.known,
        "shares": {k: significant(v, 2) for k, v in found.shares.items()},
        "macs": round(found.macs),
        "bytes_moved": found.bytes,
        "assumes": list(found.assumes),
        "warnings": list(found.warnings),
    }
    if per_op:
        data["ops"] = [
            {"name": o.name, "op": o.op, "kind": o.kind, "ms": significant(o.ms, 2)} for o in found.ops
        ]
    return data


def _print(found: Estimate, target: Target, profile: DeviceProfile) -> None:
    median, (low, high) = found.shown
    threads = f"{found.threads} thread{'s' if found.threads > 1 else ''}"
    print_rows(
        [
            ("Estimate", f"{median:g} ms, 90 % interval {low:g} to {high:g} ms, with {threads}"),
            ("Device", f"{profile.title} ({found.profile}), {target.runtime}/{target.delegate}"),
            ("Spent on", ", ".join(f"{k} {100 * v:.0f} %" for k, v in found.shares.items())),
            ("Basis", f"{found.basis}; {found.runtime}"),
            ("Checked on", found.validated_on or "nothing"),
            ("Assumes", "; ".join(found.assumes)),
            *(("Warning", text) for text in found.warnings),
        ]
    )
