"""Pure planning: from a profile, facts of the model and the data and the user's wishes to a Plan.

Nothing here reads a file, loads a framework or depends on this machine; equal inputs give equal plans.
Everything that was not chosen is in ``Plan.rejected`` with its reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekit.backends import RUNTIMES, Backend, get_backend
from edgekit.errors import Unsupported
from edgekit.plan.compression import plan_compression
from edgekit.plan.gates import DEFAULT_MAX_DROP, plan_gates
from edgekit.plan.pruning import DEFAULT_PRUNE_RATIO
from edgekit.plan.request import ALL, AUTO, PREFERRED, DataFacts, Request
from edgekit.plan.schemes import plan_scheme
from edgekit.plan.searching import plan_search
from edgekit.plan.steps import PARITY_LIMIT, plan_steps
from edgekit.plan.targeting import plan_target, target_gates
from edgekit.settings import resolved
from edgekit.types import ModelSpec, Plan, Problem, Rejected, Scheme

if TYPE_CHECKING:
    from edgekit.profiles.schema import DeviceProfile, Target

__all__ = [
    "ALL",
    "AUTO",
    "DEFAULT_MAX_DROP",
    "DEFAULT_PRUNE_RATIO",
    "PARITY_LIMIT",
    "PREFERRED",
    "DataFacts",
    "Request",
    "explain",
    "make_plan",
    "make_plans",
]

_NAMED_PROBLEMS = 3


@dataclass(frozen=True, kw_only=True)
class _Candidate:
    """A target that can be built, with its precision and what was said on the way to it."""

    target: Target
    backend: Backend
    scheme: Scheme
    notes: tuple[Rejected, ...]
    worries: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.target.runtime}/{self.target.delegate}"


def make_plan(
    profile: DeviceProfile,
    model: ModelSpec,
    data: DataFacts,
    request: Request,
    problems: Mapping[str, Sequence[Problem]] | None = None,
) -> Plan:
    """The plan of the first target in the profile's order that works. See :func:`make_plans`."""
    return make_plans(profile, model, data, request, problems)[0]


def make_plans(
    profile: DeviceProfile,
    model: ModelSpec,
    data: DataFacts,
    request: Request,
    problems: Mapping[str, Sequence[Problem]] | None = None,
) -> list[Plan]:
    """A plan for every target that the request admits and that works, in the profile's order.

    ``problems`` are operators that a target cannot take, by "runtime/delegate", as preflight found them.
    Each plan holds the other targets among its rejected alternatives.

    Raises Unsupported (with every reason) when no target of the profile can be built, UserError when the
    request contradicts the model or the data.
    """
    settings = resolved(request.settings)
    candidates, refused = _candidates(profile, data, request, settings, problems or {})
    if not candidates:
        raise _cannot(profile, request, refused)
    shared: list[Rejected] = []
    compress = plan_compression(model, data, request, settings, profile, shared, scheme=candidates[0].scheme)
    worries: list[str] = []
    target = plan_target(model, data, request, settings, profile, shared, worries)
    compress = compress if target is None else (target, *compress)
    several = request.target in (AUTO, ALL)
    plans = []
    for candidate in candidates:
        others = [
            Rejected(alternative=f"target {c.name}", reason=_besides(c, candidate, several=several))
            for c in candidates
            if c is not candidate
        ]
        companions = candidate.backend.companions(candidate.target, candidate.scheme)
        gates = plan_gates(model, data, request, settings, candidate.scheme, pruned=bool(compress))
        gates += target_gates(request, profile)
        unsearched: list[Rejected] = []
        search = plan_search(
            model, data, candidate.scheme, candidate.target, gates, request, settings, unsearched
        )
        plans.append(
            Plan(
                profile=profile.id,
                target=candidate.name,
                backend=candidate.backend.name,
                delegate=candidate.target.delegate,
                scheme=candidate.scheme,
                companions=companions,
                steps=plan_steps(
                    compress,
                    search,
                    candidate.target,
                    candidate.scheme,
                    companions,
                    settings,
                    profile,
                    request,
                ),
                gates=gates,
                rejected=(*candidate.notes, *refused, *others, *shared, *unsearched),
                warnings=(*candidate.worries, *worries, *candidate.target.warnings),
            )
        )
    return plans


