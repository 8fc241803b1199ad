"""One target of a build: from the compressed module to a verified and measured file."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from edgekit.backends import Backend, get_backend
from edgekit.build.compression import Compressed
from edgekit.build.costs import Costs, GateCosts
from edgekit.build.equality import tolerance_of
from edgekit.build.explaining import counts_by_operator, explain
from edgekit.build.forms import equalized_source
from edgekit.build.inputs import Inputs
from edgekit.build.keeping import check_kept
from edgekit.build.lowering import Lowering, check_finite
from edgekit.build.measuring import measure
from edgekit.build.precisions import compare_precisions
from edgekit.build.reporting import Made
from edgekit.build.runner import Runner
from edgekit.build.search import BudgetSearch, search_rows
from edgekit.build.trained import Trained, train_for_search
from edgekit.devices.base import Link
from edgekit.errors import EdgekitError, StepFailed
from edgekit.plan.gates import gates_for
from edgekit.tune import Trial
from edgekit.types import Artifact, Event, Gate, Measurement, Plan, Scheme

if TYPE_CHECKING:
    from edgekit.bundle.golden import GoldenSample
    from edgekit.profiles.schema import Target
    from edgekit.types import Array

_GOLDEN = 3


@dataclass(frozen=True, kw_only=True)
class Companion:
    """A further file of the same bundle and what was measured of it."""

    artifact: Artifact
    scores: Mapping[str, Any]
    sqnr_db: float | None
    golden_outputs: tuple[tuple[Array, ...], ...]
    """For each golden sample of the bundle, what this file gives."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A finished target: all that its bundle and its report are written from."""

    plan: Plan
    target: Target
    backend: Backend
    lowering: Lowering
    made: Made
    gates: tuple[Gate, ...]
    companions: tuple[Companion, ...]
    golden: tuple[GoldenSample, ...]
    warnings: tuple[str, ...]

    @property
    def failed_gates(self) -> tuple[Gate, ...]:
        """Gates that did not hold, or could not be measured."""
        return tuple(g for g in self.gates if g.passed is not True)

    @property
    def status(self) -> str:
        return "gate_failed" if self.failed_gates else "ok"


