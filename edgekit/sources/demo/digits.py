"""scikit-learn's digits (UCI "Optical Recognition of Handwritten Digits", test part; CC BY 4.0).

1797 images of 8x8 pixels in 0..16, given out as float32 (n, 1, 8, 8) in 0..1. Each class is put in
the order of the samples' sha256 and cut: the first 22 % are for evaluation, the next 11 % for
calibration, the rest for training. The cut depends on nothing but the samples' bytes, so it is the
same on every machine and version, and two equal images could never stand in two parts by chance.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from edgekit.errors import MissingDependency

if TYPE_CHECKING:
    from numpy.typing import NDArray

EVAL_SHARE = 0.22
CALIB_SHARE = 0.11
_SPLIT_SALT = b"edgekit digits 0"


def digits(role: Literal["calib", "eval", "train"]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The part of the digits for one role: images (n, 1, 8, 8) float32 in 0..1 and labels (n,).

    Raises MissingDependency when scikit-learn, whose copy of the data is used, is not installed.
    """
    pixels, labels = _read()
    chosen = np.concatenate([_part(pixels, np.flatnonzero(labels == c), role) for c in range(10)])
    # Classes alternate in digest order again, so that any prefix or even subset holds all of them.
    chosen = np.asarray(_by_digest(pixels, chosen))
    images = (pixels[chosen] / 16.0).astype(np.float32).reshape(-1, 1, 8, 8)
    return images, labels[chosen]


def _part(pixels: NDArray[Any], members: NDArray[Any], role: str) -> list[int]:
    order = _by_digest(pixels, members)
    evaluation = round(EVAL_SHARE * len(order))
    calibration = evaluation + round(CALIB_SHARE * len(order))
    cuts = {"eval": order[:evaluation], "calib": order[evaluation:calibration], "train": order[calibration:]}
    return cuts[role]


def _by_digest(pixels: NDArray[Any], members: NDArray[Any]) -> list[int]:
    def key(index: int) -> bytes:
        return hashlib.sha256(_SPLIT_SALT + pixels[index].astype(np.uint8).tobytes()).digest()

    return sorted((int(m) for m in members), key=key)


def _read() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    spec = importlib.util.find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependency(
            "the built-in digits come with scikit-learn, which is not installed",
            hint="pip install scikit-learn",
        )
    # Reading the file takes 50 ms; importing sklearn.datasets only to read it takes 2 s.
    path = Path(spec.submodule_search_locations[0]) / "datasets" / "data" / "digits.csv.gz"
    if path.is_file():
        with gzip.open(path, "rt") as lines:
            table = np.loadtxt(lines, delimiter=",")
        return table[:, :64], table[:, 64].astype(np.int64)
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return np.asarray(bunch.data, np.float64), np.asarray(bunch.target, np.int64)
