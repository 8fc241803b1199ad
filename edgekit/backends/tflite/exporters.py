"""The float .tflite of a model: by onnx2tf, by litert-torch where that does better, compared on real samples.

onnx2tf is tried first. litert-torch (the extra ``edgekit[litert-torch]``; it takes torch modules only) is
tried when onnx2tf refuses the model, when its file differs from the source by more than ``CLOSE``, or when it
has TRANSPOSE operators, each of them a copy. Of two files the one within the limit wins, then the closer one
(differences below ``CLOSE`` are rounding and count as none), then the one with fewer TRANSPOSE operators.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.backends import onnx_export
from edgekit.backends.tflite import convert, flatbuffer, onnx_repair, signature
from edgekit.backends.tflite.session import TFLiteSession
from edgekit.backends.torch_graph import tensors, trace
from edgekit.errors import ConversionError, EdgekitError, StepFailed, StoreError, Unsupported
from edgekit.types import Artifact, Emit, Event, ModelSpec, Scheme

if TYPE_CHECKING:
    from edgekit.store import Store
    from edgekit.types import Array

LIMIT = 1e-3
"""Largest relative difference of a file that computes what its source does, see :func:`parity`."""

CLOSE = 1e-4
"""Differences below this are rounding: other convolution orders, approximated exponentials."""

EXTRA = "pip install 'edgekit[litert-torch]'"
DTYPES = {"float32", "int32", "int64"}


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A converted file: ``parity`` is its distance from the source, ``transposes`` its copies."""

    artifact: Artifact
    parity: float
    transposes: int

    @property
    def rank(self) -> tuple[bool, float, int]:
        """What is smaller is better."""
        return (not self.parity <= LIMIT, self.parity if self.parity > CLOSE else 0.0, self.transposes)

    def __str__(self) -> str:
        copies = f"{self.transposes} TRANSPOSE operator{'' if self.transposes == 1 else 's'}"
        return f"{self.artifact.producer}: {self.parity:.1e} from the source, {copies}"


@dataclass(frozen=True, kw_only=True)
class Job:
    """What all exporters are given. ``expected`` has the source's outputs for each sample."""

    source: Any
    spec: ModelSpec
    samples: Sequence[Sequence[Array]]
    expected: Sequence[Sequence[Array]]
    scheme: Scheme
    store: Store


def has_litert_torch() -> bool:
    """Whether the extra is installed."""
    return importlib.util.find_spec("litert_torch") is not None


def check_inputs(spec: ModelSpec) -> None:
    """Raise Unsupported for an input of a type that no exporter writes as it is."""
    for tensor in spec.inputs:
        if tensor.dtype not in DTYPES:
            raise Unsupported(
                f"input {tensor.name!r} is {tensor.dtype}; the TFLite backend takes float32, int32 and int64",
                hint="let forward take float32, or int64 for indices, and convert inside",
            )


def export(
    source: Any,
    spec: ModelSpec,
    samples: Sequence[Sequence[Array]],
    *,
    scheme: Scheme,
    store: Store,
    emit: Emit,
    tools: Mapping[str, str],
) -> Artifact:
    """The best file of all exporters; ``meta`` tells "exporter", its "parity" and "exporter_notes".

    ``source`` is a torch module or the path of an ONNX file. The file may be beyond ``LIMIT`` when no
    exporter does better: whoever uses it compares it with the source again. Raises the first exporter's
    Unsupported or ConversionError when none takes the model.
    """
    check_inputs(spec)
    expected = source_outputs(source, samples)
    job = Job(source=source, spec=spec, samples=samples, expected=expected, scheme=scheme, store=store)
    notes: list[str] = []
    found: list[Candidate] = []
    first = _attempt("onnx2tf", _by_onnx2tf, job, found, notes)
    if not found or found[0].parity > CLOSE or found[0].transposes:
        if isinstance(source, Path):
            notes.append("litert-torch was not tried: it takes torch models, not ONNX files")
        elif not has_litert_torch():
            notes.append(f"litert-torch was not tried: it is not installed ({EXTRA})")
        else:
            emit(Event(kind="info", step="convert", message=f"{notes[-1]}; trying litert-torch"))
            _attempt("litert-torch", _by_litert_torch, job, found, notes)
    if not found:
        assert first is not None
        raise _refusal(first, notes)
    best = min(found, key=lambda c: c.rank)
    if len(found) > 1:
        notes.append(f"{best.artifact.producer} was taken: {_why(found, best)}")
    meta = {**best.artifact.meta, "exporter": best.artifact.producer, "exporter_notes": notes}
    return replace(best.artifact, tools=dict(tools), meta={**meta, "parity": best.parity})