def _candidates(
    profile: DeviceProfile,
    data: DataFacts,
    request: Request,
    settings: Mapping[str, Any],
    problems: Mapping[str, Sequence[Problem]],
) -> tuple[list[_Candidate], list[Rejected]]:
    """Targets that work, in the profile's order, and why the others do not."""
    found: list[_Candidate] = []
    refused: list[Rejected] = []
    for target in _admitted(profile, request):
        name = f"{target.runtime}/{target.delegate}"
        if target.runtime not in RUNTIMES:
            reason = f"this version of edgekit has no {target.runtime} backend"
            refused.append(Rejected(alternative=f"target {name}", reason=reason))
            continue
        backend = get_backend(target.runtime)
        notes: list[Rejected] = []
        worries: list[str] = []
        scheme = plan_scheme(profile, target, data, request, settings, notes, worries)
        reasons = list(backend.supports(profile, target, scheme).reasons)
        found_problems = problems.get(name, ())
        reasons += [str(p) for p in found_problems[:_NAMED_PROBLEMS]]
        if len(found_problems) > _NAMED_PROBLEMS:
            reasons.append(f"and {len(found_problems) - _NAMED_PROBLEMS} more (see `edgekit inspect`)")
        if reasons:
            refused.append(Rejected(alternative=f"target {name}", reason="; ".join(reasons)))
            continue
        found.append(
            _Candidate(
                target=target, backend=backend, scheme=scheme, notes=tuple(notes), worries=tuple(worries)
            )
        )
    return found, refused


def _admitted(profile: DeviceProfile, request: Request) -> list[Target]:
    """Targets that the request names. Raises Unsupported when the profile has none of that name."""
    if request.target in (PREFERRED, AUTO, ALL):
        return list(profile.targets)
    named = [t for t in profile.targets if request.target in (t.runtime, f"{t.runtime}/{t.delegate}")]
    if not named:
        offered = ", ".join(f"{t.runtime}/{t.delegate}" for t in profile.targets)
        raise Unsupported(
            f"profile {profile.id} has no target {request.target!r}",
            hint=f"it has: {offered}; or {PREFERRED}, {AUTO}, {ALL}",
        )
    return named


def _besides(other: _Candidate, chosen: _Candidate, *, several: bool) -> str:
    if several:
        return "is built as well and compared"
    return f"the profile prefers {chosen.name}; compare them with --target {ALL}"


def _cannot(profile: DeviceProfile, request: Request, refused: Sequence[Rejected]) -> Unsupported:
    reasons = "; ".join(f"{r.alternative}: {r.reason}" for r in refused)
    return Unsupported(
        f"edgekit cannot build for profile {profile.id}: {reasons}",
        hint="choose another profile (`edgekit profiles list`) or another --target; "
        "`edgekit inspect MODEL` lists what each runtime cannot take",
    )


def explain(plan: Plan) -> Sequence[tuple[str, str]]:
    """The plan as (heading, sentence) rows for a person."""
    rows = [("target", f"{plan.target}, {plan.scheme.precision}")]
    rows += [("and", f"{s.precision}, in the same bundle") for s in plan.companions]
    rows += [(f"step {i}: {s.name}", s.reason) for i, s in enumerate(plan.steps, 1)]
    rows += [(f"gate {g.name}", f"{g.comparison} {g.limit:g} {g.unit} ({g.reason})") for g in plan.gates]
    rows += [(f"not: {r.alternative}", r.reason) for r in plan.rejected]
    rows += [("warning", w) for w in plan.warnings]
    return rows
