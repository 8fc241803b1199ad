"""A data set in memory, and how it is put together from samples."""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from edgekit.errors import DataError
from edgekit.types import Preprocessing

if TYPE_CHECKING:
    from numpy.typing import NDArray

Role = Literal["calib", "eval", "train"]
_AS_GIVEN = Preprocessing()


@dataclass(frozen=True, kw_only=True, eq=False)
class Data:
    """Samples of one role, in the source model's own layout.

    ``inputs`` has one array (n, ...) per model input: float32, or the integers that were given.
    ``labels`` is int64 (n,) or None. ``ids`` are 16-byte digests of each sample's inputs (label left
    out), ``sha256`` the digest of all samples and labels in order. ``classes`` are names of the
    label values where the source knows them. ``notes`` say what was dropped or converted.
    """

    role: Role
    inputs: tuple[NDArray[Any], ...]
    labels: NDArray[np.int64] | None
    source: str
    sha256: str
    ids: tuple[bytes, ...]
    classes: tuple[str, ...] = ()
    preprocessing: Preprocessing = _AS_GIVEN
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, indices: Sequence[int], *, role: Role | None = None) -> Data:
        """The samples at ``indices``, in that order, for the same or another role."""
        rows = np.asarray(indices, dtype=np.int64)
        inputs = tuple(array[rows] for array in self.inputs)
        labels = None if self.labels is None else self.labels[rows]
        ids = tuple(self.ids[i] for i in rows)
        return replace(
            self, role=role or self.role, inputs=inputs, labels=labels, ids=ids, sha256=_digest(ids, labels)
        )

    def summary(self) -> dict[str, Any]:
        """JSON data for the report: source, size, shapes, range, digest."""
        return {
            "source": self.source,
            "n": len(self),
            "sha256": self.sha256,
            "labelled": self.labels is not None,
            "inputs": [
                {
                    "shape": list(a.shape[1:]),
                    "dtype": a.dtype.name,
                    "min": float(a.min()) if a.size else None,
                    "max": float(a.max()) if a.size else None,
                }
                for a in self.inputs
            ],
        }


def make_data(
    role: Role,
    inputs: Sequence[NDArray[Any]],
    labels: NDArray[Any] | None,
    *,
    source: str,
    classes: tuple[str, ...] = (),
    preprocessing: Preprocessing | None = None,
    notes: tuple[str, ...] = (),
) -> Data:
    """Build Data from stacked arrays: float64 and float16 become float32, labels int64; digests are taken.

    Raises DataError when there is no sample, arrays differ in length, or a dtype cannot be used.
    """
    if not inputs or len(inputs[0]) == 0:
        raise DataError(
            f"{source} holds no samples", hint="check the path or the callable that makes the data"
        )
    converted = tuple(_usable(array, source) for array in inputs)
    n = len(converted[0])
    if any(len(array) != n for array in converted):
        raise DataError(f"{source}: inputs differ in length: {[len(a) for a in converted]}")
    y = None if labels is None else np.ascontiguousarray(labels, dtype=np.int64)
    if y is not None and y.shape != (n,):
        raise DataError(f"{source}: {n} samples but labels of shape {y.shape}", hint="one integer per sample")
    heads = [f"{a.dtype}{a.shape[1:]}".encode() for a in converted]
    ids = tuple(_sample_id(heads, [a[i] for a in converted]) for i in range(n))
    return Data(
        role=role,
        inputs=converted,
        labels=y,
        source=source,
        sha256=_digest(ids, y),
        ids=ids,
        classes=classes,
        preprocessing=preprocessing or Preprocessing(),
        notes=notes,
    )


def with_dtypes(data: Data, dtypes: Sequence[str]) -> Data:
    """``data`` with integer inputs in the integer types that a model takes, one per input.

    Floats and what does not fit are left for :func:`edgekit.sources.checks.check_data` to refuse. Raises
    DataError when a value is outside of the type's range.
    """
    if len(dtypes) != len(data.inputs):
        return data
    inputs = []
    for array, name in zip(data.inputs, dtypes, strict=True):
        wanted = np.dtype(name)
        if array.dtype.kind in "iu" and wanted.kind in "iu" and array.dtype != wanted:
            info = np.iinfo(wanted)
            if int(array.min()) < info.min or int(array.max()) > info.max:
                raise DataError(
                    f"values of {data.source} span {array.min()}..{array.max()}, which {name} cannot hold"
                )
            array = array.astype(wanted)
        inputs.append(array)
    return replace(data, inputs=tuple(inputs))


def spread(n: int, limit: int | None, *, seed: int = 0) -> list[int]:
    """Indices of a subset: all when ``limit`` is None or not less than ``n``, else stratified.

    The range is cut in ``limit`` bins of equal width and one index is drawn from each, so a set that
    is sorted by class gives all its classes. Same arguments, same indices.
    """
    if limit is None or limit >= n:
        return list(range(n))
    rng = random.Random(seed)
    edges = [i * n // limit for i in range(limit + 1)]
    return [lo + int(rng.random() * (hi - lo)) for lo, hi in itertools.pairwise(edges)]


def _usable(array: NDArray[Any], source: str) -> NDArray[Any]:
    if array.dtype.kind == "f":
        return np.ascontiguousarray(array, dtype=np.float32)
    if array.dtype.kind in "iu":
        return np.ascontiguousarray(array)
    if array.dtype.kind == "b":
        return np.ascontiguousarray(array, dtype=np.uint8)
    raise DataError(f"samples of {source} have dtype {array.dtype}", hint="give float32 or integer arrays")


def _sample_id(heads: Sequence[bytes], arrays: Sequence[NDArray[Any]]) -> bytes:
    h = hashlib.sha256()
    for head, array in zip(heads, arrays, strict=True):
        h.update(head)
        h.update(np.ascontiguousarray(array).data)
    return h.digest()[:16]


def _digest(ids: Sequence[bytes], labels: NDArray[np.int64] | None) -> str:
    h = hashlib.sha256(b"".join(ids))
    if labels is not None:
        h.update(labels.tobytes())
    return h.hexdigest()