def parity(expected: Sequence[Sequence[Array]], got: Sequence[Sequence[Array]]) -> float:
    """max |difference| / max |value| over all samples, of the worst output. Infinite for NaN."""
    worst = 0.0
    for want, have in zip(zip(*expected, strict=True), zip(*got, strict=True), strict=True):
        top = max(float(np.abs(w.astype(np.float64)).max(initial=0.0)) for w in want)
        distance = max(
            float(np.abs(w.astype(np.float64) - h.astype(np.float64)).max(initial=0.0))
            for w, h in zip(want, have, strict=True)
        )
        error = distance / top if top > 0 else (0.0 if distance == 0 else np.inf)
        worst = max(worst, error if np.isfinite(error) else np.inf)
    return worst


def source_outputs(source: Any, samples: Sequence[Sequence[Array]]) -> list[list[Array]]:
    """Outputs of a torch module, or of an ONNX file, for each sample."""
    if isinstance(source, Path):
        session = onnx_session(source)
        names = [i.name for i in session.get_inputs()]
        return [list(session.run(None, dict(zip(names, s, strict=True)))) for s in samples]
    import torch
    from torch.utils import _pytree as pytree

    found = []
    with torch.inference_mode():
        for sample in samples:
            result = source(*tensors(sample))
            leaves = [y for y in pytree.tree_leaves(result) if isinstance(y, torch.Tensor)]
            found.append([y.numpy() for y in leaves])
    return found


def onnx_session(path: Path) -> Any:
    """An ONNX Runtime session on the CPU that keeps its warnings to itself."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _attempt(
    name: str, exporter: Callable[[Job, Path], Artifact], job: Job, found: list[Candidate], notes: list[str]
) -> EdgekitError | None:
    """One exporter's file among ``found``, or its refusal, which is returned; either is noted."""
    try:
        with job.store.scratch() as scratch:
            artifact = exporter(job, scratch)
        artifact = signature.with_output_layouts(artifact, job.expected[0], job.samples[0])
        session = TFLiteSession(artifact)
        error = parity(job.expected, [session.run(s) for s in job.samples])
    except StoreError:
        raise
    except (StepFailed, Unsupported) as exc:
        notes.append(f"{name}: {exc}")
        return exc
    graph = flatbuffer.read_graph(artifact.path)
    found.append(Candidate(artifact=artifact, parity=error, transposes=graph.count("TRANSPOSE")))
    notes += [f"torch to ONNX by {note}" for note in artifact.meta.get("onnx_notes", ())]
    notes += artifact.meta.get("onnx_repairs", ())
    notes.append(str(found[-1]))
    return None


def _refusal(first: EdgekitError, notes: Sequence[str]) -> EdgekitError:
    """What the default exporter said, with what became of the other."""
    other = next((n for n in notes if n.startswith("litert-torch")), "")
    message = f"{first}; {other}" if other and EXTRA not in other else str(first)
    hint = first.hint or ""
    if any(EXTRA in n for n in notes):
        hint = f"{hint}; another exporter may take the model as it is: {EXTRA}".removeprefix("; ")
    return type(first)(message, hint=hint or None)