def lower(
    inputs: Inputs,
    runner: Runner,
    plan: Plan,
    compressed: Compressed,
    link: Link | None,
    deadline: float | None = None,
    target_search: Mapping[str, Any] | None = None,
) -> Candidate:
    """Convert, quantise, verify and measure for one plan. ``link`` None measures nothing.

    ``deadline``: when a search that the plan allows has to end, on the clock of ``time.monotonic``;
    ``target_search``: what the search for a latency found, for the report.
    """
    backend = get_backend(plan.backend)
    target = next(t for t in inputs.profile.targets if f"{t.runtime}/{t.delegate}" == plan.target)
    lowering = Lowering(inputs, runner, plan, backend)
    spec = inputs.model.spec

    def original_source() -> Any:
        return inputs.model.onnx_path if inputs.model.module is None else inputs.model.module

    def final_source() -> Any:
        return compressed.module() if compressed.changed else original_source()

    original = lowering.source_outputs("baseline", original_source, spec.sha256)
    check_finite(
        original,
        "the original model",
        hint="check the sample and the weights; edgekit cannot compare with such outputs",
    )
    baseline_file, baseline_parity = lowering.convert("convert", original_source, spec.sha256, original)
    changed, float_file, parity = original, baseline_file, baseline_parity
    if compressed.changed:
        changed = lowering.source_outputs("compressed outputs", final_source, compressed.sha256)
        float_file, parity = lowering.convert("convert compressed", final_source, compressed.sha256, changed)

    def equalized() -> Artifact:
        made = equalized_source(inputs, runner, compressed)
        return lowering.convert("convert equalized", made.module, made.sha256, changed)[0]

    step = plan.step("quantize")
    form = "original" if step is None else str(step.config.get("form", "original"))
    plain = float_file
    if form == "equalized":
        float_file = equalized()
    check_kept(plan.scheme, [u.name for u in backend.units(float_file)], plan.target)
    found = _in_scheme(lowering, float_file, compressed.scheme(plan.scheme), target)
    lowering.check_parity_on_all(changed, found.float_outputs)
    # Trained ranges belong to the channels that training has seen.
    may_equalize = (inputs.model.module is not None or compressed.changed) and compressed.qat is None
    forms: dict[str, Callable[[], Artifact]] = {"original": lambda: plain}
    if may_equalize:
        forms["equalized"] = equalized
    planned = found
    costs = Costs(backend, runner, inputs.profile, target, link, [x[:1] for x in lowering.samples])
    step = plan.step("search")
    hopeless: str | None = None
    if step is not None:
        search = BudgetSearch(
            lowering,
            step,
            plan.gates,
            original,
            target,
            forms,
            functools.partial(train_for_search, lowering, compressed),
            costs,
            GateCosts(costs, baseline_file, link),
        )
        found, hopeless = _searched(search, found, deadline, form)
    shipped = compressed
    if found.trained is not None:
        shipped, parity = found.trained.compressed, found.trained.parity
        changed = list(found.trained.outputs)
        lowering.check_parity_on_all(changed, found.float_outputs)
    final, verified, outputs = found.file, found.verified, found.outputs
    companions, warnings = _companions(lowering, found.float_file, plan.companions, original)

    measurements: list[Measurement] = []
    equal: Mapping[str, Any] = {}
    if link is not None:
        first = [x[:1] for x in lowering.samples]
        files = {"baseline": baseline_file, "final": final}
        unchanged = found.float_file.sha256 == baseline_file.sha256 and final.precision != "float32"
        measurements, equal = measure(
            runner,
            backend,
            link,
            inputs.profile,
            files,
            first,
            by_operator=list(files) if unchanged else ["final"],
        )
        _check_equal(equal, files, link, backend)
    explained: Mapping[str, Any] | None = None
    if link is not None and final.precision != "float32":
        same = {"float32": found.float_file, "final": final}
        explained = explain(
            runner,
            backend,
            link,
            inputs.profile,
            same,
            first,
            delegate=plan.delegate,
            measured=counts_by_operator(measurements, files),
        )
    made = Made(
        inputs=inputs,
        plan=plan,
        compressed=shipped,
        baseline=baseline_file,
        float_file=found.float_file,
        final=final,
        parity=parity,
        original=original,
        changed=changed,
        float_outputs=found.float_outputs,
        outputs=outputs,
        verified=verified,
        calibration=found.meta.get("calibration"),
        samples_from=lowering.samples_from,
        scores=lowering.scores(original, outputs),
        measurements=measurements,
        equal=equal,
        scheme=found.scheme,
        final_stage=found.stage,
        search=found.search,
        estimates=_estimates(costs, {"baseline": baseline_file, "final": final}),
        target=target_search,
        by_operator=explained,
    )
    as_planned = (planned.file, planned.outputs)
    made = replace(made, precisions=compare_precisions(made, as_planned, lowering, target, costs))
    gates = gates_for(plan.gates, found.scheme, verified["units"])
    return Candidate(
        plan=plan,
        target=target,
        backend=backend,
        lowering=lowering,
        made=made,
        gates=tuple(replace(g, measured=made.gate_value(g.name)) for g in gates),
        companions=companions,
        golden=tuple(_golden(runner, lowering, final, verified)),
        warnings=(
            *warnings,
            *([] if hopeless is None else [hopeless]),
            *verified["complaints"],
            *_dead_channel_warning(found.meta),
            *_more_instructions(measurements),
        ),
    )


@dataclass(frozen=True, kw_only=True)
class _Found:
    """A file of one scheme and what verification says of it."""

    float_file: Artifact
    file: Artifact
    scheme: Scheme
    meta: Mapping[str, Any]
    verified: Mapping[str, Any]
    outputs: Sequence[Array]
    float_outputs: Sequence[Array]
    stage: str
    search: Mapping[str, Any] | None = None
    trained: Trained | None = None
    """What the search trained, where its file was taken."""


def _in_scheme(
    lowering: Lowering, float_file: Artifact, scheme: Scheme, target: Target, suffix: str = ""
) -> _Found:
    stage = f"quantize{suffix}"
    file, meta = lowering.quantize(float_file, scheme, stage)
    verified = lowering.verify(float_file, file, target, scheme, f"verify{suffix}")
    return _Found(
        float_file=float_file,
        file=file,
        scheme=scheme,
        meta=meta,
        verified=verified,
        outputs=lowering.runner.get_arrays(verified["outputs"]),
        float_outputs=lowering.runner.get_arrays(verified["float_outputs"]),
        stage=stage,
    )


def _searched(
    search: BudgetSearch, found: _Found, deadline: float | None, form: str
) -> tuple[_Found, str | None]:
    """The planned file, which was made of ``form``, or what the search found where that one breaks a gate;
    and why there was no search where none could help."""
    planned = Trial(rung="int8", scheme=found.scheme, form=form, note="as planned")
    start = search.point(planned, found.file, found.outputs)
    if start.passed:
        return found, None
    hopeless = search.hopeless(start)
    if hopeless is not None:
        return found, hopeless
    began = time.monotonic()
    outcome = search.run(start, deadline)
    rows = search_rows(outcome, search.gates, time.monotonic() - began)
    chosen = outcome.chosen.trial
    if outcome.chosen is not start:
        float_file = search.float_file(chosen.form)
        found = _in_scheme(search.lowering, float_file, chosen.scheme, search.target, " chosen")
    return replace(found, search=rows, trained=search.trained if chosen.rung == "qat" else None), None


