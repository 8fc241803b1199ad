"""Load calibration, evaluation and training data from what the user names.

file.py:callable / package.module:callable   Dataset, list, generator, DataLoader or (X, Y) arrays
folder                                       images, one subfolder per class
data.npz                                     x (or x0, x1, ...) and y
digits                                       the built-in demo's data, a disjoint part per role
"""

from __future__ import annotations

from pathlib import Path

from edgekit.errors import DataError
from edgekit.sources.arrays import Data, Role, make_data, spread
from edgekit.sources.callables import is_callable_spec, resolve
from edgekit.types import Preprocessing

__all__ = ["BUILT_IN", "Data", "Role", "load_data"]

BUILT_IN = "digits"


def load_data(
    spec: str,
    *,
    role: Role,
    limit: int | None = None,
    input_count: int = 1,
    preprocessing: Preprocessing | None = None,
    image_size: tuple[int, int] | None = None,
) -> Data:
    """Read a data set into memory.

    ``limit`` takes a fixed, evenly spread subset (a map-style dataset is asked for these samples
    only). ``input_count`` is the model's number of inputs, needed to read samples that are tuples.
    ``preprocessing`` and ``image_size`` (H, W) apply to image folders, the only raw images here;
    everything else is taken as already preprocessed.

    Raises DataError when there is nothing of that name, nothing in it, or its code fails.
    """
    if limit is not None and limit < 1:
        raise DataError(f"cannot take {limit} samples of {spec}", hint="ask for at least 1")
    if spec == BUILT_IN:
        return _digits(role, limit)
    if is_callable_spec(spec):
        entry = resolve(spec, error=DataError)
        from edgekit.sources.samples import read_entry

        return read_entry(entry, source=spec, role=role, limit=limit, input_count=input_count)
    path = Path(spec)
    from edgekit.sources.files import read_image_folder, read_npz

    if path.is_dir():
        return read_image_folder(
            path, role=role, limit=limit, preprocessing=preprocessing, image_size=image_size
        )
    if path.suffix == ".npz" and path.is_file():
        return read_npz(path, role=role, limit=limit)
    if path.exists():
        raise DataError(
            f"cannot tell what kind of data {spec!r} is",
            hint="give file.py:callable, a folder of images by class, an .npz file, or digits",
        )
    raise DataError(f"no such data: {spec}", hint="check the path; it is relative to the current folder")


def _digits(role: Role, limit: int | None) -> Data:
    from edgekit.sources.demo.digits import digits

    images, labels = digits(role)
    chosen = spread(len(images), limit)
    return make_data(
        role,
        [images[chosen]],
        labels[chosen],
        source=BUILT_IN,
        classes=tuple(str(d) for d in range(10)),
        # The data set counts from 0 to 16; a picture's 0 to 255 are the same real values.
        preprocessing=Preprocessing(resize=(8, 8), scale=255.0, channel_order="GRAY"),
    )
