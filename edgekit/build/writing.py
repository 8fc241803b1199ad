"""Bundle, report and events of a finished build, written into its output folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import edgekit
from edgekit.build.candidate import Candidate
from edgekit.build.equality import tolerance_of
from edgekit.recipe import NAME
from edgekit.store import digest_json, write_atomic
from edgekit.types import to_json


def write_candidate(
    folder: Path, candidate: Candidate, report: Mapping[str, Any], events: Sequence[str], recipe: str
) -> dict[str, Any]:
    """Write bundle/, recipe.toml, report.json, report.html and events.jsonl; returns the report."""
    from edgekit.bundle.golden import Tolerance
    from edgekit.bundle.write import RuntimeTarget, write_bundle
    from edgekit.report.render import write_report

    made, target = candidate.made, candidate.target
    share, relative = tolerance_of(candidate.backend, made.final)
    scale = max(float(np.abs(o).max(initial=0.0)) for o in made.outputs)
    ranges = [(float(x.min()), float(x.max())) for x in candidate.lowering.samples]
    spec, profile = made.inputs.model.spec, made.inputs.profile
    others = tuple(c.artifact for c in candidate.companions)
    path = write_bundle(
        folder,
        artifact=made.final,
        companions=others,
        companion_outputs=[c.golden_outputs for c in candidate.companions],
        extra_files=candidate.backend.bundle_files((made.final, *others), profile, target),
        spec=spec,
        profile=profile.id,
        runtime=RuntimeTarget(
            name=target.runtime,
            min_version=target.min_version,
            delegates=(target.delegate,),
            threads=profile.constraints.threads,
        ),
        golden=candidate.golden,
        tolerance=Tolerance(atol=share * scale, rtol=relative),
        provenance={
            "edgekit_version": edgekit.__version__,
            "source_sha256": spec.sha256,
            "plan_digest": digest_json(to_json(candidate.plan)),
        },
        licences={},
        input_ranges=ranges,
    )
    finished = write_report({**report, "bundle": _bundle_listing(path)}, folder)
    write_atomic(folder / NAME, recipe)
    write_atomic(folder / "events.jsonl", "\n".join(events) + "\n")
    return finished


def _bundle_listing(path: Path) -> dict[str, Any]:
    from edgekit.store import digest_file

    files = sorted(p for p in path.rglob("*") if p.is_file())
    return {
        "path": path.name,
        "files": [
            {"path": str(p.relative_to(path)), "bytes": p.stat().st_size, "sha256": digest_file(p)}
            for p in files
        ],
    }
