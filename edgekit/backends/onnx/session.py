"""Running an .onnx file on the host with ONNX Runtime's CPU provider."""

from __future__ import annotations

import functools
import os
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.backends.onnx.graph import DEQUANTIZE, QUANTIZE, Graph, graph_of, load, unit_ops
from edgekit.errors import StepFailed
from edgekit.types import Artifact, TensorSpec

if TYPE_CHECKING:
    from edgekit.types import Array

THREADS = 1
"""One thread: sums are added in one order, so that results are the same on every run."""

_CHUNK_BYTES = 256 << 20
"""Intermediate tensors that are held at once while many are read."""


def open_session(model: Path | bytes, *, optimize: bool = True) -> Any:
    """An InferenceSession. Raises StepFailed when ONNX Runtime cannot load the model.

    With ``optimize`` all of ONNX Runtime's graph optimisations run (ORT_ENABLE_ALL, its default, what a
    device runs too): int8 files then compute in integer kernels. Without, every operator runs on its own.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = THREADS
    options.inter_op_num_threads = 1
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL
    if _saturates():
        options.add_session_config_entry("session.x64quantprecision", "1")
    try:
        return onnxruntime.InferenceSession(
            model if isinstance(model, bytes) else str(model), options, providers=["CPUExecutionProvider"]
        )
    except Exception as exc:  # classes of a C++ module, one per status code
        raise StepFailed(f"ONNX Runtime cannot load the file: {_first_line(exc)}") from exc


@functools.cache
def _saturates() -> bool:
    """Whether this is an x86 processor whose product of unsigned and signed bytes saturates: VPMADDUBSW adds
    two of them in 16 bits. With VNNI, and on arm64, they are added in 32 bits. x64quantprecision avoids the
    instruction, at less than half the speed."""
    cpuinfo = Path("/proc/cpuinfo")
    if platform.machine() != "x86_64" or not cpuinfo.exists():
        return False
    flags = next((line for line in cpuinfo.read_text().splitlines() if line.startswith("flags")), "")
    return not {"avx_vnni", "avx512_vnni"} & set(flags.split())


class OnnxSession:
    """A loaded artifact. Takes and returns arrays as the source model does: layouts are the same."""

    def __init__(self, artifact: Artifact, *, keep_all: bool = False) -> None:
        self.artifact = artifact
        self._session = open_session(artifact.path)
        self._taps = Taps(load(artifact.path), artifact) if keep_all else None
        self._outputs = [t.name for t in artifact.outputs]

    def encode(self, inputs: Sequence[Array]) -> list[Array]:
        """The inputs as contiguous arrays of the file's types."""
        return [encode(x, spec) for x, spec in zip(inputs, self.artifact.inputs, strict=True)]

    def run_raw(self, inputs: Sequence[Array]) -> list[Array]:
        """One inference on the file's own arrays."""
        return run(self._session, self.artifact, inputs, self._outputs)

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """One inference."""
        return self.run_raw(self.encode(inputs))

    def taps(self, inputs: Sequence[Array], units: Sequence[str]) -> dict[str, Array]:
        """Real values of the named units' outputs; of an int8 file from the graph as it is, where its
        quantised operators compute in float between their pairs. Needs ``keep_all``."""
        if self._taps is None:
            raise ValueError("taps need a session with keep_all=True")
        return self._taps.read(self.encode(inputs), units)


def encode(x: Array, spec: TensorSpec) -> Array:
    """One source array in the file's type."""
    return np.ascontiguousarray(x, dtype=spec.dtype)


def run(session: Any, artifact: Artifact, inputs: Sequence[Array], outputs: Sequence[str]) -> list[Array]:
    feed = {spec.name: x for spec, x in zip(artifact.inputs, inputs, strict=True)}
    try:
        return [np.asarray(y) for y in session.run(list(outputs), feed)]
    except Exception as exc:
        raise StepFailed(f"ONNX Runtime failed to run the file: {_first_line(exc)}") from exc


