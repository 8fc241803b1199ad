"""Whether a search may follow when the int8 file breaks a gate, and what it may try."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgekit.plan.compression import qat_config
from edgekit.plan.request import DataFacts, Request
from edgekit.types import Gate, ModelSpec, PlanStep, Precision, Rejected, Scheme

if TYPE_CHECKING:
    from edgekit.profiles.schema import Target

_MOVED = ("accuracy_drop", "agreement", "output_sqnr")
"""Gates whose breaking another recipe may mend."""

_WIDER: tuple[Precision, ...] = ("fp16", "float32")
"""Precisions to fall back to, in order: those that lose next to nothing."""

_FIXED = ("mixed", "wider")
"""Rungs that change the precision, which a user who set it does not want."""


def plan_search(
    model: ModelSpec,
    data: DataFacts,
    scheme: Scheme,
    target: Target,
    gates: Sequence[Gate],
    request: Request,
    settings: Mapping[str, Any],
    rejected: list[Rejected],
) -> PlanStep | None:
    """The step, or None with the reason in ``rejected``."""
    name = "a search for a recipe that holds the gates"
    rungs = list(settings["search.rungs"])
    if not rungs:
        rejected.append(Rejected(alternative=name, reason="search.rungs=none was set"))
        return None
    limits = [g.name for g in gates if g.name in _MOVED]
    if scheme.precision != "int8" or not limits:
        return None
    if settings["quantize.precision"] is not None:
        rungs = [r for r in rungs if r not in _FIXED]
        rejected.append(
            Rejected(
                alternative="mixed precision or a wider one where int8 loses too much",
                reason=f"quantize.precision={settings['quantize.precision']} was set",
            )
        )
    if settings["quantize.keep"]:
        rungs = [r for r in rungs if r != "mixed"]
    if settings["quantize.form"] != "original":
        rungs = [r for r in rungs if r != "equalization"]
    if settings["quantize.calibration"] != "auto":
        rungs = [r for r in rungs if r != "calibration"]
    if settings["qat.epochs"] > 0 and "wider" in rungs:
        rungs.remove("wider")  # no recipe makes such a file
        rejected.append(
            Rejected(
                alternative="a wider precision where int8 loses too much",
                reason="qat.epochs was set: the model is trained for int8",
            )
        )
    left_out: dict[str, str] = {}
    if "qat" in rungs:
        untrained = _why_untrained(model, data, request, settings)
        if untrained is not None:
            rungs.remove("qat")
            left_out["qat"] = untrained
            rejected.append(
                Rejected(alternative="quantisation-aware training in the search", reason=untrained)
            )
    if not rungs:
        return None
    return PlanStep(
        name="search",
        config={
            "rungs": rungs,
            "wider": [p for p in _WIDER if p in target.precisions] if "wider" in rungs else [],
            "evaluations": settings["search.evaluations"],
            "rankings": settings["search.rankings"],
            "minutes": request.time_budget_minutes,
            **(
                {"qat": qat_config(settings, scheme, epochs=settings["search.qat_epochs"])}
                if "qat" in rungs
                else {}
            ),
            **({"left_out": left_out} if left_out else {}),
        },
        reason=f"only if the int8 file breaks {' or '.join(x.replace('_', ' ') for x in limits)}: "
        + _rungs_text(rungs),
    )


def _why_untrained(
    model: ModelSpec, data: DataFacts, request: Request, settings: Mapping[str, Any]
) -> str | None:
    """Why the search cannot train while int8 is played; None where it can."""
    if settings["qat.epochs"] > 0:
        return "qat.epochs was set: the file comes from it already"
    if not model.trainable and request.student is None:
        return "the source of this model is fixed"
    if data.train == 0:
        return "no training data was given (--train)"
    if settings["quantize.form"] != "original":
        return "equalised channels were set, and trained ranges belong to the channels of training"
    return None


def _rungs_text(rungs: Sequence[str]) -> str:
    words = {
        "calibration": "every calibration method",
        "equalization": "equalised channels",
        "mixed": "as few layers in float32 as are needed",
        "qat": "quantisation-aware training",
        "wider": "a wider precision",
    }
    return ", then ".join(words[r] for r in rungs)