def _why(found: Sequence[Candidate], best: Candidate) -> str:
    others = [c for c in found if c is not best]
    if any(c.rank[0] != best.rank[0] for c in others):
        return f"the other differs from the source by more than {LIMIT:g}"
    if any(c.rank[1] != best.rank[1] for c in others):
        return "it is closer to the source"
    if any(c.rank[2] != best.rank[2] for c in others):
        return "both compute what the source does, and it copies less"
    return "both are equally good, and it is the default"


def _by_onnx2tf(job: Job, scratch: Path) -> Artifact:
    path = scratch / "model.onnx"
    if isinstance(job.source, Path):
        onnx_file = onnx_export.import_onnx(job.source, tuple(t.shape for t in job.spec.inputs), path)
    else:
        onnx_file = onnx_export.export_onnx(job.source, tensors(job.samples[0]), path)
    if len(onnx_file.inputs) != len(job.spec.inputs):
        raise Unsupported(
            f"the model takes {len(job.spec.inputs)} inputs but uses {len(onnx_file.inputs)} of them",
            hint="leave the unused input out of forward",
        )
    repairs = onnx_repair.repair(path)
    sequences = signature.sequence_inputs(path)
    keep = onnx_file.inputs if job.scheme.keep_nchw else ()
    keep = tuple(n for n in keep if n not in sequences)
    made = convert.convert(path, scratch, keep_inputs=keep, sequences=sequences)
    kept = [n in keep or n in sequences for n in onnx_file.inputs]
    artifact = _stored(job, made, kept, "onnx2tf")
    meta = {
        **artifact.meta,
        "onnx_sha256": job.store.put_file(path),
        "onnx_exporter": onnx_file.exporter,
        "onnx_notes": list(onnx_file.notes),
        "onnx_repairs": repairs,
        "onnx_inputs": list(onnx_file.inputs),
    }
    return replace(artifact, meta=meta)


def _by_litert_torch(job: Job, scratch: Path) -> Artifact:
    program = scratch / "program.pt2"
    save_program(job.source, job.samples[0], program)
    last: tuple[list[int], list[int]] = ([], [])
    if not job.scheme.keep_nchw:
        last = (
            [i for i, x in enumerate(job.samples[0]) if x.ndim in (4, 5) and x.dtype.kind == "f"],
            [i for i, y in enumerate(job.expected[0]) if y.ndim in (4, 5) and y.dtype.kind == "f"],
        )
    made = convert.convert_program(program, scratch, inputs_last=last[0], outputs_last=last[1])
    return _stored(job, made, [i not in last[0] for i in range(len(job.spec.inputs))], "litert-torch")


def save_program(module: Any, sample: Sequence[Array], path: Path) -> None:
    """The module as a torch.export program in a file; it returns its output tensors as one flat tuple.

    Raises ConversionError when torch.export cannot trace or save it.
    """
    import torch
    from torch.utils import _pytree as pytree

    class Flat(torch.nn.Module):
        """Named tuples and the like would need a name under which they are saved."""

        def __init__(self) -> None:
            super().__init__()
            self.model = module

        def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return tuple(y for y in pytree.tree_leaves(module(*inputs)) if isinstance(y, torch.Tensor))

    graph = trace(Flat().eval(), sample)
    where = f" at {graph.error_line}" if graph.error_line else ""
    problem = f"torch.export cannot trace the model{where}: {graph.error}" if graph.error else ""
    if graph.program is not None:
        try:
            torch.export.save(graph.program, path)
        except Exception as exc:  # torch.export raises whatever the user's constants meet
            problem = f"torch.export cannot save the model: {type(exc).__name__}: {exc}"[:400]
    if problem:
        raise ConversionError(
            problem, hint="write forward with static shapes and without branches on the values of tensors"
        )


def _stored(job: Job, made: convert.Converted, kept: Sequence[bool], producer: str) -> Artifact:
    sha = job.store.put_file(made.path)
    log = job.store.put_bytes(made.log.encode())
    artifact = signature.describe(job.store.get(sha), sha, made.inputs, job.spec, kept, producer)
    return replace(artifact, meta={**artifact.meta, "log_sha256": log})
