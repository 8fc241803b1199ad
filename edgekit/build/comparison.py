"""The table of targets in a report: what each gives and costs, and which one was taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edgekit.build.candidate import Candidate
from edgekit.build.choice import Choice
from edgekit.build.scores import worst_sqnr
from edgekit.types import Plan

_TARGET = "target "


@dataclass(frozen=True, kw_only=True)
class Failed:
    """A target whose build broke off while others went on."""

    plan: Plan
    error: str


def target_rows(
    finished: Sequence[Candidate], failed: Sequence[Failed], choice: Choice
) -> list[dict[str, Any]]:
    """One row per target of the profile: the chosen one first, then the built, the failed, the refused."""
    order = [choice.index, *(i for i in range(len(finished)) if i != choice.index)]
    rows = [_built(finished[i], choice, chosen=i == choice.index) for i in order]
    rows += [_without(f.plan.target, f.plan.scheme.precision, "failed", f.error) for f in failed]
    known = {row["target"] for row in rows}
    plan = finished[choice.index].plan
    for rejected in plan.rejected:
        name = rejected.alternative.removeprefix(_TARGET)
        if rejected.alternative.startswith(_TARGET) and name not in known:
            rows.append(_without(name, None, "not built", rejected.reason))
    return rows


def _built(candidate: Candidate, choice: Choice, *, chosen: bool) -> dict[str, Any]:
    made, plan = candidate.made, candidate.plan
    gates = ", ".join(g.name for g in candidate.failed_gates)
    reason = choice.reason if chosen else (f"fails {gates}" if gates else "")
    figures = {m.metric: m.median for m in made.measurements if m.subject == "final"}
    return {
        "target": plan.target,
        "precision": made.scheme.precision,
        "status": candidate.status,
        "chosen": chosen,
        "reason": reason,
        "bytes": made.final.bytes,
        "accuracy": made.scores["accuracy"],
        "agreement": made.scores["agreement"],
        "sqnr_db": None if made.samples_from == "random" else worst_sqnr(made.original, made.outputs),
        "instructions": figures.get("instructions"),
        "latency_ms": figures.get("latency"),
        "cost": choice.costs.get(plan.target),
        "cost_basis": choice.basis,
    }


def _without(target: str, precision: str | None, status: str, reason: str) -> dict[str, Any]:
    empty = ("bytes", "accuracy", "agreement", "sqnr_db", "instructions", "latency_ms", "cost", "cost_basis")
    return {
        "target": target,
        "precision": precision,
        "status": status,
        "chosen": False,
        "reason": reason,
        **dict.fromkeys(empty),
    }
