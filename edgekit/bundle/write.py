"""Writes a bundle: whole under its final name, or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.bundle.golden import GoldenSample, Tolerance
from edgekit.bundle.manifest import manifest_schema
from edgekit.errors import StepFailed
from edgekit.jsoncheck import first_problem
from edgekit.store import digest_file, translate_os_errors, write_atomic
from edgekit.types import Artifact, ModelSpec, TensorSpec, to_json

if TYPE_CHECKING:
    from edgekit.types import Array

_README = """\
{name} for {profile}: {precision} {format}, made by edgekit {version}.

    python run.py                  checks the golden samples in golden/
    python run.py --input x.npy    runs one input

Needs Python 3.9 or later, numpy and one of ai-edge-litert, tflite-runtime, tensorflow.
manifest.json says what an app needs to know: inputs, outputs, layout, quantisation, labels, licences.
"""


@dataclass(frozen=True, kw_only=True)
class RuntimeTarget:
    """What runs the file: a runtime of at least ``min_version``, delegates in order of preference."""

    name: str
    min_version: str
    delegates: tuple[str, ...]
    threads: int


def write_bundle(
    out: Path,
    *,
    artifact: Artifact,
    spec: ModelSpec,
    profile: str,
    runtime: RuntimeTarget,
    golden: Sequence[GoldenSample],
    tolerance: Tolerance,
    provenance: Mapping[str, Any],
    licences: Mapping[str, str],
    input_ranges: Sequence[tuple[float, float] | None] | None = None,
) -> Path:
    """Write ``out``/bundle and return its path; an older bundle there is replaced only when all is ready.

    ``golden`` holds arrays as the artifact stores them. ``provenance`` needs ``edgekit_version``,
    ``source_sha256`` and ``plan_digest``. ``input_ranges`` are the real values that calibration saw.
    Raises StepFailed when a sample does not fit the artifact or the artifact is damaged, StoreError when
    the disk is full.
    """
    _check_tensors(artifact, spec)
    for i, sample in enumerate(golden):
        _check_arrays(f"inputs of golden sample {i}", sample.inputs, artifact.inputs)
        _check_arrays(f"outputs of golden sample {i}", sample.outputs, artifact.outputs)
    with _replacing(out, "bundle") as folder:
        model = f"model.{artifact.format}"
        _copy_model(artifact, folder / model)
        manifest = {
            "schema_version": 1,
            "name": spec.name,
            "profile": profile,
            "task": spec.task,
            "models": [
                {
                    "path": model,
                    "sha256": artifact.sha256,
                    "bytes": artifact.bytes,
                    "format": artifact.format,
                    "precision": artifact.precision,
                }
            ],
            "runtime": to_json(runtime),
            "inputs": _tensors(artifact.inputs, spec.inputs, input_ranges),
            "outputs": _tensors(artifact.outputs, spec.outputs, None),
            "preprocessing": to_json(spec.preprocessing),
            "labels": list(spec.labels),
            "golden": {
                "tolerance": asdict(tolerance),
                "samples": [_write_sample(folder, i, sample) for i, sample in enumerate(golden)],
            },
            "provenance": to_json(provenance),
            "licences": dict(licences),
        }
        if problem := first_problem(manifest, manifest_schema()):
            raise StepFailed(f"the manifest does not fit its schema at {problem}")
        write_atomic(folder / "run.py", files("edgekit.bundle").joinpath("run.py").read_bytes())
        write_atomic(
            folder / "README.txt",
            _README.format(
                name=spec.name,
                profile=profile,
                precision=artifact.precision,
                format=artifact.format,
                version=provenance["edgekit_version"],
            ),
        )
        write_atomic(folder / "manifest.json", json.dumps(manifest, indent=1, allow_nan=False) + "\n")
    return out / "bundle"


def _check_tensors(artifact: Artifact, spec: ModelSpec) -> None:
    for side, stored, source in (
        ("inputs", artifact.inputs, spec.inputs),
        ("outputs", artifact.outputs, spec.outputs),
    ):
        if not stored or len(stored) != len(source):
            raise StepFailed(f"the file has {len(stored)} {side}, the model {len(source)}")


def _check_arrays(what: str, arrays: Sequence[Array], tensors: Sequence[TensorSpec]) -> None:
    if len(arrays) != len(tensors):
        raise StepFailed(f"the {what} are {len(arrays)} arrays, the file has {len(tensors)} tensors there")
    for array, tensor in zip(arrays, tensors, strict=True):
        if array.shape != tensor.shape or array.dtype != np.dtype(tensor.dtype):
            raise StepFailed(
                f"the {what} hold {array.dtype} {list(array.shape)} for {tensor.name!r}, "
                f"the file has {tensor.dtype} {list(tensor.shape)}"
            )


def _tensors(
    stored: Sequence[TensorSpec],
    source: Sequence[TensorSpec],
    ranges: Sequence[tuple[float, float] | None] | None,
) -> list[dict[str, Any]]:
    """Each tensor as the file has it, with its place in the user's own model beside it."""
    seen = ranges if ranges is not None else [None] * len(stored)
    return [
        {
            **to_json(tensor),
            "range": None if limits is None else [float(x) for x in limits],
            "source": {"name": own.name, "shape": list(own.shape), "dtype": own.dtype, "layout": own.layout},
        }
        for tensor, own, limits in zip(stored, source, seen, strict=True)
    ]


def _copy_model(artifact: Artifact, target: Path) -> None:
    with translate_os_errors(f"writing {target.name}"):
        shutil.copyfile(artifact.path, target)
    if digest_file(target) != artifact.sha256:
        raise StepFailed(
            f"the file {artifact.path.name} in the store is damaged",
            hint="run `edgekit cache clear`, then build again",
        )


def _write_sample(folder: Path, index: int, sample: GoldenSample) -> dict[str, list[dict[str, str]]]:
    entry: dict[str, list[dict[str, str]]] = {"inputs": [], "outputs": []}
    for side, arrays in (("inputs", sample.inputs), ("outputs", sample.outputs)):
        for k, array in enumerate(arrays):
            name = f"golden/{index}_{side[:-1]}_{k}.npy"
            buffer = io.BytesIO()
            np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
            write_atomic(folder / name, buffer.getvalue())
            entry[side].append({"path": name, "sha256": digest_file(folder / name)})
    return entry


@contextlib.contextmanager
def _replacing(out: Path, name: str) -> Iterator[Path]:
    """A new folder beside ``out``/``name`` that takes its place when the block ends well.

    One writer at a time: a lock on ``out`` itself, freed by the system when the process dies. What a killed
    writer left behind is removed by the next. Between two renames there is a moment without a bundle, but
    never half of one.
    """
    with translate_os_errors("writing the bundle"):
        out.mkdir(parents=True, exist_ok=True)
        lock = os.open(out, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for left in out.glob(f".{name}.*"):
            shutil.rmtree(left, ignore_errors=True)
        with translate_os_errors("writing the bundle"):
            folder = Path(tempfile.mkdtemp(prefix=f".{name}.new.", dir=out))
        try:
            folder.chmod(0o755)
            yield folder
            with translate_os_errors("writing the bundle"):
                final, old = out / name, folder.with_name(f".{name}.old")
                if final.exists():
                    final.rename(old)
                folder.rename(final)
            shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)
