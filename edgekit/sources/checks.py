"""Does this data fit this model? Layout, dtype, finite values, labels, and the range of values.

The range rules (documented because they are heuristics; ``--input-range LO,HI`` replaces all of them
by one hard check):

* no sample below 0, some above 32: the values look like raw 0..255 pixels. Few models take those, and
  calibrating on them ruins the activation ranges of one that does not: a warning.
* calibration data that spans over 4x more or less than the evaluation or training data (largest
  absolute value): the two were not preprocessed alike: an error.
* one of the two has negative values and the other has none: a warning.
"""

from __future__ import annotations

from itertools import permutations
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.errors import DataError
from edgekit.sources.arrays import Data
from edgekit.types import ModelSpec, TensorSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

RAW_PIXEL_LIMIT = 32.0
RANGE_RATIO_LIMIT = 4.0
_SIGN_SHARE = 0.05


def check_data(
    data: Data,
    spec: ModelSpec,
    *,
    reference: Data | None = None,
    input_range: tuple[float, float] | None = None,
) -> list[str]:
    """Check ``data`` against the model, and its range against ``reference`` (data of another role).

    Returns warnings, one sentence each, ``data.notes`` first. Raises DataError for what cannot be
    right: wrong shape, layout or dtype, NaN, labels that are missing for evaluation of a classifier
    or outside of its classes, values outside of a declared ``input_range``.
    """
    if len(data.inputs) != len(spec.inputs):
        raise DataError(
            f"samples of {data.source} have {len(data.inputs)} inputs, "
            f"but {spec.name} takes {len(spec.inputs)}",
            hint="give (x, y) with x a tuple of one array per input",
        )
    for array, wanted in zip(data.inputs, spec.inputs, strict=True):
        _check_shape(data, array, wanted)
        _check_dtype(data, array, wanted)
        _check_finite(data, array, wanted)
    _check_labels(data, spec)
    warnings = list(data.notes)
    if input_range is not None:
        _check_declared_range(data, input_range)
        return warnings
    for i, array in enumerate(data.inputs):
        if array.dtype.kind == "f":
            warnings += _range_warnings(data, array)
            if reference is not None and len(reference.inputs) == len(data.inputs):
                warnings += _compare_ranges(data, array, reference, reference.inputs[i])
    return warnings


def _check_shape(data: Data, array: NDArray[Any], wanted: TensorSpec) -> None:
    given, needed = array.shape[1:], wanted.shape[1:]
    if given == needed:
        return
    what = f"samples of {data.source} are {given} but the model takes {needed}"
    if len(given) == len(needed) == 3 and (given[2], given[0], given[1]) == needed:
        raise DataError(
            f"{what}: that is channels-last", hint="transpose each sample with x.permute(2, 0, 1)"
        )
    if len(given) == len(needed) + 1 and given[1:] == needed:
        raise DataError(
            f"{what}: each sample has a batch axis", hint="give single samples, without batch axis"
        )
    if len(given) == len(needed) - 1 and needed[0] == 1 and given == needed[1:]:
        raise DataError(f"{what}: the channel axis is missing", hint="add it with x.unsqueeze(0)")
    if len(given) == len(needed) and sorted(given) == sorted(needed):
        order = next(p for p in permutations(range(len(given))) if tuple(given[i] for i in p) == needed)
        raise DataError(f"{what}: the axes are in another order", hint=f"transpose with x.permute{order}")
    raise DataError(what, hint="make the dataset give what the model takes, or set --input-shape")


def _check_dtype(data: Data, array: NDArray[Any], wanted: TensorSpec) -> None:
    needs_float = "float" in wanted.dtype
    if needs_float and array.dtype.kind != "f":
        raise DataError(
            f"samples of {data.source} are {array.dtype.name} but input {wanted.name!r} takes {wanted.dtype}",
            hint="convert with x.float(), and scale as in training (for images often x / 255)",
        )
    if not needs_float and array.dtype.kind == "f":
        raise DataError(
            f"samples of {data.source} are {array.dtype.name} but input {wanted.name!r} takes {wanted.dtype}",
            hint=f"convert to {wanted.dtype}",
        )


