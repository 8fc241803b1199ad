"""Running plans: inputs, steps, gates, bundles and reports."""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgekit.build.candidate import Candidate, lower
from edgekit.build.choice import Choice, choose
from edgekit.build.comparison import Failed, target_rows
from edgekit.build.compression import Compressed
from edgekit.build.costs import check_judge
from edgekit.build.inputs import Inputs, Sources, load_inputs
from edgekit.build.keeping import check_kept_of
from edgekit.build.measuring import open_for_build
from edgekit.build.output import check_writable, staged
from edgekit.build.planning import plan_targets
from edgekit.build.recipes import recipe_of
from edgekit.build.reporting import assemble
from edgekit.build.runner import Runner, source_digest
from edgekit.build.target import search_target
from edgekit.build.verdict import verdict_of
from edgekit.build.writing import write_candidate
from edgekit.devices.base import Link
from edgekit.errors import EdgekitError, StepFailed, UserError
from edgekit.plan import ALL, Request
from edgekit.store import Store
from edgekit.types import Emit, Event, Gate, Plan, ignore_events, to_json

__all__ = ["Built", "Inputs", "Request", "Sources", "build", "load_inputs", "plan_build"]


@dataclass(frozen=True, kw_only=True)
class Built:
    """A finished build: where it lies, its report, and whether every gate held."""

    folder: Path
    report: Mapping[str, Any]
    status: str
    failed_gates: tuple[Gate, ...] = ()


@dataclass
class _Listener:
    """Passes events on and keeps them for events.jsonl."""

    emit: Emit
    lines: list[str] = field(default_factory=list)

    def __call__(self, event: Event) -> None:
        if event.kind != "progress":
            self.lines.append(json.dumps(to_json(event), sort_keys=True))
        self.emit(event)


def plan_build(
    sources: Sources,
    profile: str,
    request: Request,
    *,
    seed: int = 0,
    store: Store | None = None,
    emit: Emit = ignore_events,
) -> tuple[Inputs, list[Plan]]:
    """Load everything and plan; runs no step but preflight and lint. One plan per target."""
    return plan_targets(sources, profile, request, Runner(store or Store(), emit, seed))


def build(
    sources: Sources,
    profile: str,
    request: Request,
    *,
    out: Path = Path("out"),
    store: Store | None = None,
    seed: int = 0,
    emit: Emit = ignore_events,
    command: Sequence[str] = (),
) -> Built:
    """Do all that `edgekit build` does. Writes ``out``/<model>/<profile>/ only when every step is done.

    With several targets the folder holds the chosen one; with target "all" each of the others lies in
    targets/<runtime>-<delegate>/ below it. A target that breaks on the way is a row of the comparison, as
    long as another one gets through.

    Broken gates do not raise: the bundle is kept as a candidate and ``status`` is "gate_failed".
    Raises the errors of :mod:`edgekit.errors` for everything else that goes wrong.
    """
    listener = _Listener(emit)
    store = store or Store()
    store.sweep()
    runner = Runner(store, listener, seed)
    inputs, plans = plan_targets(sources, profile, request, runner)
    folder = out / _folder_name(inputs.model.spec.name) / inputs.profile.id
    check_writable(folder)
    for text in dict.fromkeys([*(w for p in plans for w in p.warnings), *inputs.warnings]):
        listener(Event(kind="warning", step="plan", message=text))
    links = [_open(plan, inputs, request, runner) for plan in plans]
    minutes = request.time_budget_minutes
    deadline = None if minutes is None else time.monotonic() + 60 * minutes
    targeted = search_target(inputs, runner, list(zip(plans, (x for x, _ in links), strict=True)), deadline)
    if targeted is not None:  # one compressed model serves every target of the build
        plans = [targeted.applied(p) for p in plans]
        for text in targeted.warnings:
            listener(Event(kind="warning", step="target", message=text))
    found_target = None if targeted is None else targeted.report
    compressed = Compressed(inputs, runner, plans[0], lambda made: check_kept_of(plans, inputs, runner, made))
    finished: list[tuple[Candidate, Sequence[str], Runner]] = []
    failed: list[Failed] = []
    for plan, (link, missing) in zip(plans, links, strict=True):
        own = runner.labelled(plan.target if len(plans) > 1 else "")
        try:
            made = lower(inputs, own, plan, compressed, link, deadline, found_target)
            finished.append((made, missing, own))
        except (EdgekitError, OSError) as exc:
            if len(plans) == 1 or not _is_of_the_target(exc):
                raise
            failed.append(Failed(plan=plan, error=str(exc)))
            listener(Event(kind="warning", step=own.shown("failed"), message=str(exc)))
    if not finished:
        raise StepFailed(
            "no target could be built: " + "; ".join(f"{f.plan.target}: {f.error}" for f in failed),
            hint="build one of them alone with --target for its own advice",
        )
    choice = choose([c for c, _, _ in finished])
    reports = [
        _report(c, missing, own, runner, [x for x, _, _ in finished], failed, choice, command)
        for c, missing, own in finished
    ]
    chosen = finished[choice.index][0]
    with staged(folder) as stage:
        for (candidate, _, _), report in zip(finished, reports, strict=True):
            recipe = recipe_of(candidate, profile, request, seed)
            if candidate is chosen:
                written = write_candidate(stage, candidate, report, listener.lines, recipe)
            elif request.target == ALL:
                name = candidate.plan.target.replace("/", "-")
                write_candidate(stage / "targets" / name, candidate, report, listener.lines, recipe)
    listener(Event(kind="info", step="report", message=str(folder / "report.html")))
    return Built(folder=folder, report=written, status=chosen.status, failed_gates=chosen.failed_gates)


