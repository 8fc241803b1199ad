"""From a path on the command line to a file that can be run: a bundle or a bare model file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.errors import UserError
from edgekit.types import Artifact

if TYPE_CHECKING:
    from edgekit.backends import Backend
    from edgekit.bundle import Manifest
    from edgekit.profiles.schema import DeviceProfile


FORMATS = {
    ".tflite": "tflite",
    ".pte": "executorch",
    ".onnx": "onnx",
    ".pt": "torchscript",
    ".pth": "torchscript",
    ".ts": "torchscript",
    ".torchscript": "torchscript",
}
"""Runtime of a bare model file, by how its name ends."""


@dataclass(frozen=True)
class Subject:
    """A model file, with the manifest of its bundle where it came from one."""

    artifact: Artifact
    manifest: Manifest | None

    @property
    def backend(self) -> Backend:
        """What reads and runs the file."""
        from edgekit.backends import RUNTIME_OF, get_backend

        return get_backend(RUNTIME_OF[self.artifact.format])


def open_subject(path: Path) -> Subject:
    """Open a bundle folder, a build's output folder, or a model file.

    Raises UserError for what is neither or is damaged, Unsupported for a file that cannot be run here.
    """
    from edgekit.backends import get_backend

    if path.is_dir():
        from edgekit.bundle import load_manifest

        folder = next((f for f in (path, path / "bundle") if (f / "manifest.json").exists()), None)
        if folder is None:
            raise UserError(
                f"{path} is no bundle: it has no manifest.json", hint="name a folder made by edgekit build"
            )
        manifest = load_manifest(folder)
        artifact = get_backend(str(manifest.data["runtime"]["name"])).open_file(manifest.model_path)
        artifact = replace(
            artifact,
            inputs=manifest.inputs,
            outputs=manifest.outputs,
            precision=manifest.data["models"][0]["precision"],
        )
        return Subject(artifact, manifest)
    if path.suffix not in FORMATS:
        raise UserError(
            f"{path.name} is not a model file or a bundle",
            hint=f"give a bundle folder or a file that ends in {', '.join(FORMATS)}",
        )
    return Subject(get_backend(FORMATS[path.suffix]).open_file(path), None)


def profile_for(name: str | None, manifest: Manifest | None, device: str) -> DeviceProfile | None:
    """The profile that the user named, else the one of the bundle. The emulator cannot do without."""
    from edgekit.profiles import load_profile

    chosen = name or (manifest.profile if manifest is not None else None)
    if chosen is None:
        if device == "emulator":
            raise UserError("the emulator needs to know which device to be", hint="name one with --profile")
        return None
    return load_profile(chosen)


def raw_inputs(artifact: Artifact, manifest: Manifest | None) -> tuple[Any, ...]:
    """Arrays as the file stores them: the first golden sample, else seeded random values.

    Floats are standard normal, 8-bit integers any value, wider ones (indices, lengths) and booleans 0.
    """
    if manifest is not None and manifest.data["golden"]["samples"]:
        from edgekit.bundle import golden_samples

        return golden_samples(manifest)[0].inputs
    return _random_inputs(artifact)


def _random_inputs(artifact: Artifact) -> tuple[Any, ...]:
    import numpy as np

    rng = np.random.default_rng(0)
    arrays = []
    for tensor in artifact.inputs:
        dtype = np.dtype(tensor.dtype)
        if dtype.kind == "f":
            arrays.append(rng.standard_normal(tensor.shape).astype(dtype))
        elif dtype.kind in "iu" and dtype.itemsize == 1:
            limits = np.iinfo(dtype)
            arrays.append(rng.integers(limits.min, limits.max + 1, tensor.shape).astype(dtype))
        else:
            arrays.append(np.zeros(tensor.shape, dtype))
    return tuple(arrays)