def _companions(
    lowering: Lowering, float_file: Artifact, schemes: Sequence[Scheme], original: Sequence[Array]
) -> tuple[tuple[Companion, ...], list[str]]:
    """The further files of the bundle; one that cannot be made is a warning."""
    from edgekit.build.scores import worst_sqnr

    made: list[Companion] = []
    warnings: list[str] = []
    for scheme in schemes:
        try:
            artifact, outputs = lowering.companion(float_file, scheme, scheme.precision)
        except EdgekitError as exc:
            warnings.append(f"the {scheme.precision} file was left out of the bundle: {exc}")
            continue
        known = lowering.samples_from != "random"
        made.append(
            Companion(
                artifact=artifact,
                scores=lowering.scores(original, outputs),
                sqnr_db=worst_sqnr(original, outputs) if known else None,
                golden_outputs=_golden_outputs(lowering, artifact),
            )
        )
    for text in warnings:
        lowering.runner.emit(Event(kind="warning", step="verify", message=text))
    return tuple(made), warnings


def _golden_outputs(lowering: Lowering, artifact: Artifact) -> tuple[tuple[Array, ...], ...]:
    session = lowering.backend.session(artifact)
    return tuple(
        tuple(session.run_raw(session.encode([x[i : i + 1] for x in lowering.samples])))
        for i in range(min(_GOLDEN, len(lowering.samples[0])))
    )


def _estimates(costs: Costs, files: Mapping[str, Artifact]) -> dict[str, float]:
    """Milliseconds by file that the profile's coefficients predict; none where it has none."""
    found = {subject: costs.estimate(file) for subject, file in files.items()}
    return {subject: estimate.ms for subject, estimate in found.items() if estimate is not None}


def _check_equal(
    equal: Mapping[str, Any], files: Mapping[str, Artifact], link: Link, backend: Backend
) -> None:
    """Raise StepFailed when a file computes other values there than here, beyond what the backend allows."""
    for subject, found in equal.items():
        if found["within"]:
            continue
        precision = files[subject].precision
        share, relative = tolerance_of(backend, files[subject])
        allowed = "bit for bit" if share == relative == 0 else f"within {share:g} of the largest value"
        raise StepFailed(
            f"the {precision} file computes other values on {link.name} than on this host "
            f"(largest difference {found['max_abs']:g})",
            hint=f"report this with the bundle: {backend.name} files of that precision must agree {allowed}",
        )


def _golden(
    runner: Runner, lowering: Lowering, final: Artifact, verified: Mapping[str, Any]
) -> list[GoldenSample]:
    """The first inputs of verification and what the host computes for them."""
    from edgekit.bundle.golden import GoldenSample

    def work() -> dict[str, Any]:
        session = lowering.backend.session(final)
        arrays: list[Array] = []
        for i in range(min(_GOLDEN, len(lowering.samples[0]))):
            encoded = session.encode([x[i : i + 1] for x in lowering.samples])
            arrays += [*encoded, *session.run_raw(encoded)]
        sha = runner.put_arrays(arrays)
        return {"objects": [sha], "arrays": sha}

    key = {"final": final.sha256, "outputs": verified["outputs"], "n": _GOLDEN}
    arrays = runner.get_arrays(str(runner.run("golden samples", key, work)["arrays"]))
    n_in = len(final.inputs)
    width = n_in + len(final.outputs)
    return [
        GoldenSample(inputs=tuple(arrays[i : i + n_in]), outputs=tuple(arrays[i + n_in : i + width]))
        for i in range(0, len(arrays), width)
    ]


def _dead_channel_warning(meta: Mapping[str, Any]) -> list[str]:
    dead = meta.get("dead_channels") or []
    count = sum(len(d["channels"]) for d in dead)
    if not count:
        return []
    return [
        f"{count} output channels in {len(dead)} layers have zero weights and a bias that int32 could "
        "not hold; one weight of each was set to a value too small to matter"
    ]


def _more_instructions(measurements: Sequence[Measurement]) -> list[str]:
    """Say so when the built file needs more instructions than the float one that it replaces."""
    counts = {m.subject: m.median for m in measurements if m.metric == "instructions"}
    before, after = counts.get("baseline"), counts.get("final")
    if before is None or after is None or after <= before:
        return []
    return [
        f"the built file needs {after / before:.2f} times the instructions of the float32 file: on this "
        "device it is smaller, but may not be faster; compare with --set quantize.precision=fp16 or float32"
    ]
