"""From a path on the command line to a file that can be run: a bundle or a bare model file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.errors import Unsupported, UserError
from edgekit.types import Artifact

if TYPE_CHECKING:
    from edgekit.bundle import Manifest
    from edgekit.profiles.schema import DeviceProfile


@dataclass(frozen=True)
class Subject:
    """A model file, with the manifest of its bundle where it came from one."""

    artifact: Artifact
    manifest: Manifest | None


def open_subject(path: Path) -> Subject:
    """Open a bundle folder, a build's output folder, or a .tflite file."""
    from edgekit.backends.tflite.backend import open_file

    if path.is_dir():
        from edgekit.bundle import load_manifest

        folder = next((f for f in (path, path / "bundle") if (f / "manifest.json").exists()), None)
        if folder is None:
            raise UserError(
                f"{path} is no bundle: it has no manifest.json", hint="name a folder made by edgekit build"
            )
        manifest = load_manifest(folder)
        artifact = open_file(manifest.model_path)
        return Subject(replace(artifact, inputs=manifest.inputs, outputs=manifest.outputs), manifest)
    if path.suffix != ".tflite":
        raise Unsupported(
            f"{path.name} is not a .tflite file or a bundle", hint="give a bundle folder or a .tflite file"
        )
    return Subject(open_file(path), None)


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
    """Arrays as the file stores them: the first golden sample, else seeded random values."""
    import numpy as np

    if manifest is not None:
        from edgekit.bundle import golden_samples

        return golden_samples(manifest)[0].inputs
    rng = np.random.default_rng(0)
    return tuple(
        rng.integers(-128, 128, t.shape).astype(t.dtype)
        if t.dtype == "int8"
        else rng.standard_normal(t.shape).astype(t.dtype)
        for t in artifact.inputs
    )
