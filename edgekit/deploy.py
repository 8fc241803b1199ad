"""A bundle on a device: push it, check it there, run its golden samples, keep it or leave nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.bench import bench
from edgekit.bench.jetson import SCRIPT, Engines, run_scripts
from edgekit.bundle import Manifest, SampleResult, verify_bundle
from edgekit.devices.remote import RemoteLink
from edgekit.errors import DeviceError, Unsupported
from edgekit.types import RunProtocol

if TYPE_CHECKING:
    from edgekit.backends import Backend
    from edgekit.devices import Link
    from edgekit.store import Store
    from edgekit.types import Array, Artifact

_FOLDER = "bundle"
_ONCE = RunProtocol(warmup=0, runs=1, threads=1)


@dataclass(frozen=True, kw_only=True)
class Deployed:
    """What came of it. ``kept`` is the bundle's folder on the device, None when nothing was left there.

    ``stand_in`` is the program that answered there in place of a runtime, when it says that it is none.
    """

    files: int
    bytes: int
    results: tuple[SampleResult, ...]
    kept: str | None
    stand_in: str | None = None

    @property
    def passed(self) -> bool:
        return all(result.passed for result in self.results)


def infer_on(
    link: Link, backend: Backend, artifact: Artifact, store: Store
) -> Callable[[Sequence[Array]], Sequence[Array]]:
    """A function that runs a file there once: from its inputs to its outputs, as the file stores them."""
    facts = link.facts()

    def infer(inputs: Sequence[Array]) -> Sequence[Array]:
        done = bench(backend, artifact, inputs, link, store=store, protocol=_ONCE, facts=facts)
        return done.outputs

    return infer


def verify_on(
    link: Link, manifest: Manifest, backend: Backend, artifact: Artifact, store: Store
) -> tuple[SampleResult, ...]:
    """Run a bundle's golden samples there and compare. Raises DeviceError when the file does not run."""
    with link.exclusive():
        return verify_bundle(manifest, infer_on(link, backend, artifact, store))


def deploy(
    link: Link, manifest: Manifest, backend: Backend, artifact: Artifact, store: Store, *, keep: bool
) -> Deployed:
    """Push all of a bundle, compare every file's hash there, and run the golden samples there.

    A bundle for TensorRT builds its engines there, and the chosen one is checked. With ``keep`` a bundle that
    passes stays on the device, in place of an older one of its name; else nothing is left, and never is when
    a sample differs. Raises DeviceError when a file does not arrive or the model does not run, Unsupported
    for ``keep`` on what is no device.
    """
    if keep and not isinstance(link, RemoteLink):
        raise Unsupported(
            f"{link.name} is no device to keep a bundle on",
            hint="the bundle's folder is on this machine already; leave --keep out",
        )
    files = bundle_files(manifest.root)
    stand_in = None
    with link.workspace() as space:
        space.push({f"{_FOLDER}/{name}": path for name, path in files.items()})
        if SCRIPT in files:
            engines = run_scripts(space, _FOLDER, link, store=store)
            results, stand_in = _engine_results(engines), engines.stand_in
        else:
            results = verify_bundle(manifest, infer_on(link, backend, artifact, store))
        kept = None
        if keep and all(result.passed for result in results):
            name = f"{manifest.name}-{manifest.profile}"
            kept = link.keep(space, _FOLDER, name)  # type: ignore[attr-defined]
    total = sum(path.stat().st_size for path in files.values())
    return Deployed(files=len(files), bytes=total, results=results, kept=kept, stand_in=stand_in)


def _engine_results(engines: Engines) -> tuple[SampleResult, ...]:
    """The golden samples of the chosen engine, as its own checking program compared them on the device."""
    name = engines.chosen["chosen"]
    golden = json.loads(engines.files[f"results/{name}/golden.json"])
    rows, count = golden["outputs"], golden["samples"]
    per_sample = len(rows) // count
    parts = [rows[i * per_sample : (i + 1) * per_sample] for i in range(count)]
    return tuple(
        SampleResult(
            index=i,
            max_abs=max(float("inf") if r["max_abs"] is None else r["max_abs"] for r in part),
            mismatched=sum(0 if r["passed"] else r["out_of_tolerance"] for r in part),
            elements=sum(r["elements"] for r in part),
        )
        for i, part in enumerate(parts)
    )


def bundle_files(root: Path) -> dict[str, Path]:
    """All files of a bundle by their names in it. Raises DeviceError for a link to elsewhere."""
    found = {}
    for path in sorted(root.rglob("*")):
        if path.is_symlink():
            raise DeviceError(f"{path} is a link: a bundle holds its files itself", hint="build it again")
        if path.is_file() and "__pycache__" not in path.parts:
            found[path.relative_to(root).as_posix()] = path
    return found


def results_data(results: Sequence[SampleResult]) -> list[dict[str, Any]]:
    """Plain JSON data of compared samples."""
    return [
        {"index": r.index, "max_abs": r.max_abs, "mismatched": r.mismatched, "passed": r.passed}
        for r in results
    ]
