"""Which of several finished targets is the one: the fastest that passes its gates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgekit.build.candidate import Candidate
from edgekit.build.measuring import on_the_device
from edgekit.measure.estimate import estimate_latency


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Place of the chosen candidate, why it was chosen, and what the comparison was made on.

    ``costs`` has each candidate's figure on that basis by target, None where there is none.
    """

    index: int
    reason: str
    basis: str
    unit: str
    costs: Mapping[str, float | None]


def choose(candidates: Sequence[Candidate]) -> Choice:
    """The cheapest candidate whose gates hold; among none such, the cheapest of all.

    Compared on the strongest basis that all of them have: one measurement over the same link, else the
    estimate of the profile's coefficients, else the profile's own order.
    """
    if not candidates:
        raise ValueError("there is nothing to choose from")
    passing = [i for i, c in enumerate(candidates) if not c.failed_gates]
    pool = passing or list(range(len(candidates)))
    which = "the only target that passes its gates" if len(passing) == 1 < len(candidates) else None
    basis, unit, costs = _costs([candidates[i] for i in pool])
    named = {c.plan.target: costs.get(c.plan.target) for c in candidates}
    if basis == "order":
        reason = which or "the first in the profile's order: there is neither a measurement nor an estimate"
        return Choice(index=pool[0], reason=_noted(reason, passing), basis=basis, unit=unit, costs=named)
    best = min(pool, key=lambda i: (costs[candidates[i].plan.target], i))
    if which is None:
        which = f"fewest {basis}" if unit == "instructions" else f"lowest {basis}"
        which += f" among {len(pool)} targets" if len(pool) > 1 else ""
    return Choice(index=best, reason=_noted(which, passing), basis=basis, unit=unit, costs=named)


def _noted(reason: str, passing: Sequence[int]) -> str:
    return reason if passing else f"{reason}; no target passes its gates"


def _costs(candidates: Sequence[Candidate]) -> tuple[str, str, dict[str, float]]:
    """(basis, unit, cost by target) on the strongest basis that every candidate has."""
    for metric, unit in (("latency", "ms"), ("instructions", "instructions")):
        measured = {c.plan.target: _measured(c, metric) for c in candidates}
        known = {t: v for t, v in measured.items() if v is not None}
        if len(known) == len(candidates):
            basis = "measured latency" if metric == "latency" else "instructions per inference"
            return basis, unit, known
    estimated = {c.plan.target: _estimated(c) for c in candidates}
    known = {t: v for t, v in estimated.items() if v is not None}
    if len(known) == len(candidates):
        return "estimated latency", "ms", known
    return "order", "", {}


def _measured(candidate: Candidate, metric: str) -> float | None:
    made = candidate.made
    where = on_the_device(made.measurements, made.inputs.profile, candidate.target)
    if metric == "latency" and not where:
        return None
    found = (m.median for m in candidate.made.measurements if m.metric == metric and m.subject == "final")
    return next(found, None)


def _estimated(candidate: Candidate) -> float | None:
    profile = candidate.made.inputs.profile
    verified = candidate.made.verified
    estimate = estimate_latency(
        profile, candidate.target, verified["units"], coverage=verified.get("coverage", ())
    )
    return None if estimate is None else estimate.ms
