"""``.onnx`` models: signature, parameters, finite weights, and one run with ONNX Runtime."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.errors import SourceError
from edgekit.store import digest_file
from edgekit.types import TensorSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FLOATS = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64"}
_INTS = {"tensor(int64)": "int64", "tensor(int32)": "int32", "tensor(uint8)": "uint8", "tensor(int8)": "int8"}


@dataclass(frozen=True, kw_only=True)
class OnnxModel:
    """An ONNX file that loads and runs. ``outputs`` are specs seen on a real run."""

    path: Path
    sha256: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    params: int


class OnnxFile:
    """An opened ONNX file, before its input shapes are settled."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise SourceError(
                f"no such file: {path}", hint="check the path; it is relative to the current folder"
            )
        import onnx
        import onnxruntime as ort

        self.path = path
        try:
            self._proto = onnx.load(str(path))
            options = ort.SessionOptions()
            options.log_severity_level = 3
            self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as exc:
            raise SourceError(
                f"{path} is not an ONNX model that loads: {_short(exc)}",
                hint="export it again, and check it with onnx.checker.check_model",
            ) from exc

    @property
    def static_shapes(self) -> tuple[tuple[int, ...], ...] | None:
        """Shapes of the inputs with a symbolic batch read as 1, or None when another axis is free."""
        found = []
        for value in self._session.get_inputs():
            axes = [1 if i == 0 and not isinstance(d, int) else d for i, d in enumerate(value.shape)]
            if any(not isinstance(d, int) or d < 1 for d in axes):
                return None
            found.append(tuple(axes))
        return tuple(found)

    @property
    def signature(self) -> tuple[TensorSpec, ...] | None:
        """The inputs, with a symbolic batch read as 1; None when another axis is free."""
        shapes = self.static_shapes
        if shapes is None:
            return None
        names = [v.name for v in self._session.get_inputs()]
        return tuple(
            TensorSpec(name=n, shape=s, dtype=d) for n, s, d in zip(names, shapes, self.dtypes, strict=True)
        )

    @property
    def dtypes(self) -> tuple[str, ...]:
        """numpy names of the inputs' types. Raises SourceError for one that edgekit cannot feed."""
        known = {**_FLOATS, **_INTS}
        for value in self._session.get_inputs():
            if value.type not in known:
                raise SourceError(
                    f"input {value.name!r} of {self.path} is {value.type}", hint="use float32 inputs"
                )
        return tuple(known[value.type] for value in self._session.get_inputs())

    def run(self, inputs: Sequence[NDArray[Any]]) -> OnnxModel:
        """Run once and settle the signature. Raises SourceError as a torch model would."""
        wanted = self._session.get_inputs()
        if len(wanted) != len(inputs):
            raise SourceError(
                f"{self.path} takes {len(wanted)} inputs ({', '.join(v.name for v in wanted)}), "
                f"{len(inputs)} given",
                hint="give --input-shape once for each input",
            )
        feeds = {v.name: np.asarray(a, d) for v, a, d in zip(wanted, inputs, self.dtypes, strict=True)}
        try:
            results = self._session.run(None, feeds)
        except Exception as exc:
            shapes = ", ".join(str(a.shape) for a in inputs)
            raise SourceError(
                f"running {self.path} failed with inputs of shape {shapes}: {_short(exc)}",
                hint="check --input-shape against what the model takes",
            ) from exc
        self._check_weights()
        outputs = []
        for value, result in zip(self._session.get_outputs(), results, strict=True):
            array = np.asarray(result)
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise SourceError(
                    f"output {value.name!r} of {self.path} holds NaN or infinite values",
                    hint="run the model on one sample in float32 and look for overflow, log(0) or 0/0",
                )
            outputs.append(_spec(value.name, array))
        return OnnxModel(
            path=self.path,
            sha256=self._digest(),
            inputs=tuple(_spec(name, array) for name, array in feeds.items()),
            outputs=tuple(outputs),
            params=sum(int(np.prod(t.dims, dtype=np.int64)) for t in self._proto.graph.initializer),
        )

    def _check_weights(self) -> None:
        from onnx import numpy_helper

        for tensor in self._proto.graph.initializer:
            values = numpy_helper.to_array(tensor, base_dir=str(self.path.parent))
            if values.dtype.kind == "f" and np.isnan(values).any():
                raise SourceError(
                    f"initializer {tensor.name!r} of {self.path} holds NaN values",
                    hint="load other weights: nothing downstream can mend these",
                )

    def _digest(self) -> str:
        """Digest of the file and of the files that hold its external tensors."""
        import onnx

        shallow = onnx.load(str(self.path), load_external_data=False)
        beside = {
            entry.value
            for t in shallow.graph.initializer
            for entry in t.external_data
            if entry.key == "location"
        }
        digests = [digest_file(self.path), *(digest_file(self.path.parent / name) for name in sorted(beside))]
        return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _spec(name: str, array: NDArray[Any]) -> TensorSpec:
    layout = "NCHW" if array.ndim == 4 else None
    return TensorSpec(name=name, shape=tuple(array.shape), dtype=array.dtype.name, layout=layout)


def _short(exc: BaseException) -> str:
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    return f"{type(exc).__name__}: {lines[0][:300]}" if lines else type(exc).__name__
