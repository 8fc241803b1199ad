"""Running steps once: keys, cache, locks, times and events."""

from __future__ import annotations

import functools
import hashlib
import io
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import edgekit
from edgekit.store import Store, digest_json
from edgekit.types import Artifact, Emit, Event, TensorSpec, to_json

if TYPE_CHECKING:
    from edgekit.types import Array


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A finished step: its JSON result, whether it came from the cache, and what it cost this time."""

    name: str
    result: Mapping[str, Any]
    cached: bool
    seconds: float
    peak_rss_bytes: int


@dataclass
class Runner:
    """Runs the steps of one build against one store."""

    store: Store
    emit: Emit
    seed: int
    label: str = ""
    """Stands before the names of steps in events, where several targets are built in one go."""
    outcomes: list[Outcome] = field(default_factory=list)

    def labelled(self, label: str) -> Runner:
        """A runner over the same store that has run nothing yet."""
        return Runner(self.store, self.emit, self.seed, label)

    def shown(self, name: str) -> str:
        """The name of a step as events have it."""
        return f"{self.label}: {name}" if self.label else name

    def run(
        self,
        name: str,
        inputs: Mapping[str, Any],
        work: Callable[[], dict[str, Any]],
        *,
        label: str = "",
    ) -> Mapping[str, Any]:
        """The result of ``work``, from the cache when a step with equal ``inputs`` has finished before.

        ``inputs`` is JSON data that holds everything the result depends on: digests, configuration, tool
        versions. edgekit's own source and the seed are added. ``work`` returns JSON data; the sha256 of
        stored files that belong to it go into its "objects". An exception stores nothing. ``label`` is the
        step's name in events and reports, where one kind of step runs several times.
        """
        key = self._key(name, inputs)
        label = label or name
        self.emit(Event(kind="step_started", step=self.shown(label)))
        start = time.perf_counter()
        result = self.store.load_step(key)
        cached = result is not None
        if result is None:
            with self.store.lock(key):
                result = self.store.load_step(key)
                cached = result is not None
                if result is None:
                    result = work()
                    self.store.save_step(key, result)
        outcome = Outcome(
            name=label,
            result=result,
            cached=cached,
            seconds=time.perf_counter() - start,
            peak_rss_bytes=peak_rss(),
        )
        self.outcomes.append(outcome)
        data = {"seconds": outcome.seconds, "cached": cached}
        self.emit(Event(kind="step_finished", step=self.shown(label), data=data))
        return result

    def knows(self, name: str, inputs: Mapping[str, Any]) -> bool:
        """Whether :meth:`run` would find the step's result in the cache."""
        return self.store.load_step(self._key(name, inputs)) is not None

    def _key(self, name: str, inputs: Mapping[str, Any]) -> str:
        return digest_json(
            {"step": name, "edgekit": source_digest(), "seed": self.seed, "inputs": to_json(inputs)}
        )

    def put_arrays(self, arrays: Sequence[Array]) -> str:
        """Store arrays as one .npz; returns its sha256. Equal arrays give equal bytes."""
        buffer = io.BytesIO()
        np.savez(buffer, *arrays)
        return self.store.put_bytes(buffer.getvalue())

    def get_arrays(self, sha256: str) -> list[Array]:
        """The arrays of :meth:`put_arrays`, in their order."""
        with np.load(self.store.get(sha256), allow_pickle=False) as z:
            return [z[f"arr_{i}"] for i in range(len(z.files))]


def peak_rss() -> int:
    """Highest resident memory so far of this process or of the largest child process, in bytes."""
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return int(max(own, children)) * 1024


@functools.cache
def source_digest() -> str:
    """Digest of edgekit's own Python, C and data files: a changed edgekit does not read old results."""
    root = Path(edgekit.__file__).parent
    h = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        if path.suffix in (".py", ".c", ".h", ".json", ".safetensors") and "report" not in path.parts:
            h.update(str(path.relative_to(root)).encode())
            h.update(path.read_bytes())
    return h.hexdigest()


def artifact_to_json(artifact: Artifact) -> dict[str, Any]:
    """JSON form without the path, which depends on where the store lies."""
    data: dict[str, Any] = to_json(artifact)
    del data["path"]
    return data


def artifact_from_json(data: Mapping[str, Any], store: Store) -> Artifact:
    """The reverse of :func:`artifact_to_json`."""
    fields = dict(data)
    for side in ("inputs", "outputs"):
        fields[side] = tuple(TensorSpec(**{**t, "shape": tuple(t["shape"])}) for t in fields[side])
    return Artifact(path=store.get(fields["sha256"]), **fields)
