"""The search for pruning ratios that meet a latency, a speed-up or a size, before anything else is built."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.backends import get_backend
from edgekit.backends.onnx_export import tool_versions
from edgekit.build.costs import Costs
from edgekit.build.inputs import Inputs, samples_of
from edgekit.build.runner import Runner
from edgekit.devices.base import Link
from edgekit.errors import EdgekitError, StepFailed
from edgekit.tune.target import GroupCurve, Met, Width, meet, path_of
from edgekit.types import Artifact, Event, Plan, PlanStep, Scheme, ignore_events

if TYPE_CHECKING:
    import torch

    from edgekit.types import Array

_RATIOS = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875)
_WORST = -1e30
"""The metric of a model whose outputs are not finite: the worst that JSON can hold."""
_CALIBRATION = 10
"""Calibration samples of trial files: their ranges do not change what they cost."""


@dataclass(frozen=True, kw_only=True)
class Targeted:
    """The ratios that were found, the report's "target_search" section, and what to warn about."""

    report: Mapping[str, Any]
    warnings: tuple[str, ...] = ()

    def applied(self, plan: Plan) -> Plan:
        """The plan with these ratios; without pruning where nothing has to be narrowed, and then without the
        training that belongs to it alone."""
        ratios = self.report["ratios"]
        steps = [_with(s, ratios) if s.name == "prune" else s for s in plan.steps]
        if not ratios:
            needless = {"shrink", "prune"}
            if plan.step("lowrank") is None and plan.step("sparsify") is None:
                needless.add("finetune")
            steps = [s for s in steps if s.name not in needless]
        return replace(plan, steps=tuple(steps), warnings=(*plan.warnings, *self.warnings))


def search_target(
    inputs: Inputs,
    runner: Runner,
    plans: Sequence[tuple[Plan, Link | None]],
    deadline: float | None = None,
) -> Targeted | None:
    """Find the ratios that the "target" step of the plans asks for; None where they have none.

    Of several targets the one decides whose file of the whole model costs least: it is narrowed least. After
    ``deadline`` (on the clock of ``time.monotonic``) no further model is tried; sensitivities and the two
    ends of the path are measured in any case.

    Raises StepFailed where the cost cannot be had: the plan wants instructions and there is no emulator.
    """
    if plans[0][0].step("target") is None:
        return None
    search, warnings = _cheapest(inputs, runner, plans)
    met = search.run(deadline)
    ratios = dict(met.ratios)
    text = met.reason if met.reached else f"{met.reason}: the target cannot be met by pruning alone"
    if met.reached:
        runner.emit(Event(kind="info", step=runner.shown("target"), message=text))
    else:
        warnings.append(f"{text}; the narrowest is built as a candidate")
    if not ratios and search.plan.step("finetune") is not None and inputs.teacher is not None:
        trained = Targeted(report={"ratios": {}}).applied(search.plan)
        if trained.step("finetune") is None and trained.step("qat") is None:
            warnings.append(
                "the target is met without narrowing anything: nothing is trained, and the teacher is not "
                "used"
            )
    found = {
        "target": search.plan.target,
        "basis": search.basis,
        "limit": search.limit,
        "unit": search.unit,
        "baseline": search.baseline,
        "reached": met.reached,
        "cost": met.cost,
        "reason": text,
        "tried": [{"groups": len(t.ratios), "cost": t.cost} for t in met.tried],
        "ratios": ratios,
    }
    return Targeted(report=found, warnings=tuple(warnings))


def _searching(inputs: Inputs, runner: Runner, plan: Plan, link: Link | None) -> _Search:
    step = plan.step("target")
    assert step is not None, "all plans of a build share the steps that change the model"
    return _Search(inputs, runner, plan, step, link)


def _cheapest(
    inputs: Inputs, runner: Runner, plans: Sequence[tuple[Plan, Link | None]]
) -> tuple[_Search, list[str]]:
    """The search of the target whose file of the whole model costs least; those without a cost are out."""
    if len(plans) == 1:
        return _searching(inputs, runner, *plans[0]), []
    costs: list[tuple[float, int, _Search]] = []
    warnings: list[str] = []
    for i, (plan, link) in enumerate(plans):
        try:
            search = _searching(inputs, runner, plan, link)
            costs.append((search.whole(), i, search))
        except EdgekitError as exc:
            warnings.append(f"the latency or speed-up is not searched for on {plan.target}: {exc}")
    if not costs:
        raise StepFailed(
            "the latency or speed-up that was asked for can be told for no target: " + "; ".join(warnings),
            hint="see `edgekit doctor`, or build one target alone with --target",
        )
    chosen = min(costs)[2]
    warnings.append(
        f"the latency or speed-up is searched for on {chosen.plan.target}, whose file of the whole model "
        "costs least; the other targets get the same network, and their gates say whether they meet it"
    )
    return chosen, warnings


