"""Running a .tflite file on the host with LiteRT, in the source model's own layout."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.backends.tflite.flatbuffer import Graph, read_graph, unit_names
from edgekit.errors import StepFailed
from edgekit.types import Artifact, TensorSpec

if TYPE_CHECKING:
    from edgekit.types import Array

CHANNELS_LAST = {3: (0, 2, 1), 4: (0, 2, 3, 1), 5: (0, 2, 3, 4, 1)}
"""Axes that turn a channels-first tensor into a channels-last one, by rank."""


def to_channels_last(x: Array) -> Array:
    """NCHW to NHWC (any rank from 3 to 5); other ranks are returned as they are."""
    return np.ascontiguousarray(x.transpose(CHANNELS_LAST[x.ndim])) if x.ndim in CHANNELS_LAST else x


def to_channels_first(x: Array) -> Array:
    """NHWC to NCHW (any rank from 3 to 5); other ranks are returned as they are."""
    if x.ndim not in CHANNELS_LAST:
        return x
    return np.ascontiguousarray(x.transpose((0, x.ndim - 1, *range(1, x.ndim - 1))))


def make_interpreter(path: Path, *, keep_all: bool = False, threads: int = 2) -> Any:
    """A LiteRT interpreter with its tensors allocated.

    With ``keep_all`` every intermediate tensor stays readable; that needs the plain kernels instead of
    XNNPACK, which runs whole subgraphs without storing what lies between.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    resolver = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES if keep_all else OpResolverType.AUTO
    try:
        with warnings.catch_warnings(), _without_info_lines():
            warnings.filterwarnings("ignore", message=".*experimental_preserve_all_tensors.*")
            interpreter = Interpreter(
                model_path=str(path),
                num_threads=threads,
                experimental_preserve_all_tensors=keep_all,
                experimental_op_resolver_type=resolver,
            )
            interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as exc:
        raise StepFailed(f"LiteRT cannot load {path.name}: {exc}") from exc
    return interpreter


_stderr_lock = threading.Lock()


@contextlib.contextmanager
def _without_info_lines() -> Iterator[None]:
    """LiteRT announces each delegate on file descriptor 2, in the middle of progress bars; no option or
    variable silences it. What it says besides INFO lines is passed on."""
    with _stderr_lock, tempfile.TemporaryFile() as kept:
        saved = os.dup(2)
        os.dup2(kept.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            kept.seek(0)
            for line in kept.readlines():
                if not line.startswith(b"INFO:"):
                    os.write(saved, line)
            os.close(saved)


@dataclass(frozen=True)
class _Tap:
    index: int
    scale: Array
    zero_point: Array


class TFLiteSession:
    """A loaded artifact. Takes and returns float arrays in the source model's layout, batch 1."""

    def __init__(self, artifact: Artifact, *, keep_all: bool = False) -> None:
        self.artifact = artifact
        self._interpreter = make_interpreter(artifact.path, keep_all=keep_all)
        signature = next(iter(self._interpreter.get_signature_list()))
        runner = self._interpreter.get_signature_runner(signature)
        self._inputs = [runner.get_input_details()[n] for n in artifact.meta["input_names"]]
        self._outputs = [runner.get_output_details()[n] for n in artifact.meta["output_names"]]
        self._keep_all = keep_all
        self._taps: dict[str, _Tap] | None = None

    def encode(self, inputs: Sequence[Array]) -> list[Array]:
        """The artifact's own input arrays: its layout, and its integer type where it has one."""
        return [encode(x, spec) for x, spec in zip(inputs, self.artifact.inputs, strict=True)]

    def decode(self, outputs: Sequence[Array]) -> list[Array]:
        """Source-layout float arrays from the artifact's own output arrays."""
        return [decode(y, spec) for y, spec in zip(outputs, self.artifact.outputs, strict=True)]

    def run_raw(self, inputs: Sequence[Array]) -> list[Array]:
        """One inference on the artifact's own arrays (see :meth:`encode`)."""
        for detail, value in zip(self._inputs, inputs, strict=True):
            self._interpreter.set_tensor(detail["index"], value)
        try:
            self._interpreter.invoke()
        except RuntimeError as exc:
            raise StepFailed(f"LiteRT failed to run {self.artifact.path.name}: {exc}") from exc
        return [self._interpreter.get_tensor(d["index"]) for d in self._outputs]

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """One inference: float arrays in source layout in and out."""
        return self.decode(self.run_raw(self.encode(inputs)))

    def taps(self, inputs: Sequence[Array], units: Sequence[str]) -> dict[str, Array]:
        """Values of the named units' outputs (float, artifact layout). Needs ``keep_all``."""
        if not self._keep_all:
            raise ValueError("taps need a session with keep_all=True")
        self.run_raw(self.encode(inputs))
        return {name: self.read(name) for name in units}

    def read(self, unit: str) -> Array:
        """The last run's output of one unit, dequantised."""
        if self._taps is None:
            self._taps = _taps_of(read_graph(self.artifact.path))
        tap = self._taps[unit]
        value = self._interpreter.get_tensor(tap.index)
        if tap.scale.size == 0:
            return np.asarray(value, dtype=np.float32)
        return np.asarray((value.astype(np.float32) - tap.zero_point) * tap.scale, dtype=np.float32)


def _taps_of(graph: Graph) -> dict[str, _Tap]:
    taps = {}
    for index, name in unit_names(graph).items():
        t = graph.tensors[graph.ops[index].outputs[0]]
        taps[name] = _Tap(t.index, np.asarray(t.scale, np.float32), np.asarray(t.zero_point, np.float32))
    return taps


def encode(x: Array, spec: TensorSpec) -> Array:
    """One source-layout array in the artifact's layout and dtype. Quantises with rounding to nearest."""
    x = np.asarray(x)
    if spec.layout in ("NHWC", "NWC", "NDHWC"):
        x = to_channels_last(x)
    if spec.scale is not None and np.issubdtype(np.dtype(spec.dtype), np.integer):
        info = np.iinfo(spec.dtype)
        q = np.rint(x / np.float32(spec.scale)) + (spec.zero_point or 0)
        x = np.clip(q, info.min, info.max)
    return np.ascontiguousarray(x, dtype=spec.dtype)


def decode(y: Array, spec: TensorSpec) -> Array:
    """The reverse of :func:`encode`, to float32 where the artifact stores integers with a scale."""
    if spec.scale is not None and np.issubdtype(y.dtype, np.integer):
        y = np.asarray(
            (y.astype(np.float32) - (spec.zero_point or 0)) * np.float32(spec.scale), dtype=np.float32
        )
    return to_channels_first(y) if spec.layout in ("NHWC", "NWC", "NDHWC") else y