def _open(plan: Plan, inputs: Inputs, request: Request, runner: Runner) -> tuple[Link | None, list[str]]:
    from edgekit.backends import get_backend

    step = plan.step("measure")
    if step is None:
        return None, []
    asked_for = request.device is not None
    backend = get_backend(plan.backend)
    device = str(step.config["device"])
    opened = open_for_build(device, asked_for, inputs.profile, backend, runner, delegate=plan.delegate)
    if opened[0] is not None:
        check_judge(request, inputs.profile, opened[0])
    return opened


def _is_of_the_target(exc: Exception) -> bool:
    """Whether another target may still succeed: not after a full disk or a mistake of the user."""
    from edgekit.errors import StoreError

    return isinstance(exc, EdgekitError) and not isinstance(exc, (UserError, StoreError))


def _report(
    candidate: Candidate,
    missing: Sequence[str],
    own: Runner,
    shared: Runner,
    all_finished: Sequence[Candidate],
    failed: Sequence[Failed],
    choice: Choice,
    command: Sequence[str],
) -> dict[str, Any]:
    """report.json of one target, without the listing of its bundle."""
    warnings = [
        *candidate.plan.warnings,
        *candidate.made.inputs.warnings,
        *missing,
        *candidate.warnings,
    ]
    report = assemble(candidate.made, gates=candidate.gates, status=candidate.status, warnings=warnings)
    return report | {
        "seed": shared.seed,
        "command": list(command),
        "created_at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "stages": candidate.made.stages([*shared.outcomes, *own.outcomes]),
        "environment": _environment(candidate.backend.tools()),
        "targets": target_rows(all_finished, failed, choice),
        "verdict": verdict_of(candidate.made, candidate.backend, candidate.target),
        "companions": [
            {
                "precision": c.artifact.precision,
                "bytes": c.artifact.bytes,
                "sha256": c.artifact.sha256,
                "accuracy": c.scores["accuracy"],
                "agreement": c.scores["agreement"],
                "sqnr_db": c.sqnr_db,
            }
            for c in candidate.companions
        ],
    }


def _folder_name(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name).strip(".") or "model"


def _environment(tools: Mapping[str, str]) -> dict[str, Any]:
    import os

    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "argv0": Path(sys.argv[0]).name,
        "tools": dict(tools),
        "edgekit_source": source_digest()[:16],
    }