def _check_finite(data: Data, array: NDArray[Any], wanted: TensorSpec) -> None:
    if array.dtype.kind != "f":
        return
    good = np.isfinite(array.reshape(len(array), -1)).all(axis=1)
    if not good.all():
        first = int(np.argmin(good))
        raise DataError(
            f"{int((~good).sum())} of {len(data)} samples of {data.source} hold NaN or infinite values "
            f"in input {wanted.name!r}; the first is sample {first}",
            hint="remove these samples or mend the preprocessing",
        )


def _check_labels(data: Data, spec: ModelSpec) -> None:
    if spec.task != "classification":
        return
    if data.labels is None:
        if data.role == "eval":
            why = "; ".join(n for n in data.notes if "label" in n)
            raise DataError(
                f"evaluation data {data.source} has no labels, and accuracy needs them"
                + (f" ({why})" if why else ""),
                hint="give (x, y) with y the class index, or leave --eval away",
            )
        return
    classes = spec.outputs[0].shape[-1]
    outside = (data.labels < 0) | (data.labels >= classes)
    if outside.any():
        first = int(np.argmax(outside))
        raise DataError(
            f"label {int(data.labels[first])} of sample {first} of {data.source} is outside "
            f"0..{classes - 1}, the model's {classes} classes ({int(outside.sum())} such labels)",
            hint="labels count from 0; check for a shifted or 1-based class index",
        )


def _check_declared_range(data: Data, input_range: tuple[float, float]) -> None:
    low, high = input_range
    slack = 1e-3 * (high - low)
    for array in data.inputs:
        if array.dtype.kind != "f":
            continue
        seen = float(array.min()), float(array.max())
        if seen[0] < low - slack or seen[1] > high + slack:
            raise DataError(
                f"values of {data.source} span {_range(seen)}, "
                f"outside the declared input range {_range(input_range)}",
                hint="mend the preprocessing of this data, or --input-range",
            )


def _range_warnings(data: Data, array: NDArray[Any]) -> list[str]:
    low, high = float(array.min()), float(array.max())
    if low == high:
        return [f"all values of {data.source} ({data.role}) are {low:g}: this cannot be real data"]
    if low >= 0 and high > RAW_PIXEL_LIMIT:
        return [
            f"values of {data.source} ({data.role}) span {_range((low, high))}: they look like "
            "raw 0..255 pixels, but most models expect normalised inputs (0..1, -1..1, or mean/std); "
            "if the model does take these, say so with --input-range 0,255"
        ]
    return []


def _compare_ranges(data: Data, array: NDArray[Any], reference: Data, other: NDArray[Any]) -> list[str]:
    mine, theirs = (float(array.min()), float(array.max())), (float(other.min()), float(other.max()))
    size, reference_size = max(map(abs, mine)), max(map(abs, theirs))
    both = (
        f"values of {data.source} ({data.role}) span {_range(mine)}, "
        f"those of {reference.source} ({reference.role}) {_range(theirs)}"
    )
    if (
        min(size, reference_size) == 0
        or max(size, reference_size) / min(size, reference_size) > RANGE_RATIO_LIMIT
    ):
        raise DataError(
            f"{both}: they were not preprocessed alike",
            hint="use one preprocessing for all data, or declare --input-range LO,HI if both are right",
        )
    # Raw and normalised images differ in sign where they do not differ in size.
    if (mine[0] < -_SIGN_SHARE * size) != (theirs[0] < -_SIGN_SHARE * reference_size):
        return [f"{both}: one has negative values and the other has none; was one of them not normalised?"]
    return []


def _range(pair: tuple[float, float]) -> str:
    return f"{pair[0]:.4g}..{pair[1]:.4g}"
