"""`edgekit bench --via app`: a bundle measured and checked by the app of android_demo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgekit.bench import Series, SeriesPlan
    from edgekit.cli.targets import Subject
    from edgekit.devices import Link
    from edgekit.types import Emit


def measure_with_app(
    subject: Subject, link: Link, plan: SeriesPlan, emit: Emit, options: Mapping[str, Any]
) -> tuple[Series, dict[str, Any]]:
    """The measurements, and how the golden samples compare: {"samples", "agree", "same_top1", "max_abs",
    "atol", "rtol"}. On accelerators the tolerance allows for their rounding.

    Raises UserError for a bare file, and what :func:`edgekit.bench.app.bench_with_app` raises.
    """
    from edgekit.bench.app import bench_with_app
    from edgekit.bundle import compare, golden_samples
    from edgekit.bundle.golden import accelerator_tolerance, tolerance_of
    from edgekit.bundle.manifest import manifest_files
    from edgekit.bundle.run import inside
    from edgekit.devices.android import app_delegate
    from edgekit.errors import UserError

    manifest = subject.manifest
    if manifest is None:
        raise UserError("the app runs bundles, not bare files", hint="name a folder made by edgekit build")
    delegates = manifest.data["runtime"]["delegates"]
    delegate = app_delegate(options["delegate"] or (delegates[0] if delegates else "cpu"))
    names = {str(entry["path"]) for entry in manifest_files(manifest.data)}
    files = {name: inside(manifest.root, name) for name in sorted(names)}
    files["manifest.json"] = Path(manifest.root) / "manifest.json"
    done = bench_with_app(
        files,
        str(manifest.data["models"][0]["sha256"]),
        delegate,
        link,
        plan=plan,
        apk=options["apk"],
        emit=emit,
    )
    expected = [s.outputs for s in golden_samples(manifest)]
    tolerance = tolerance_of(manifest) if delegate == "cpu" else accelerator_tolerance(manifest)
    results = compare(expected, done.golden, tolerance)
    tops = [
        e[0].reshape(-1).argmax() == g[0].reshape(-1).argmax()
        for e, g in zip(expected, done.golden, strict=True)
    ]
    classes = manifest.data["task"] == "classification"
    return done.series, {
        "samples": len(results),
        "agree": sum(r.passed for r in results),
        "same_top1": sum(map(bool, tops)) if classes else None,
        "max_abs": max((r.max_abs for r in results), default=0.0),
        "atol": tolerance.atol,
        "rtol": tolerance.rtol,
    }


def golden_words(golden: Mapping[str, Any]) -> str:
    """One line for people."""
    n = golden["samples"]
    parts = [f"{golden['agree']} of {n} agree"]
    if golden["same_top1"] is not None:
        parts.append(f"same top-1 on {golden['same_top1']} of {n}")
    limit = f"atol {golden['atol']:.3g}, rtol {golden['rtol']:.3g}"
    return ", ".join([*parts, f"largest difference {golden['max_abs']:.3g} ({limit})"])


def refuse_other_outputs(results: Sequence[Mapping[str, Any]]) -> None:
    """Raise GateFailed when a device computed something else than the golden outputs."""
    from edgekit.errors import GateFailed

    for result in results:
        golden = result["golden"]
        if golden["agree"] < golden["samples"]:
            differing = golden["samples"] - golden["agree"]
            raise GateFailed(
                f"{differing} of {golden['samples']} golden samples differ on {result['link']}",
                hint="the delegate there computes something else: compare with --delegate cpu",
            )
