"""Loading, looking for operators that stand in the way, and planning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgekit.backends import get_backend
from edgekit.build.costs import check_judge
from edgekit.build.inputs import Inputs, Sources, load_inputs
from edgekit.build.linting import warned
from edgekit.build.preflight import check_targets
from edgekit.build.runner import Runner
from edgekit.errors import UserError
from edgekit.plan import ALL, AUTO, Request, make_plans
from edgekit.profiles.loader import load_profile
from edgekit.settings import resolved
from edgekit.types import Event, Plan, Problem, to_json


def plan_targets(
    sources: Sources, profile: str, request: Request, runner: Runner
) -> tuple[Inputs, list[Plan]]:
    """Load everything; a plan for each target that is to be built. Runs no step but preflight
    and, for int8, the lint on calibration data.

    One plan unless the request is for several targets. Raises what loading and planning raise.
    """
    check_judge(request, load_profile(profile))
    inputs = load_inputs(sources, profile, request, seed=runner.seed, emit=runner.emit)
    spec, facts = inputs.model.spec, inputs.facts()
    form = resolved(request.settings)["quantize.form"]
    if form != "original" and inputs.model.module is None and inputs.student is None:
        raise UserError(
            f"quantize.form={form} was set, but {spec.source} is no torch model, and cannot be changed",
            hint="leave it away, or give the torch model that the file was made from",
        )
    several = request.target in (AUTO, ALL)
    problems: dict[str, Sequence[Problem]] = {}
    while True:
        plans = make_plans(inputs.profile, spec, facts, request, problems)
        wanted = plans if several else plans[:1]
        unknown = [p for p in wanted if p.target not in problems]
        if not unknown:
            return inputs, warned(inputs, wanted, runner)
        problems |= _preflight(inputs, unknown, runner)


def _preflight(inputs: Inputs, plans: Sequence[Plan], runner: Runner) -> dict[str, list[Problem]]:
    """Problems by target, from the cache where the same model was looked at before."""
    schemes = {p.target: p.scheme for p in plans}

    def work() -> dict[str, Any]:
        warnings: list[str] = []

        def listen(event: Event) -> None:
            if event.kind == "warning":
                warnings.append(event.message)

        found = check_targets(inputs.model, None, schemes, listen)
        return {"problems": to_json(found), "warnings": warnings}

    key = {
        "model": inputs.model.spec.sha256,
        "inputs": inputs.model.spec.inputs,
        "schemes": schemes,
        "tools": {p.backend: get_backend(p.backend).tools() for p in plans},
    }
    result: Mapping[str, Any] = runner.run("preflight", key, work)
    for text in result["warnings"]:
        runner.emit(Event(kind="warning", step="preflight", message=text))
    return {target: [Problem(**p) for p in found] for target, found in result["problems"].items()}
