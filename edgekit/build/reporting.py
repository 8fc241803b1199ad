"""From the results of the steps to the report's JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import edgekit
from edgekit.build.compression import Compressed
from edgekit.build.inputs import Inputs
from edgekit.build.runner import Outcome
from edgekit.build.scores import worst_sqnr
from edgekit.measure.estimate import estimate_latency, significant
from edgekit.store import digest_json
from edgekit.types import Artifact, Gate, Measurement, Plan, Scheme, to_json
from edgekit.verify.numerics import Closeness, closeness

if TYPE_CHECKING:
    from edgekit.types import Array

SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Made:
    """Everything that the steps of one build produced."""

    inputs: Inputs
    plan: Plan
    compressed: Compressed
    baseline: Artifact
    float_file: Artifact
    final: Artifact
    parity: Mapping[str, Any]
    original: Sequence[Array]
    changed: Sequence[Array]
    float_outputs: Sequence[Array]
    outputs: Sequence[Array]
    verified: Mapping[str, Any]
    calibration: Mapping[str, Any] | None
    samples_from: str
    scores: Mapping[str, Any]
    measurements: Sequence[Measurement]
    equal: Mapping[str, Any]
    scheme: Scheme
    """What the final file was made by: the plan's, or what the search chose instead."""
    final_stage: str = "quantize"
    search: Mapping[str, Any] | None = None
    estimates: Mapping[str, float] = field(default_factory=dict)
    """Estimated milliseconds of "baseline" and "final", where the profile has coefficients."""
    target: Mapping[str, Any] | None = None
    """What the search for a latency or a speed-up found."""
    precisions: Mapping[str, Any] | None = None
    """int8, fp16 and float32 side by side."""
    by_operator: Mapping[str, Any] | None = None
    """See :func:`edgekit.build.explaining.explain`; None where nothing was run on the device."""

    def gate_value(self, name: str) -> float | None:
        """What was measured for a gate; None when it was not."""
        accuracy, agreement = self.scores["accuracy"], self.scores["agreement"]
        if name == "accuracy_drop":
            return float(accuracy["drop"]) if accuracy else None
        if name == "agreement":
            return float(agreement["top1"]) if agreement else None
        if name == "output_sqnr":
            if self.samples_from == "random":
                return None
            return worst_sqnr(self.original, self.outputs)
        if name in ("latency", "speedup"):
            return self._cost_value(name)
        if name == "int8_share":
            return float(self.verified["facts"]["int8_share"])
        if name == "file_size":
            return float(self.final.bytes)
        raise KeyError(name)

    def _cost_value(self, name: str) -> float | None:
        """Latency in ms, or how many times cheaper than the float32 original, on the best basis there is."""
        found = {(m.metric, m.subject): m.median for m in self.measurements if m.median is not None}
        after = found.get(("latency", "final"))
        if name == "latency":
            return after if after is not None else self.estimates.get("final")
        for metric in ("latency", "instructions"):
            before, after = found.get((metric, "baseline")), found.get((metric, "final"))
            if before is not None and after is not None:
                return before / after
        before, after = self.estimates.get("baseline"), self.estimates.get("final")
        return before / after if before is not None and after is not None else None

    def stages(self, outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
        """One row per step that ran, with the file that it made."""
        made = {o.name: o.result["artifact"] for o in outcomes if o.name.split()[0] == "convert"}
        made[self.final_stage] = to_json(self.final)
        return [
            {
                "name": o.name,
                "seconds": round(o.seconds, 3),
                "peak_rss_bytes": o.peak_rss_bytes,
                "cached": o.cached,
                "artifact": _file(made[o.name]) if o.name in made else None,
            }
            for o in outcomes
        ]


def assemble(made: Made, *, gates: Sequence[Gate], status: str, warnings: Sequence[str]) -> dict[str, Any]:
    """report.json without what the caller knows: seed, command, date, stages, environment, bundle."""
    spec, plan = made.inputs.model.spec, made.plan
    facts = made.verified["facts"]
    return {
        "schema_version": SCHEMA_VERSION,
        "edgekit_version": edgekit.__version__,
        "digest": "0" * 64,
        "status": status,
        "profile": plan.profile,
        "profile_title": made.inputs.profile.title,
        "target": plan.target.partition("/")[0],
        "model": {
            "name": spec.name,
            "source": spec.source,
            "sha256": spec.sha256,
            "params": spec.params,
            "macs": spec.macs,
            "task": spec.task,
            "trainable": spec.trainable,
            "inputs": to_json(spec.inputs),
            "outputs": to_json(spec.outputs),
        },
        "data": {role: _dataset(made.inputs, role) for role in ("calib", "eval", "train")},
        "plan": {**to_json(plan), "digest": digest_json(to_json(plan)), "reason": None},
        "accuracy": made.scores["accuracy"],
        "agreement": made.scores["agreement"],
        "numerics": _numerics(made),
        "size": {
            "baseline_bytes": made.baseline.bytes,
            "final_bytes": made.final.bytes,
            "ratio": made.baseline.bytes / made.final.bytes,
        },
        "macs": {"baseline": spec.macs, "final": made.compressed.macs},
        "params": {"baseline": spec.params, "final": made.compressed.params},
        "units": [_unit(u) for u in made.verified["units"]],
        "coverage": {
            "delegate": plan.delegate,
            "ops": int(facts["ops"]),
            "accelerated": sum(bool(c["accelerated"]) for c in made.verified["coverage"]),
            "int8_ops": sum(u["precision"] == "int8" for u in made.verified["units"]),
            "int8_share": facts["int8_share"],
            "transposes": int(facts["transposes"]),
            "not_accelerated": [
                {"index": c["index"], "op": c["op"], "reason": c["reason"]}
                for c in made.verified["coverage"]
                if not c["accelerated"]
            ],
        },
        "conversion": {
            "exporter": str(made.float_file.meta.get("exporter") or made.float_file.producer),
            "notes": [str(n) for n in made.float_file.meta.get("exporter_notes", ())],
        },
        "calibration": _calibration(made.calibration),
        "pruning": _pruning(made),
        "search": made.search,
        "target_search": made.target,
        "precisions": made.precisions,
        "by_operator": made.by_operator,
        "measurements": [to_json(m) for m in (*made.measurements, *_estimated(made))],
        "gates": [{**to_json(g), "passed": g.passed} for g in gates],
        "warnings": list(dict.fromkeys(warnings)),
    }


def _estimated(made: Made) -> list[Measurement]:
    """Latency of the built file as the profile's coefficients predict it; nothing where it has none."""
    profile = made.inputs.profile
    target = next(t for t in profile.targets if f"{t.runtime}/{t.delegate}" == made.plan.target)
    found = estimate_latency(profile, target, made.verified["units"], coverage=made.verified["coverage"])
    if found is None:
        return []
    median, interval = found.shown
    detail = {
        "interval90": interval,
        "basis": f"{found.basis}; {found.runtime}",
        "validated_on": found.validated_on,
        "within_validated_range": found.known,
        "shares": {name: significant(share, 2) for name, share in found.shares.items()},
        "assumes": found.assumes,
        "warnings": found.warnings,
    }
    return [
        Measurement(
            metric="latency",
            unit="ms",
            source="estimate",
            median=median,
            threads=found.threads,
            detail=detail,
        )
    ]


def _file(artifact: Mapping[str, Any]) -> dict[str, Any]:
    sha256 = str(artifact["sha256"])
    named = {key: artifact[key] for key in ("format", "precision", "bytes")}
    return {"path": f"objects/{sha256[:2]}/{sha256}", **named, "sha256": sha256}


def _dataset(inputs: Inputs, role: str) -> dict[str, Any] | None:
    data = inputs.datas.get(role)
    if data is None:
        return None
    return {"source": data.source, "sha256": data.sha256, "n": len(data), "labelled": data.labels is not None}


def _row(
    stage: str, reference: str, close: Closeness | Mapping[str, Any], worst: str | None = None
) -> dict[str, Any]:
    figures = asdict(close) if isinstance(close, Closeness) else dict(close)
    return {"stage": stage, "reference": reference, "worst_layer": worst, **figures}


def _numerics(made: Made) -> list[dict[str, Any]]:
    """Each stage against the torch model that it was made from, then the file against the original."""
    source = "pruned torch model" if made.compressed.changed else "torch model"
    rows = []
    if made.compressed.changed:
        rows.append(_row(source, "original torch model", closeness(made.original, made.changed)))
    if made.parity["onnx"] is not None:
        rows.append(_row("ONNX", source, made.parity["onnx"]))
    rows.append(_row("float32 file", source, closeness(made.changed, made.float_outputs)))
    if made.final.sha256 != made.float_file.sha256:
        rated = [u for u in made.verified["units"] if u["sqnr_db"] is not None]
        worst = min(rated, key=lambda u: float(u["sqnr_db"]), default=None)
        name = f"{worst['op']} {worst['name']} ({worst['sqnr_db']:.1f} dB)" if worst else None
        rows.append(_row(f"{made.final.precision} file", source, closeness(made.changed, made.outputs), name))
    if "final" in made.equal:
        same = made.equal["final"]
        rows.append(
            _row(
                "emulated or device run",
                f"{made.final.precision} file on the host",
                {"sqnr_db": None, "cosine": None, "max_abs": same["max_abs"], "max_rel": None, "n": 1},
            )
        )
    return rows


def _unit(unit: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": unit["name"],
        "op": unit["op"],
        "precision": unit["precision"],
        "sqnr_db": unit["sqnr_db"],
        "macs": unit["macs"],
        "bytes": unit["weight_bytes"],
        "index": unit["index"],
        "output_shape": unit["output_shape"],
    }


def _calibration(choice: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if not choice:
        return None
    return {
        "chosen": choice["chosen"],
        "n": choice["samples"],
        "reason": f"measured on {choice['held_back']} calibration samples that were held back"
        + (", then fitted to all of them" if choice["refit"] else ""),
        "candidates": choice["candidates"],
    }


def _pruning(made: Made) -> dict[str, Any] | None:
    """What was done to the torch model; None when nothing was."""
    compressed, request = made.compressed, made.inputs
    if not compressed.changed:
        return None
    pruning, tuning = compressed.pruning or {}, compressed.finetuning
    step, taught = made.plan.step("prune"), made.plan.step("finetune")
    config = {} if step is None else step.config
    return {
        "removed_blocks": list((compressed.depth or {}).get("removed", ())),
        "ratio": config.get("ratio"),
        "importance": None if step is None else config.get("importance", "l2"),
        "scope": None if step is None else config.get("scope", "layer"),
        "schedule": list(pruning.get("schedule", ())),
        "groups": [
            {"name": g["layer"], "before": g["before"], "after": g["after"]}
            for g in pruning.get("groups", ())
        ],
        "coupled": [
            {"root": g["root"], "layers": list(g["layers"]), "before": g["before"], "after": g["after"]}
            for g in pruning.get("coupled", ())
        ],
        "kept": _reasons(pruning.get("kept", {})),
        "lowrank": _lowrank(compressed.lowrank),
        "sparsity": _sparsity(made),
        "qat": None
        if compressed.qat is None
        else {
            "epochs": len(compressed.qat["history"]) - 1,
            "best_epoch": compressed.qat["best_epoch"],
            "start": compressed.qat["start"],
            "ranges": len(compressed.qat["ranges"]),
            "history": compressed.qat["history"],
        },
        "student": None if request.student is None else request.student.spec.source,
        "finetune": None
        if tuning is None
        else {
            "epochs": len(tuning["history"]) - 1,
            "best_epoch": tuning["best_epoch"],
            "history": tuning["history"],
            "teacher": (request.teacher or request.model).spec.source,
            "kinds": list(taught.config.get("kinds", ("response",))) if taught is not None else [],
            "matched": list(tuning["matched"]),
        },
    }


def _reasons(kept: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"layer": layer, "reason": reason} for layer, reason in kept.items()]


def _lowrank(made: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if made is None:
        return None
    columns = ("layer", "kind", "ranks", "energy", "macs_before", "macs")
    return {
        "energy": made["energy"],
        "layers": [{c: row[c] for c in columns} for row in made["layers"]],
        "kept": _reasons(made["kept"]),
    }


def _sparsity(made: Made) -> dict[str, Any] | None:
    """Share of zeros, what the files take when compressed, and why no time is saved."""
    import zlib

    from edgekit.compress.sparsity import sparse_kernel_obstacles

    sparse = made.compressed.sparsity
    if sparse is None:
        return None
    obstacles = sparse_kernel_obstacles(
        made.compressed.module(),
        made.inputs.model.example_inputs,
        runtime=made.plan.backend,
        delegate=made.plan.delegate,
        precision=made.final.precision,
    )
    return {
        "zeros": 100.0 * float(sparse["share"]),
        "baseline_zip_bytes": len(zlib.compress(made.baseline.path.read_bytes(), 9)),
        "final_zip_bytes": len(zlib.compress(made.final.path.read_bytes(), 9)),
        "saves_time": not obstacles,
        "obstacles": obstacles,
        "kept": _reasons(sparse["kept"]),
    }
