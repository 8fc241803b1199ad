"""`edgekit calibrate`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.console import json_option, print_json, print_rows, print_table, progress

if TYPE_CHECKING:
    from edgekit.backends import Backend
    from edgekit.calibrate import Job, Timed
    from edgekit.measure.estimate.calibration import Calibrated
    from edgekit.profiles.schema import DeviceProfile, Target


@click.command("calibrate")
@click.option("--device", required=True, metavar="LINK", help="The device: local, ssh:USER@HOST, adb:SERIAL.")
@click.option("--profile", required=True, metavar="NAME|FILE", help="Profile whose figures are the start.")
@click.option(
    "--runtime", metavar="RUNTIME", help="Runtime to calibrate for; without it the profile's first."
)
@click.option(
    "--also",
    "own",
    multiple=True,
    metavar="BUNDLE|FILE",
    type=click.Path(exists=True, path_type=Path),
    help="A model of your own to time as well; may be repeated.",
)
@click.option(
    "--runs", type=click.IntRange(20), default=20, show_default=True, help="Timed runs in each start."
)
@click.option(
    "--max-spread",
    type=click.FloatRange(0, 100, min_open=True),
    default=5.0,
    show_default=True,
    metavar="PERCENT",
    help="Runs whose repeats differ by more are not used.",
)
@click.option(
    "--out",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="Profile file to write (.toml); it extends --profile.",
)
@json_option
def calibrate(
    device: str,
    profile: str,
    runtime: str | None,
    own: tuple[Path, ...],
    runs: int,
    max_spread: float,
    out: Path,
    as_json: bool,
) -> None:
    """Fit the latency coefficients of a profile to the device at the end of a link.

    Runs tiny generated models (and --also your own) with one thread and with all, each in three starts of
    the runtime, and fits how fast the device computes, moves bytes and starts operators, beginning at the
    profile's figures. Writes a profile that extends the old one; `edgekit estimate --profile OUT` uses it.

    The emulator cannot be calibrated on: it has instructions, no milliseconds.
    """
    from edgekit.backends import get_backend
    from edgekit.calibrate import conditions, generated_jobs, thread_counts, time_jobs, write_profile
    from edgekit.calibrate.timing import refuse_emulated
    from edgekit.calibrate.writing import check_out, runtime_name
    from edgekit.devices import open_link
    from edgekit.measure.estimate.calibration import calibrate as fit
    from edgekit.measure.estimate.calibration import starting_point
    from edgekit.profiles import load_profile
    from edgekit.store import Store

    check_out(out)
    start = load_profile(profile).require_concrete()
    coefficients = starting_point(start)
    target = _target(start, runtime)
    backend, store = get_backend(target.runtime), Store()
    link = open_link(device, start, store)
    refuse_emulated(link)  # before models are made, which takes a minute
    with progress() as emit:
        link.prepare(count=False)
        jobs = generated_jobs(backend, target, store=store, emit=emit)
        jobs += [_own_job(path, backend, target) for path in own]
        timed = time_jobs(
            backend,
            jobs,
            link,
            tile=coefficients.tile,
            threads=thread_counts(start, link),
            store=store,
            runs=runs,
            max_spread=max_spread / 100,
            emit=emit,
        )
        found = fit(timed.points, start)
    name = runtime_name(target, backend.tools())
    write_profile(
        out,
        profile,
        start,
        target,
        found,
        timed.points,
        runtime=name,
        state=conditions(timed.device, name),
    )
    if as_json:
        print_json(_json(out, start, found, timed))
    else:
        _print(out, start, found, timed)


def _target(profile: DeviceProfile, runtime: str | None) -> Target:
    """The profile's first target, or the first of ``runtime``."""
    from edgekit.errors import UserError

    found = next((t for t in profile.targets if runtime in (None, t.runtime)), None)
    if found is None:
        known = ", ".join(dict.fromkeys(t.runtime for t in profile.targets))
        raise UserError(f"{profile.id} has no target of runtime {runtime!r}", hint=f"it has: {known}")
    return found


def _own_job(path: Path, backend: Backend, target: Target) -> Job:
    from edgekit.calibrate import file_job
    from edgekit.cli.targets import open_subject, raw_inputs
    from edgekit.errors import UserError

    subject = open_subject(path)
    if subject.backend.name != backend.name:
        raise UserError(
            f"{path} is for {subject.backend.name}, the calibration for {backend.name}",
            hint="one calibration holds for one runtime: calibrate each on its own",
        )
    inputs = raw_inputs(subject.artifact, subject.manifest)
    return file_job(str(path), backend, subject.artifact, inputs, target)


def _before_and_after(profile: DeviceProfile, found: Calibrated) -> list[tuple[str, str, float, float]]:
    """(name, unit, before, after) of each coefficient; rates as achieved."""
    model = profile.estimate
    assert model is not None
    return [
        ("fp32", "MAC/cycle", model.macs_per_cycle.fp32 * model.efficiency, found.fp32),
        ("int8", "MAC/cycle", model.macs_per_cycle.int8 * model.efficiency, found.int8),
        ("copy", "GB/s", model.copy_gb_s, found.copy_gb_s),
        ("op", "us", model.op_us, found.op_us),
        ("depthwise fp32", "of dense", model.depthwise.fp32, found.depthwise_fp32),
        ("depthwise int8", "of dense", model.depthwise.int8, found.depthwise_int8),
    ]


def _json(out: Path, profile: DeviceProfile, found: Calibrated, timed: Timed) -> dict[str, Any]:
    return {
        "profile": str(out),
        "extends": profile.id,
        "n_points": found.n_points,
        "leave_one_out_error": found.error,
        "network_error": found.network_error,
        "interval_log": found.interval_log,
        "coefficients": {
            name: {"unit": unit, "before": before, "after": after, "measured": found.seen[name]}
            for name, unit, before, after in _before_and_after(profile, found)
        },
        "points": [
            {
                "model": p.model,
                "threads": p.threads,
                "ms": p.ms,
                "spread": p.spread,
                "left_out": math.exp(-r) - 1,
            }
            for p, r in zip(timed.points, found.leave_one_out, strict=True)
        ],
        "rejected": [{"model": r.model, "threads": r.threads, "spread": r.spread} for r in timed.rejected],
        "device": timed.device,
    }


def _left_out(found: Calibrated) -> str:
    text = f"{100 * found.error:.0f} % median error of models that the fit had not seen"
    if found.network_error is None:
        return f"{text}; no network was among them (--also)"
    return f"{text}, {100 * found.network_error:.0f} % mean error of networks"


def _print(out: Path, profile: DeviceProfile, found: Calibrated, timed: Timed) -> None:
    runs = [
        (p.model, str(p.threads), f"{p.ms:.4g}", f"{100 * p.spread:.1f}", f"{100 * (math.exp(-r) - 1):+.0f}")
        for p, r in zip(timed.points, found.leave_one_out, strict=True)
    ]
    print_table(("model", "threads", "ms", "spread %", "off when left out %"), runs)
    rows = [
        (name, unit, f"{before:.3g}", f"{after:.3g}" if found.seen[name] else "not measured")
        for name, unit, before, after in _before_and_after(profile, found)
    ]
    print_table(("coefficient", "unit", "before", "after"), rows)
    print_rows(
        [
            ("Left out", _left_out(found)),
            *(
                ("Warning", f"{r.model} with {r.threads} threads was not used: spread {100 * r.spread:.0f} %")
                for r in timed.rejected
            ),
            ("Written", str(out)),
        ]
    )
