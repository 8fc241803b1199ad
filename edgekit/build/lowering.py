"""The steps that make files: convert, quantise, and compare each with what it came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.backends import Backend
from edgekit.backends.onnx_export import tool_versions
from edgekit.build.equality import marked
from edgekit.build.inputs import Inputs, samples_of
from edgekit.build.runner import Runner, artifact_from_json, artifact_to_json
from edgekit.errors import ParityError, StepFailed
from edgekit.plan.request import CALIBRATED
from edgekit.store import digest_json
from edgekit.types import Artifact, Plan, Scheme
from edgekit.verify import accuracy, numerics, reference

if TYPE_CHECKING:
    from edgekit.types import Array

_SOURCE_TOOLS = ("torch", "onnxruntime", "numpy")
"""What the outputs of the source itself depend on."""
_PARITY_SAMPLES = 8
_UNIT_SAMPLES = 16


def digest_arrays(arrays: Sequence[Array]) -> str:
    """Name of a set of arrays for cache keys: dtype, shape and bytes of each."""
    import hashlib

    parts = [
        [str(a.dtype), list(a.shape), hashlib.sha256(np.ascontiguousarray(a).data).hexdigest()]
        for a in arrays
    ]
    return digest_json(parts)


def check_finite(outputs: Sequence[Array], whose: str, *, hint: str) -> None:
    """Raise StepFailed naming the first sample for which an output is NaN or infinite."""
    for i, y in enumerate(outputs):
        good = np.isfinite(y).reshape(len(y), -1).all(axis=1)
        if not good.all():
            bad = int(np.argmin(good))
            raise StepFailed(f"{whose} gives NaN or infinity in output {i} for sample {bad}", hint=hint)


def intermediates(artifact: Artifact) -> list[str]:
    """Digests of the files on the way to an artifact that its backend keeps in the store."""
    return [str(v) for k, v in artifact.meta.items() if k.endswith("_sha256") and v]


def _notes(artifact: Artifact) -> list[str]:
    """What the exporters that were tried said."""
    return [str(note) for note in artifact.meta.get("exporter_notes", ())]


class Lowering:
    """Makes and checks the files of one build against one set of verification samples."""

    def __init__(self, inputs: Inputs, runner: Runner, plan: Plan, backend: Backend) -> None:
        self.inputs, self.runner, self.plan, self.backend = inputs, runner, plan, backend
        self.samples, self.labels, self.samples_from = inputs.verification(seed=runner.seed)
        self._samples_digest = digest_arrays(self.samples)

    def source_outputs(self, name: str, source: Any, sha256: str) -> list[Array]:
        """Outputs of a torch module, or of the user's ONNX file, on the verification samples.

        ``source`` is called for the module only when the outputs are not in the cache.
        """

        def work() -> dict[str, Any]:
            model = source()
            outputs = (
                reference.run_onnx(model, self.samples)
                if isinstance(model, Path)
                else reference.run_module(model, self.samples)
            )
            sha = self.runner.put_arrays(outputs)
            return {"objects": [sha], "outputs": sha}

        key = {"model": sha256, "samples": self._samples_digest, "tools": tool_versions(*_SOURCE_TOOLS)}
        return self.runner.get_arrays(self.runner.run(name, key, work)["outputs"])

    def convert(
        self, name: str, source: Any, sha256: str, expected: Sequence[Array]
    ) -> tuple[Artifact, Mapping[str, Any]]:
        """The float file, with its parity to the source; ``expected`` are the source's outputs.

        Raises ParityError when ONNX or TFLite differ from the source by more than the plan's limit,
        naming the first layer that does.
        """
        step = self.plan.step("convert")
        assert step is not None
        limit = float(step.config["parity_limit"])
        first = [x[:_PARITY_SAMPLES] for x in self.samples]
        scheme = Scheme(
            keep_nchw=bool(step.config["keep_nchw"]),
            delegate=self.plan.delegate,
            delegate_version=self.plan.scheme.delegate_version,
        )

        def work() -> dict[str, Any]:
            store = self.runner.store
            artifact = self.backend.export(
                source(),
                self.inputs.model.spec,
                samples_of(tuple(first)),
                store=store,
                scheme=scheme,
                emit=self.runner.emit,
            )
            want = [e[:_PARITY_SAMPLES] for e in expected]
            onnx = None
            if "onnx_sha256" in artifact.meta:
                onnx_path = store.get(str(artifact.meta["onnx_sha256"]))
                onnx = numerics.closeness(want, reference.run_onnx(onnx_path, first))
            final = numerics.closeness(want, reference.run_session(self.backend.session(artifact), first))
            for stage, close in (("ONNX", onnx), ("float32 file", final)):
                if close is not None and not close.max_rel <= limit:
                    raise self._parity_error(stage, close.max_rel, limit, artifact, [x[:1] for x in first])
            return {
                "objects": [artifact.sha256, *intermediates(artifact)],
                "artifact": artifact_to_json(artifact),
                "onnx": None if onnx is None else asdict(onnx),
                "float": asdict(final),
            }

        key = {
            "model": sha256,
            "samples": self._samples_digest,
            "expected": digest_arrays([e[:_PARITY_SAMPLES] for e in expected]),
            "backend": self.backend.name,
            "scheme": scheme,
            "config": step.config,
            "tools": self.backend.tools(),
        }
        result = self.runner.run(name, key, work)
        return artifact_from_json(result["artifact"], self.runner.store), result

    def _parity_error(
        self, stage: str, error: float, limit: float, artifact: Artifact, sample: list[Array]
    ) -> ParityError:
        found = None
        if stage != "ONNX":
            found = self.backend.divergence(artifact, sample, tolerance=limit, store=self.runner.store)
        where = f"; the first layer that differs is {found}" if found else ""
        return ParityError(
            f"the {stage} differs from the torch model by {error:.2g} relative (limit {limit:g}){where}",
            hint="; ".join(
                ["the conversion is wrong for this model; nothing was written", *_notes(artifact)]
            ),
        )

    def check_parity_on_all(self, expected: Sequence[Array], got: Sequence[Array]) -> None:
        """The float file against its source on every verification sample, not only on the first few.

        A forward pass that branches on the values of its input is converted for one branch: samples that
        take another one tell. Raises ParityError.
        """
        step = self.plan.step("convert")
        assert step is not None
        limit = float(step.config["parity_limit"])
        close = numerics.closeness(expected, got)
        if close.max_rel <= limit:
            return
        beyond = np.zeros(len(expected[0]), dtype=bool)
        for e, g in zip(expected, got, strict=True):
            distance = np.abs(e.astype(np.float64) - g).reshape(len(e), -1).max(axis=1, initial=0.0)
            beyond |= ~(distance <= limit * np.abs(e).max(initial=0.0))
        raise ParityError(
            f"the float32 file differs from the torch model on {int(beyond.sum())} of {len(beyond)} samples, "
            f"by up to {close.max_rel:.2g} relative (limit {limit:g})",
            hint="if forward branches on the values of its input, only the branch of the first sample was "
            "converted: use torch.where instead; nothing was written",
        )

    def quantize(
        self, artifact: Artifact, scheme: Scheme, label: str = "quantize"
    ) -> tuple[Artifact, Mapping[str, Any]]:
        """The file in the precision of ``scheme``, and its meta."""
        if scheme.precision == "float32":
            return artifact, {}
        calib = self.inputs.datas.get("calib")
        refit = self.samples_from == "eval"  # else the held-back samples are what the gates are measured on

        def work() -> dict[str, Any]:
            made = self.backend.quantize(
                artifact,
                self.inputs.calibration(),
                scheme,
                refit=refit,
                store=self.runner.store,
                emit=self.runner.emit,
            )
            return {"objects": [made.sha256, *intermediates(made)], "artifact": artifact_to_json(made)}

        key = {
            "backend": self.backend.name,
            "artifact": artifact.sha256,
            "scheme": scheme,
            "refit": refit,
            "calib": calib.sha256 if calib is not None and scheme.precision in CALIBRATED else None,
            "tools": self.backend.tools(),
        }
        result = self.runner.run("quantize", key, work, label=label)
        made = marked(artifact_from_json(result["artifact"], self.runner.store), scheme, self.backend)
        return made, made.meta

    def verify(
        self, float_file: Artifact, final: Artifact, target: Any, scheme: Scheme, label: str = "verify"
    ) -> Mapping[str, Any]:
        """Outputs of both files on all verification samples, per-unit SQNR, coverage, golden samples."""

        def work() -> dict[str, Any]:
            session = self.backend.session(final)
            outputs = reference.run_session(session, self.samples)
            float_outputs = (
                outputs
                if final.sha256 == float_file.sha256
                else reference.run_session(self.backend.session(float_file), self.samples)
            )
            for precision, got in (("float32", float_outputs), (final.precision, outputs)):
                check_finite(
                    got,
                    f"the {precision} file",
                    hint="weights or activations do not fit into this precision; choose another with "
                    "--set quantize.precision=...",
                )
            outputs_sha = self.runner.put_arrays(outputs)
            float_sha = self.runner.put_arrays(float_outputs)
            facts, complaints = self.backend.check(final, scheme)
            coverage = [asdict(c) for c in self.backend.coverage(final, target)]
            return {
                "objects": [outputs_sha, float_sha],
                "outputs": outputs_sha,
                "float_outputs": float_sha,
                "units": self._units(float_file, final),
                "facts": dict(facts),
                "complaints": complaints,
                "coverage": coverage,
            }

        key = {
            "float": float_file.sha256,
            "final": final.sha256,
            "samples": self._samples_digest,
            "backend": self.backend.name,
            "scheme": scheme,
            "tools": self.backend.tools(),
        }
        return self.runner.run("verify", key, work, label=label)

    def companion(self, float_file: Artifact, scheme: Scheme, label: str) -> tuple[Artifact, list[Array]]:
        """A further file of the model and its outputs on all verification samples."""
        made, _ = self.quantize(float_file, scheme, f"quantize {label}")

        def work() -> dict[str, Any]:
            outputs = reference.run_session(self.backend.session(made), self.samples)
            check_finite(outputs, f"the {scheme.precision} file", hint="values do not fit this precision")
            sha = self.runner.put_arrays(outputs)
            return {"objects": [sha], "outputs": sha}

        key = {
            "backend": self.backend.name,
            "file": made.sha256,
            "samples": self._samples_digest,
            "tools": self.backend.tools(),
        }
        result = self.runner.run("outputs", key, work, label=f"verify {label}")
        return made, self.runner.get_arrays(str(result["outputs"]))

    def _units(self, float_file: Artifact, final: Artifact) -> list[dict[str, Any]]:
        units = self.backend.units(final)
        before = self.backend.units(float_file)
        sqnr: dict[str, float | None] = {}
        same = [u.op for u in units] == [u.op for u in before]
        if same and final.sha256 != float_file.sha256:
            names = {u.name: b.name for u, b in zip(units, before, strict=True)}
            few = samples_of(tuple(x[:_UNIT_SAMPLES] for x in self.samples))
            sqnr = numerics.unit_sqnr(
                self.backend.session(float_file, keep_all=True),
                self.backend.session(final, keep_all=True),
                names,
                few,
            )
        return [
            {**asdict(u), "output_shape": list(u.output_shape), "sqnr_db": sqnr.get(u.name)} for u in units
        ]

    def scores(self, original: Sequence[Array], outputs: Sequence[Array]) -> dict[str, Any]:
        """Accuracy and agreement of the final file; None where they mean nothing."""
        classifier = self.inputs.model.spec.task == "classification" and accuracy.is_classifier(
            list(original)
        )
        if not classifier or self.samples_from == "random":
            return {"accuracy": None, "agreement": None}
        n = len(original[0])
        agree = {"top1": accuracy.agreement(original[0], outputs[0]), "n": n}
        if self.labels is None:
            return {"accuracy": None, "agreement": agree}
        before, after = accuracy.top1(original[0], self.labels), accuracy.top1(outputs[0], self.labels)
        return {
            "accuracy": {
                "metric": "top1",
                "baseline": before.top1,
                "final": after.top1,
                "drop": before.top1 - after.top1,
                "n": n,
                "ci95": list(after.ci95),
                "drop_ci95": list(accuracy.drop_interval(original[0], outputs[0], self.labels)),
            },
            "agreement": agree,
        }
