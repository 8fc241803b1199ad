"""The recipe of a finished candidate: the wishes, and what a search found in place of searching again."""

from __future__ import annotations

import edgekit
from edgekit.build.candidate import Candidate
from edgekit.plan import Request
from edgekit.recipe import Recipe, to_toml
from edgekit.settings import resolved


def recipe_of(candidate: Candidate, profile: str, request: Request, seed: int) -> str:
    """The text of recipe.toml; ``profile`` as the user named it."""
    made, plan = candidate.made, candidate.plan
    settings = resolved(request.settings)
    if made.search is not None:
        scheme = made.scheme
        settings |= {
            "quantize.precision": scheme.precision,
            "quantize.calibration": scheme.calibration,
            "quantize.io": scheme.io,
            "quantize.keep": [u for u, p in scheme.overrides.items() if p == "float32"],
            "quantize.form": next(p["form"] for p in made.search["points"] if p["chosen"]),
            "search.rungs": [],
        }
    if made.target is not None:
        settings |= {"prune.ratio": 0.0, "prune.ratios": sorted(made.target["ratios"].items())}
    recipe = Recipe(
        profile=profile,
        target=plan.target,
        seed=seed,
        max_drop=request.max_drop,
        max_size_bytes=request.max_size_bytes,
        latency_ms=request.latency_ms,
        speedup=request.speedup,
        keep_nchw=request.keep_nchw,
        settings=settings,
    )
    spec = made.inputs.model.spec
    data = [f"--{role} {d.source}" for role, d in made.inputs.datas.items()]
    steps = [f"  {i}. {s.name}: {s.reason}" for i, s in enumerate(plan.steps, 1)]
    found = [] if made.search is None else [f"The search: {made.search['reason']}."]
    comment = [
        f"Recipe of edgekit {edgekit.__version__} for {spec.name} ({spec.source}).",
        f"edgekit build {spec.source} {' '.join(data)} --recipe recipe.toml",
        "gives the same file again, on the same model, data and machine. --set changes a setting of it.",
        f"sha256 of the file: {made.final.sha256}",
        *found,
        "The steps:",
        *steps,
    ]
    return to_toml(recipe, comment="\n".join(comment))