class Taps:
    """Reads any tensors of a model, a bounded number of bytes at a time."""

    def __init__(self, proto: Any, artifact: Artifact) -> None:
        self._graph = graph_of(proto)
        self._artifact = artifact
        noted = artifact.meta.get("units")
        if noted is not None:
            self._tensors = {row["name"]: row["tensor"] for row in noted}
            for row in noted:  # shape inference does not know the operators of com.microsoft
                self._graph.shapes.setdefault(row["tensor"], tuple(row["output_shape"]))
                self._graph.dtypes.setdefault(row["tensor"], "float32")
        else:
            self._tensors = {op.name: _stored(self._graph, op.outputs[0]) for op in unit_ops(self._graph)}
        wanted = [t for t in self._tensors.values() if t in self._graph.shapes]
        # In a dynamic file integer kernels compute either way, and only an optimised session keeps them from
        # overflow; in an int8 file optimisation would fuse what is read.
        optimize = artifact.precision == "dynamic"
        self._session = open_session(with_outputs(self._graph, wanted), optimize=optimize)

    def read(self, inputs: Sequence[Array], units: Sequence[str]) -> dict[str, Array]:
        names = [self._tensors[u] for u in units]
        values: dict[str, Array] = {}
        for chunk in chunks(self._graph, list(dict.fromkeys(names))):
            values.update(zip(chunk, run(self._session, self._artifact, inputs, chunk), strict=True))
        return {u: self._plain(u, _real(values[n])) for u, n in zip(units, names, strict=True)}

    def _plain(self, unit: str, value: Array) -> Array:
        """The value as the float model has it (see shift.py and equalize.py)."""
        offset = self._artifact.meta.get("shifted_units", {}).get(unit)
        if offset is not None:
            value = value + np.float32(offset)
        tensor = self._artifact.meta.get("equalized_units", {}).get(unit)
        if tensor is None:
            return value
        factors = np.asarray(self._artifact.meta["channel_factors"][tensor], dtype=np.float32)
        return value / factors.reshape(1, -1, *[1] * (value.ndim - 2))


class Reader:
    """Reads float tensors of an artifact for calibration: called with one sample in source layout.

    With ``graph`` the tensors are those of that model, which has the artifact's inputs.
    """

    def __init__(self, artifact: Artifact, tensors: Sequence[str], graph: Graph | None = None) -> None:
        self._artifact = artifact
        self.tensors = tuple(tensors)
        self._graph = graph or graph_of(load(artifact.path))
        self._inputs = [t for t in tensors if t in self._graph.inputs]
        self._inner = [t for t in tensors if t not in self._graph.inputs]
        self._session = open_session(with_outputs(self._graph, self._inner))

    def __call__(self, sample: Sequence[Array]) -> Iterator[tuple[str, Array]]:
        inputs = [encode(x, spec) for x, spec in zip(sample, self._artifact.inputs, strict=True)]
        given = {spec.name: x for spec, x in zip(self._artifact.inputs, inputs, strict=True)}
        for name in self._inputs:
            yield name, given[name]
        for chunk in chunks(self._graph, self._inner):
            yield from zip(chunk, run(self._session, self._artifact, inputs, chunk), strict=True)


def _stored(graph: Graph, tensor: str) -> str:
    """The dequantised tensor where a result is stored in integers for every reader, else the tensor."""
    readers = graph.consumers.get(tensor, [])
    if tensor in graph.outputs or len(readers) != 1 or readers[0].op != QUANTIZE:
        return tensor
    back = [op for op in graph.consumers.get(readers[0].outputs[0], []) if op.op == DEQUANTIZE]
    return back[0].outputs[0] if back else tensor


def _real(value: Array) -> Array:
    return value.astype(np.float32) if value.dtype == np.float16 else value


def with_outputs(graph: Graph, tensors: Sequence[str]) -> bytes:
    """The model's bytes with further tensors as outputs."""
    import onnx

    proto = onnx.ModelProto()
    proto.CopyFrom(graph.proto)
    have = set(graph.outputs)
    for name in dict.fromkeys(tensors):
        if name not in have and name not in graph.inputs:
            kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(graph.dtypes[name]))
            shape = graph.shapes[name]
            proto.graph.output.append(
                onnx.helper.make_tensor_value_info(name, kind, [d if d >= 0 else None for d in shape])
            )
    return bytes(proto.SerializeToString())


def chunks(graph: Graph, tensors: Sequence[str]) -> Iterator[list[str]]:
    """The tensors in groups of at most ``_CHUNK_BYTES`` (or one tensor, if that alone is larger)."""
    group: list[str] = []
    size = 0
    for name in tensors:
        own = int(np.prod(graph.shapes[name], dtype=np.int64)) * np.dtype(graph.dtypes[name]).itemsize
        if group and size + own > _CHUNK_BYTES:
            yield group
            group, size = [], 0
        group.append(name)
        size += own
    if group:
        yield group


def _first_line(exc: BaseException) -> str:
    return next((line.strip() for line in str(exc).splitlines() if line.strip()), type(exc).__name__)[:300]