def _with(step: PlanStep, ratios: Mapping[str, float]) -> PlanStep:
    return replace(step, config={**step.config, "ratio": 0.0, "ratios": dict(ratios)})


class _Search:
    def __init__(self, inputs: Inputs, runner: Runner, plan: Plan, step: PlanStep, link: Link | None) -> None:
        self._inputs, self._runner, self.plan, self._config = inputs, runner, plan, step.config
        self._backend = get_backend(plan.backend)
        self.basis = str(step.config["basis"])
        self._link = link
        self._target = next(t for t in inputs.profile.targets if f"{t.runtime}/{t.delegate}" == plan.target)
        if self.basis in ("device", "instructions") and link is None:
            raise StepFailed(
                f"the target is to be met by {self.basis}, and nothing can be measured",
                hint="see `edgekit doctor`",
            )
        self.unit = {"instructions": "instructions", "size": "bytes"}.get(self.basis, "ms")
        module = inputs.model.module
        assert module is not None, "planned for trainable models only"
        self._module = module
        prune = plan.step("prune")
        config = {} if prune is None else prune.config
        self._how = {k: config[k] for k in ("ignore", "protect", "importance") if k in config}
        self.baseline = 0.0
        self.limit = 0.0

    def whole(self) -> float:
        """Cost of the file of the whole model, as planned."""
        return self._cost("target: trial of 0 groups", {}, self._scheme)[0]

    @property
    def _scheme(self) -> Scheme:
        return replace(self.plan.scheme, calibration="minmax")

    def run(self, deadline: float | None) -> Met:
        if self._config["latency_ms"] is not None:
            self.limit = float(self._config["latency_ms"])
        if self._config["speedup"] is not None:
            self.baseline = self._cost("target: original", {}, Scheme(delegate=self.plan.delegate))[0]
            asked = self.baseline / float(self._config["speedup"])
            self.limit = min(self.limit or asked, asked)
        most: int | None = self._config["max_size_bytes"]
        if self.basis == "size":
            assert most is not None
            self.limit = float(most)

        @functools.cache
        def cost_of(groups: tuple[tuple[str, float], ...]) -> float:
            found, size = self._cost(f"target: trial of {len(groups)} groups", dict(groups), self._scheme)
            message = f"{len(groups)} groups narrowed: {found:,.4g} {self.unit} (limit {self.limit:,.4g})"
            if most is not None and size > most:
                message += f", {size - most:,} bytes too large"
                found = max(found, self.limit * size / most)  # as far above this limit as above that one
            self._runner.emit(Event(kind="info", step=self._runner.shown("target"), message=message))
            return found

        # Sensitivities take time: not where nothing has to be narrowed.
        path = [{}] if cost_of(()) <= self.limit else path_of(self._curves())
        return meet(
            path,
            lambda ratios: cost_of(tuple(ratios.items())),
            self.limit,
            evaluations=int(self._config["evaluations"]),
            stop=lambda: deadline is not None and time.monotonic() >= deadline,
        )

    def _curves(self) -> list[GroupCurve]:
        """Sensitivity of every group, from the cache where it is known."""
        runner, model = self._runner, self._inputs.model
        train = self._inputs.datas["train"]
        count = int(self._config["samples"])

        def work() -> dict[str, Any]:
            from edgekit.compress.sensitivity import sensitivity

            rows = np.linspace(0, len(train) - 1, min(count, len(train))).astype(int)
            inputs = [x[rows] for x in train.inputs]
            labels = (
                None if train.labels is None or model.spec.task != "classification" else train.labels[rows]
            )
            found = sensitivity(
                self._module,
                model.example_inputs,
                _evaluator(self._module, inputs, labels),
                _RATIOS,
                round_to=int(self._config["round_to"]),
                task=model.spec.task,
                seed=runner.seed,
                emit=runner.emit,
                probe=train,
                **self._how,
            )
            curves = [
                {
                    "name": c.root,
                    "metric": c.whole,
                    "points": [[p.ratio, p.channels, p.metric, p.macs, p.params] for p in c.points],
                }
                for c in found
            ]
            return {"objects": [], "curves": curves}

        key = {
            "model": model.spec.sha256,
            "task": model.spec.task,
            "train": train.sha256,
            "samples": count,
            "how": self._how,
            "round_to": self._config["round_to"],
            "ratios": _RATIOS,
            "tools": tool_versions("torch", "torch-pruning"),
        }
        result = runner.run("sensitivity", key, work)
        # What narrowing is to save orders the steps: weights for a file's size, else arithmetic.
        whole, column = (model.spec.macs or 0, 3) if self.basis != "size" else (model.spec.params or 0, 4)
        return [
            GroupCurve(
                name=c["name"],
                metric=c["metric"],
                size=whole,
                widths=tuple(
                    Width(ratio=p[0], metric=p[2], size=whole if p[column] is None else p[column])
                    for p in c["points"]
                ),
            )
            for c in result["curves"]
        ]

    def _cost(self, name: str, ratios: Mapping[str, float], scheme: Scheme) -> tuple[float, int]:
        """What a file costs, and its bytes; latencies on a device are measured anew each time."""

        def work() -> dict[str, Any]:
            file = self._file(ratios, scheme)
            return {"objects": [], "cost": self._measured(file), "bytes": file.bytes}

        if self.basis == "device":
            made = work()
            return float(made["cost"]), int(made["bytes"])
        calib = self._inputs.datas.get("calib")
        key = {
            "model": self._inputs.model.spec.sha256,
            "task": self._inputs.model.spec.task,
            "train": self._inputs.datas["train"].sha256,
            "ratios": ratios,
            "how": self._how,
            "scheme": scheme,
            "keep_nchw": self.plan.scheme.keep_nchw,
            "basis": self.basis,
            "profile": self._inputs.profile.slice("cores", "caches", "memory", "emulator", "estimate"),
            "calib": None if calib is None else calib.sha256,
            "round_to": self._config["round_to"],
            "tools": {**self._backend.tools(), **tool_versions("torch-pruning")},
        }
        found = self._runner.run("target cost", key, work, label=name)
        return float(found["cost"]), int(found["bytes"])

    def _file(self, ratios: Mapping[str, float], scheme: Scheme) -> Artifact:
        runner, model = self._runner, self._inputs.model
        samples = self._inputs.calibration()[:_CALIBRATION] or samples_of(
            tuple(x[:_CALIBRATION] for x in self._inputs.verification(seed=runner.seed)[0])
        )
        exported = self._backend.export(
            self._pruned(ratios),
            model.spec,
            samples[:2],
            store=runner.store,
            scheme=Scheme(
                delegate=scheme.delegate,
                delegate_version=scheme.delegate_version,
                keep_nchw=self.plan.scheme.keep_nchw,
            ),
            emit=ignore_events,
        )
        if scheme.precision == "float32":
            return exported
        return self._backend.quantize(
            exported, samples, scheme, refit=False, store=runner.store, emit=ignore_events
        )

    def _pruned(self, ratios: Mapping[str, float]) -> torch.nn.Module:
        if not ratios:
            return self._module
        from edgekit.compress.prune import prune

        return prune(
            self._module,
            self._inputs.model.example_inputs,
            ratio=0.0,
            ratios=ratios,
            round_to=int(self._config["round_to"]),
            probe=self._inputs.datas["train"],
            task=self._inputs.model.spec.task,
            seed=self._runner.seed,
            **self._how,
        ).module

    def _measured(self, file: Artifact) -> float:
        if self.basis == "size":
            return float(file.bytes)
        profile, runner = self._inputs.profile, self._runner
        first = [x[:1] for x in self._inputs.verification(seed=runner.seed)[0]]
        costs = Costs(self._backend, runner, profile, self._target, self._link, first)
        if self.basis != "estimate":
            return costs.measured(file)
        found = costs.estimate(file)
        if found is None:
            raise StepFailed(
                f"the coefficients of {profile.id} do not describe {self.plan.target}",
                hint="choose a target on the CPU, or measure on the device (--device)",
            )
        return found.ms


def _evaluator(
    original: torch.nn.Module, inputs: Sequence[Array], labels: Array | None
) -> Callable[[torch.nn.Module], float]:
    """A metric that moves with every value: minus the cross-entropy where there are labels, else minus the
    share of noise in the outputs. Top-1 of a few hundred samples would move in steps."""
    from edgekit.verify.reference import run_module

    want = run_module(original, inputs)
    power = sum(float((w.astype(np.float64) ** 2).sum()) for w in want)

    def metric(module: torch.nn.Module) -> float:
        got = run_module(module, inputs)
        if labels is not None:
            logits = got[0].astype(np.float64)
            shifted = logits - logits.max(axis=1, keepdims=True)
            logs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
            return float(logs[np.arange(len(labels)), labels].mean())
        noise = sum(float(((w.astype(np.float64) - g) ** 2).sum()) for w, g in zip(want, got, strict=True))
        return -noise / max(power, 1e-30)

    def finite(module: torch.nn.Module) -> float:
        value = metric(module)
        return value if np.isfinite(value) else _WORST

    return finite
