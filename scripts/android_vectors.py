"""Golden vectors of preprocessing and of reading outputs, computed by edgekit, for the Android app.

    python scripts/android_checks.py vectors VECTORS.json

Pictures (8-bit, with an EXIF orientation) go through edgekit's reader of image folders, as calibration data
does, into the layout and element type of a model's input. Beside them are stored values as real ones, and the
highest of scores. Arrays are base64 of little-endian elements in C order. Equal arguments, equal vectors.
"""

from __future__ import annotations

import base64
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edgekit.bundle import run
from edgekit.sources.files import read_image_folder
from edgekit.types import Preprocessing, to_json

SEED = 0
PICTURES: tuple[tuple[str, tuple[int, int], int, Preprocessing, str, dict[str, Any]], ...] = (
    # name, (width, height), EXIF orientation, how, layout, what the input stores
    ("shrink_wide", (31, 17), 1, Preprocessing(resize=(8, 8), scale=255.0), "NHWC", {}),
    ("shrink_tall", (13, 40), 1, Preprocessing(resize=(9, 7), scale=255.0, channel_order="BGR"), "NCHW", {}),
    ("enlarge", (5, 4), 1, Preprocessing(resize=(12, 11), scale=1.0), "NHWC", {}),
    ("as_it_is", (8, 6), 1, Preprocessing(resize=(6, 8), scale=127.5), "NHWC", {}),
    ("crop_only", (11, 8), 1, Preprocessing(resize=(8, 8), scale=255.0), "NHWC", {}),
    (
        "imagenet",
        (37, 29),
        1,
        Preprocessing(resize=(16, 16), scale=255.0, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
        "NCHW",
        {},
    ),
    ("one_mean", (20, 20), 1, Preprocessing(resize=(7, 7), scale=127.5, mean=(1.0,)), "NHWC", {}),
    ("gray", (23, 19), 1, Preprocessing(resize=(8, 8), scale=16.0, channel_order="GRAY"), "NHWC", {}),
    (
        "int8",
        (33, 21),
        1,
        Preprocessing(resize=(8, 8), scale=255.0),
        "NHWC",
        {"dtype": "int8", "scale": 1 / 255, "zero_point": -128},
    ),
    (
        "uint8_clipped",
        (18, 26),
        1,
        Preprocessing(resize=(5, 9), scale=127.5, mean=(1.0, 1.0, 1.0)),
        "NHWC",
        {"dtype": "uint8", "scale": 0.0071, "zero_point": 120},
    ),
    (
        "int16",
        (16, 16),
        1,
        Preprocessing(resize=(4, 4), scale=255.0, channel_order="GRAY"),
        "NCHW",
        {"dtype": "int16", "scale": 3.1e-5, "zero_point": 0},
    ),
    *(
        (f"exif_{n}", (12, 7), n, Preprocessing(resize=(5, 6), scale=255.0), "NHWC", {})
        for n in (2, 3, 4, 5, 6, 7, 8)
    ),
)


def vectors() -> dict[str, Any]:
    """All vectors, as JSON data."""
    rng = np.random.default_rng(SEED)
    with tempfile.TemporaryDirectory() as folder:
        pictures = [_picture(Path(folder) / case[0], rng, *case) for case in PICTURES]
    return {"pictures": pictures, "outputs": _outputs(rng), "top": _top(rng)}


def write_picture(path: Path, pixels: Any, orientation: int) -> None:
    """A lossless picture file whose EXIF data say how it is to be turned."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(path, exif=exif)


def _picture(
    folder: Path,
    rng: np.random.Generator,
    name: str,
    size: tuple[int, int],
    orientation: int,
    how: Preprocessing,
    layout: str,
    stored: dict[str, Any],
) -> dict[str, Any]:
    width, height = size
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    (folder / "class").mkdir(parents=True)
    write_picture(folder / "class" / "picture.png", pixels, orientation)
    data = read_image_folder(folder, role="eval", limit=None, preprocessing=how, image_size=None)
    real = run.permuted(data.inputs[0], "NCHW", layout)
    tensor = {
        "name": name,
        "shape": list(real.shape),
        "dtype": "float32",
        "layout": layout,
        "scale": None,
        "zero_point": None,
        **stored,
    }
    return {
        "width": width,
        "height": height,
        "orientation": orientation,
        "pixels": _b64(pixels),
        "preprocessing": to_json(data.preprocessing),
        "input": tensor,
        "real": _b64(real),
        "stored": _b64(run.to_stored(real, tensor)),
    }


def _outputs(rng: np.random.Generator) -> list[dict[str, Any]]:
    found = []
    for dtype, scale, zero in (("int8", 0.0298, -45), ("uint8", 0.1, 3), ("int16", 1e-3, 0)):
        info = np.iinfo(dtype)
        stored = rng.integers(info.min, info.max + 1, (1, 20)).astype(dtype)
        tensor = {"name": dtype, "shape": [1, 20], "dtype": dtype, "layout": None}
        tensor |= {"scale": scale, "zero_point": zero}
        found.append({"output": tensor, "stored": _b64(stored), "real": _b64(run.to_real(stored, tensor))})
    return found


def _top(rng: np.random.Generator) -> list[dict[str, Any]]:
    tied = np.repeat(rng.standard_normal(4).astype(np.float32), 3)
    odd = np.array([np.nan, -1.0, 2.0, 0.0, -0.0, np.inf, 2.0, -np.inf], np.float32)
    return [
        {"scores": _b64(scores), "count": count, "indices": run.highest(scores, count)}
        for scores, count in (
            (rng.standard_normal(50).astype(np.float32), 5),
            (tied, 12),
            (odd, 8),
            (odd, 20),
        )
    ]


def _b64(array: Any) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
