"""Running a plan: inputs, steps, gates, bundle and report."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import edgekit
from edgekit.backends import get_backend
from edgekit.build.compression import Compressed
from edgekit.build.inputs import Inputs, Sources, load_inputs
from edgekit.build.lowering import Lowering, check_finite
from edgekit.build.measuring import measure, open_for_build
from edgekit.build.output import check_writable, staged
from edgekit.build.reporting import Made, assemble
from edgekit.build.runner import Runner, source_digest
from edgekit.errors import StepFailed
from edgekit.plan import Request, make_plan
from edgekit.store import Store, digest_json, write_atomic
from edgekit.types import Artifact, Emit, Event, Gate, Measurement, Plan, ignore_events, to_json

if TYPE_CHECKING:
    from edgekit.bundle.golden import GoldenSample
    from edgekit.types import Array

_GOLDEN = 3

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
    sources: Sources, profile: str, request: Request, *, seed: int = 0, emit: Emit = ignore_events
) -> tuple[Inputs, Plan]:
    """Load everything and plan; runs no step."""
    inputs = load_inputs(sources, profile, request, seed=seed, emit=emit)
    return inputs, make_plan(inputs.profile, inputs.model.spec, inputs.facts(), request)


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

    Broken gates do not raise: the bundle is kept as a candidate and ``status`` is "gate_failed".
    Raises the errors of :mod:`edgekit.errors` for everything else that goes wrong.
    """
    listener = _Listener(emit)
    store = store or Store()
    store.sweep()
    inputs, plan = plan_build(sources, profile, request, seed=seed, emit=listener)
    runner = Runner(store, listener, seed)
    backend = get_backend(plan.backend)
    target = next(t for t in inputs.profile.targets if f"{t.runtime}/{t.delegate}" == plan.target)
    folder = out / _folder_name(inputs.model.spec.name) / inputs.profile.id
    check_writable(folder)
    warnings = [*plan.warnings, *inputs.warnings]
    for text in warnings:
        listener(Event(kind="warning", step="plan", message=text))
    link = None
    step = plan.step("measure")
    if step is not None:
        link, missing = open_for_build(
            str(step.config["device"]), request.device is not None, inputs.profile, backend, runner
        )
        warnings += missing

    compressed = Compressed(inputs, runner, plan)
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
    final, quantized = lowering.quantize(float_file)
    verified = lowering.verify(float_file, final, target)
    outputs, float_outputs = (runner.get_arrays(verified[k]) for k in ("outputs", "float_outputs"))
    lowering.check_parity_on_all(changed, float_outputs)

    measurements: list[Measurement] = []
    equal: Mapping[str, Any] = {}
    if link is not None:
        first = [x[:1] for x in lowering.samples]
        files = {"baseline": baseline_file, "final": final}
        measurements, equal = measure(runner, backend, link, inputs.profile, files, first)
        if final.precision == "int8" and not equal["final"]["identical"]:
            raise StepFailed(
                f"the int8 file computes other values on {link.name} than on this host "
                f"(largest difference {equal['final']['max_abs']:g})",
                hint="report this with the bundle: int8 kernels must agree bit for bit",
            )

    scores = lowering.scores(original, outputs)
    made = Made(
        inputs=inputs,
        plan=plan,
        compressed=compressed,
        baseline=baseline_file,
        float_file=float_file,
        final=final,
        parity=parity,
        original=original,
        changed=changed,
        float_outputs=float_outputs,
        outputs=outputs,
        verified=verified,
        calibration=quantized.get("calibration"),
        samples_from=lowering.samples_from,
        scores=scores,
        measurements=measurements,
        equal=equal,
    )
    gates = tuple(replace(g, measured=made.gate_value(g.name)) for g in plan.gates)
    failed = tuple(g for g in gates if g.passed is not True)
    warnings += list(verified["complaints"]) + _dead_channel_warning(quantized)
    warnings += _more_instructions(measurements)
    report = assemble(made, gates=gates, status="gate_failed" if failed else "ok", warnings=warnings)
    report |= {
        "seed": seed,
        "command": list(command),
        "created_at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "stages": made.stages(runner.outcomes),
        "environment": _environment(backend.tools()),
    }
    golden = _golden(runner, lowering, final, verified)
    with staged(folder) as stage:
        _write(stage, report, made, target, lowering, golden, listener)
    status = "gate_failed" if failed else "ok"
    listener(Event(kind="info", step="report", message=str(folder / "report.html")))
    return Built(folder=folder, report=report, status=status, failed_gates=failed)


def _write(
    folder: Path,
    report: dict[str, Any],
    made: Made,
    target: Any,
    lowering: Lowering,
    golden: Sequence[GoldenSample],
    listener: _Listener,
) -> None:
    """Bundle, report and events into ``folder``."""
    from edgekit.bundle.golden import Tolerance
    from edgekit.bundle.write import RuntimeTarget, write_bundle
    from edgekit.report.render import write_report

    exact = made.final.precision == "int8"
    scale = max(float(np.abs(o).max(initial=0.0)) for o in made.outputs)
    tolerance = Tolerance() if exact else Tolerance(atol=1e-4 * scale, rtol=1e-3)
    if made.final.precision == "dynamic":
        tolerance = Tolerance(atol=0.1 * scale, rtol=0.1)
    ranges = [(float(x.min()), float(x.max())) for x in lowering.samples]
    spec = made.inputs.model.spec
    path = write_bundle(
        folder,
        artifact=made.final,
        spec=spec,
        profile=made.inputs.profile.id,
        runtime=RuntimeTarget(
            name=target.runtime,
            min_version=target.min_version,
            delegates=(target.delegate,),
            threads=made.inputs.profile.constraints.threads,
        ),
        golden=golden,
        tolerance=tolerance,
        provenance={
            "edgekit_version": edgekit.__version__,
            "source_sha256": spec.sha256,
            "plan_digest": digest_json(to_json(made.plan)),
        },
        licences={},
        input_ranges=ranges,
    )
    report["bundle"] = _bundle_listing(path)
    report.update(write_report(report, folder))
    write_atomic(folder / "events.jsonl", "\n".join(listener.lines) + "\n")


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


def _bundle_listing(path: Path) -> dict[str, Any]:
    from edgekit.store import digest_file

    files = sorted(p for p in path.rglob("*") if p.is_file())
    return {
        "path": path.name,
        "files": [
            {"path": str(p.relative_to(path)), "bytes": p.stat().st_size, "sha256": digest_file(p)}
            for p in files
        ],
    }


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
