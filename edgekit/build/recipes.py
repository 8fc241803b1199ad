"""The recipe of a finished candidate: the wishes, and what a search found in place of searching again."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

import edgekit
from edgekit.build.candidate import Candidate
from edgekit.build.inputs import Sources
from edgekit.plan import Request
from edgekit.recipe import NAME, Recipe, to_toml
from edgekit.settings import resolved
from edgekit.types import Preprocessing


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
            **({} if scheme.precision == "int8" else {"quantize.float_ops": None}),
            "quantize.keep": [u for u, p in scheme.overrides.items() if p == "float32"],
            "quantize.form": next(p["form"] for p in made.search["points"] if p["chosen"]),
            "search.rungs": [],
        }
        if scheme.trained and made.compressed.qat_config is not None:
            settings |= {"quantize.form": "original", "qat.epochs": made.compressed.qat_config["epochs"]}
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
    steps = [f"  {i}. {s.name}: {s.reason}" for i, s in enumerate(plan.steps, 1)]
    found = [] if made.search is None else [f"The search: {made.search['reason']}."]
    comment = [
        f"Recipe of edgekit {edgekit.__version__} for {spec.name} ({spec.source}).",
        command_of(made.inputs.sources, request),
        "gives the same file again, on the same model, data and machine. --set changes a setting of it.",
        f"sha256 of the file: {made.final.sha256}",
        *found,
        "The steps:",
        *steps,
    ]
    return to_toml(recipe, comment="\n".join(comment))


def command_of(sources: Sources, request: Request) -> str:
    """The command line that builds from a recipe: with what the user named and no recipe holds."""
    images = sources.preprocessing or Preprocessing()
    shapes = sources.input_shapes or ()
    dtypes = sources.input_dtypes or (None,) * len(shapes)
    named = [
        ("weights", sources.weights),
        *(
            ("input-shape", f"{_joined(s)}:{d}" if d else _joined(s))
            for s, d in zip(shapes, dtypes, strict=True)
        ),
        ("calib", sources.calib),
        ("eval", sources.eval),
        ("train", sources.train),
        ("teacher", request.teacher),
        ("student", request.student),
        ("task", sources.task),
        ("input-range", _joined(sources.input_range)),
        ("pixel-scale", images.scale),
        ("mean", _joined(images.mean)),
        ("std", _joined(images.std)),
    ]
    words = ["edgekit", "build", *([] if sources.model is None else [sources.model])]
    for option, value in named:
        words += [] if value is None else [f"--{option}", str(value)]
    words += ["--allow-overlap"] if sources.allow_overlap else []
    return shlex.join([*words, "--recipe", NAME])


def _joined(values: Sequence[float] | None) -> str | None:
    return None if values is None else ",".join(map(str, values))
