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
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.backends import SUFFIX_OF
from edgekit.bundle.golden import GoldenSample, Tolerance
from edgekit.bundle.manifest import manifest_schema
from edgekit.bundle.readme import readme
from edgekit.bundle.recipes import recipe_of
from edgekit.errors import StepFailed
from edgekit.jsoncheck import first_problem
from edgekit.store import digest_file, translate_os_errors, write_atomic
from edgekit.types import Artifact, ModelSpec, TensorSpec, to_json

if TYPE_CHECKING:
    from edgekit.types import Array

_OWN_FILES = ("manifest.json", "run.py", "README.txt")


@dataclass(frozen=True, kw_only=True)
class RuntimeTarget:
    """What runs the file: a runtime of at least ``min_version``, delegates in order of preference."""

    name: str
    min_version: str
    delegates: tuple[str, ...]
    threads: int


def model_names(artifact: Artifact, companions: Sequence[Artifact]) -> list[str]:
    """Names of the model files in a bundle: "model" + suffix, then "model_PRECISION" + suffix.

    Raises StepFailed when two would have one name.
    """
    names = [f"model{SUFFIX_OF[artifact.format]}"]
    names += [f"model_{c.precision}{SUFFIX_OF[c.format]}" for c in companions]
    if len(set(names)) != len(names):
        raise StepFailed(f"two model files of a bundle would have one name: {', '.join(names)}")
    return names


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
    companions: Sequence[Artifact] = (),
    companion_outputs: Sequence[Sequence[Sequence[Array]]] = (),
    extra_files: Mapping[str, bytes] = MappingProxyType({}),
) -> Path:
    """Write ``out``/bundle and return its path; an older bundle there is replaced only when all is ready.

    ``golden`` holds arrays as the artifact stores them. ``provenance`` needs ``edgekit_version``,
    ``source_sha256`` and ``plan_digest``. ``input_ranges`` are the real values that calibration saw.
    ``companions`` are the same model in other precisions, with the same inputs and outputs in real values;
    ``companion_outputs`` holds for each of them its outputs for every golden sample.
    ``extra_files`` lie in the bundle under their names; those that begin with "#!" are executable.
    Raises StepFailed when a sample does not fit the artifact, a name is taken or leads out of the bundle or
    an artifact is damaged, StoreError when the disk is full.
    """
    names = model_names(artifact, companions)
    _check_extra_names(extra_files, names)
    _check_tensors(artifact, spec)
    for companion in companions:
        _check_tensors(companion, spec)
    for i, sample in enumerate(golden):
        _check_arrays(f"inputs of golden sample {i}", sample.inputs, artifact.inputs)
        _check_arrays(f"outputs of golden sample {i}", sample.outputs, artifact.outputs)
    others = companion_outputs or [()] * len(companions)
    with _replacing(out, "bundle") as folder:
        for file, name in zip((artifact, *companions), names, strict=True):
            _copy_model(file, folder / name)
        own_golden = [{}, *(_own_golden(folder, f, o) for f, o in zip(companions, others, strict=True))]
        manifest = {
            "schema_version": 1,
            "name": spec.name,
            "profile": profile,
            "task": spec.task,
            "models": [
                {
                    "path": name,
                    "sha256": file.sha256,
                    "bytes": file.bytes,
                    "format": file.format,
                    "precision": file.precision,
                    **more,
                }
                for file, name, more in zip((artifact, *companions), names, own_golden, strict=True)
            ],
            "files": [_write_extra(folder, name, data) for name, data in sorted(extra_files.items())],
            "runtime": _runtime(runtime, artifact),
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
        (folder / "run.py").chmod(0o755)
        write_atomic(folder / "README.txt", readme(manifest))
        write_atomic(folder / "manifest.json", json.dumps(manifest, indent=1, allow_nan=False) + "\n")
    return out / "bundle"


def _runtime(runtime: RuntimeTarget, artifact: Artifact) -> dict[str, Any]:
    package = recipe_of(runtime.name, runtime.delegates).package
    return {**to_json(runtime), "package": package, "tested_version": artifact.tools.get(package)}


def _check_extra_names(extra_files: Mapping[str, bytes], models: Sequence[str]) -> None:
    for name in extra_files:
        pure = PurePosixPath(name)
        plain = name == str(pure) and not pure.is_absolute() and ".." not in pure.parts and name != "."
        if not plain or any(c in name for c in "\\:\0"):
            raise StepFailed(
                f"a file of the bundle cannot be called {name!r}: that is no plain relative path"
            )
        if pure.parts[0] in (*_OWN_FILES, *models, "golden"):
            raise StepFailed(f"a file of the bundle cannot be called {name!r}: that name is taken")


def _write_extra(folder: Path, name: str, data: bytes) -> dict[str, str]:
    write_atomic(folder / name, data)
    if data.startswith(b"#!"):
        (folder / name).chmod(0o755)
    return {"path": name, "sha256": digest_file(folder / name)}


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


def _own_golden(folder: Path, companion: Artifact, samples: Sequence[Sequence[Array]]) -> dict[str, Any]:
    """The manifest's "golden" of a further file: what it gives for the inputs of the golden samples."""
    if not samples:
        return {}
    entries = []
    for i, outputs in enumerate(samples):
        _check_arrays(f"outputs of golden sample {i} in {companion.precision}", outputs, companion.outputs)
        stem = f"golden/{i}_output_{companion.precision}"
        entries.append(
            {"outputs": [_write_array(folder, f"{stem}_{k}.npy", a) for k, a in enumerate(outputs)]}
        )
    return {"golden": {"samples": entries}}


def _write_sample(folder: Path, index: int, sample: GoldenSample) -> dict[str, list[dict[str, str]]]:
    sides = (("inputs", sample.inputs), ("outputs", sample.outputs))
    return {
        side: [_write_array(folder, f"golden/{index}_{side[:-1]}_{k}.npy", a) for k, a in enumerate(arrays)]
        for side, arrays in sides
    }


def _write_array(folder: Path, name: str, array: Array) -> dict[str, str]:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    write_atomic(folder / name, buffer.getvalue())
    return {"path": name, "sha256": digest_file(folder / name)}


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
