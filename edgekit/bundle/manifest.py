"""manifest.json: its schema, and reading a bundle that may come from anywhere.

The rules for paths and hashes live in ``run.py``, which goes into each bundle and must not need edgekit;
this module gives them edgekit's errors.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.bundle import run
from edgekit.errors import MissingDependency, StepFailed, UserError
from edgekit.jsoncheck import first_problem, load_schema
from edgekit.types import TensorSpec


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A bundle whose manifest fits the schema and whose files are there and unchanged."""

    root: Path
    data: Mapping[str, Any]

    @property
    def name(self) -> str:
        return str(self.data["name"])

    @property
    def profile(self) -> str:
        return str(self.data["profile"])

    @property
    def model_path(self) -> Path:
        """The model file to run."""
        return run.inside(self.root, self.data["models"][0]["path"])

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Inputs as the file stores them."""
        return tuple(_tensor(t) for t in self.data["inputs"])

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Outputs as the file stores them."""
        return tuple(_tensor(t) for t in self.data["outputs"])


def manifest_schema() -> dict[str, Any]:
    """The JSON Schema of manifest.json. Treat it as read-only."""
    return load_schema("edgekit.bundle", "manifest.schema.json")


def load_manifest(path: Path) -> Manifest:
    """Read the bundle at ``path``: its folder or its manifest.json.

    Raises UserError when there is none, it does not fit the schema, lacks a file, or names a file outside
    itself; StepFailed when a file's bytes are not those that the manifest names.
    """
    root = path.parent if path.name == "manifest.json" else path
    with translate_problems(root):
        data = run.read_manifest(root)
        if problem := first_problem(data, manifest_schema()):
            raise UserError(
                f"{root / 'manifest.json'} is not a valid manifest at {problem}",
                hint="build again to renew the bundle",
            )
        for entry in manifest_files(data):
            run.checked(root, dict(entry))
    return Manifest(root=root, data=data)


def manifest_files(data: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Every file that a manifest names, as {path, sha256, ...}."""
    for model in data["models"]:
        yield model
        for sample in model.get("golden", {}).get("samples", ()):
            yield from sample["outputs"]
    yield from data.get("files", ())
    for sample in data["golden"]["samples"]:
        yield from sample["inputs"]
        yield from sample["outputs"]


@contextlib.contextmanager
def translate_problems(root: Path) -> Iterator[None]:
    """The errors of run.py as edgekit's own."""
    try:
        yield
    except run.Damaged as exc:
        raise StepFailed(
            f"the bundle {root} is damaged: {exc}", hint="build again to renew the bundle"
        ) from exc
    except run.Missing as exc:
        raise MissingDependency(exc.what, hint=f"pip install {exc.requirement}") from exc
    except run.Problem as exc:
        raise UserError(
            f"the bundle {root} cannot be used: {exc}", hint="name a folder made by edgekit build"
        ) from exc


def _tensor(data: Mapping[str, Any]) -> TensorSpec:
    return TensorSpec(
        name=data["name"],
        shape=tuple(data["shape"]),
        dtype=data["dtype"],
        layout=data["layout"],
        scale=data["scale"],
        zero_point=data["zero_point"],
    )
