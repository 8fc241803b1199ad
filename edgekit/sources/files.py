"""Data files: image folders by class, and ``.npz`` archives."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.errors import DataError
from edgekit.sources.arrays import Data, Role, make_data, spread
from edgekit.types import Preprocessing

if TYPE_CHECKING:
    from numpy.typing import NDArray

_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def read_npz(path: Path, *, role: Role, limit: int | None) -> Data:
    """``x`` (n, ...), or ``x0``, ``x1``, ... for several inputs, and ``y`` (n,) integers if labelled.

    Object arrays are pickles and are refused. Raises DataError for anything else than the above.
    """
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path} is not an .npz archive", hint="np.savez(path, x=..., y=...)")
    try:
        with np.load(path, allow_pickle=False) as archive:
            columns = {name: archive[name] for name in archive.files}
    except ValueError as exc:
        raise DataError(
            f"{path} holds object arrays, which are pickles and could run code, or damaged arrays: {exc}",
            hint="save plain arrays: np.savez(path, x=float32_array, y=int64_array)",
        ) from exc
    except (OSError, zipfile.BadZipFile, EOFError) as exc:
        raise DataError(f"{path} is damaged: {exc}", hint="np.savez(path, x=..., y=...)") from exc
    names = (
        ["x"]
        if "x" in columns
        else sorted((n for n in columns if n[:1] == "x" and n[1:].isdigit()), key=lambda n: int(n[1:]))
    )
    if not names:
        raise DataError(
            f"{path} has no array 'x', only {sorted(columns)}", hint="np.savez(path, x=..., y=...)"
        )
    labels = columns.get("y")
    if labels is not None and labels.dtype.kind not in "iu":
        raise DataError(f"y of {path} is {labels.dtype}, not integer class indices", hint="y.astype('int64')")
    if any(columns[n].ndim == 0 for n in names):
        raise DataError(f"x of {path} is a scalar", hint="x must be (n, ...)")
    n = len(columns[names[0]])
    for name in [*names, *(["y"] if labels is not None else [])]:
        if len(columns[name]) != n:
            raise DataError(f"{name} of {path} has {len(columns[name])} rows, {names[0]} has {n}")
    chosen = spread(n, limit)
    return make_data(
        role,
        [columns[name][chosen] for name in names],
        None if labels is None else labels[chosen],
        source=str(path),
    )


def read_image_folder(
    root: Path,
    *,
    role: Role,
    limit: int | None,
    preprocessing: Preprocessing | None,
    image_size: tuple[int, int] | None,
) -> Data:
    """Images in one folder per class; classes are the sorted folder names, labels their index.

    Each image becomes float32 (channels, H, W), by these steps and no others:

    1. decoded and converted to RGB, or to one grey channel (ITU-R 601) for channel order "GRAY";
    2. scaled by Pillow's bilinear filter with antialiasing so that it just covers H x W, keeping its
       proportions; the other side is rounded to the nearest pixel;
    3. cropped to H x W about the centre, the odd pixel left at the bottom and right;
    4. divided by ``preprocessing.scale`` (255 when None), minus ``mean``, divided by ``std`` (each
       per channel, where given); channels reversed first for "BGR".

    H x W is ``preprocessing.resize``, else ``image_size``. EXIF orientation is applied.
    Raises DataError when there is no size, no class folder, no image, or an image cannot be decoded.
    """
    settings = preprocessing or Preprocessing()
    size = settings.resize or image_size
    if size is None:
        raise DataError(
            f"the size to which the images of {root} must be scaled is not known",
            hint="give --input-shape, batch first, for example 1,3,224,224",
        )
    classes = sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    files = [
        (file, label)
        for label, name in enumerate(classes)
        for file in sorted((root / name).rglob("*"))
        if file.suffix.lower() in _IMAGES
    ]
    if not files:
        raise DataError(
            f"{root} holds no images in class folders",
            hint="put images in one subfolder per class, for example cats/1.jpg and dogs/1.jpg",
        )
    full = Preprocessing(
        resize=size,
        scale=settings.scale or 255.0,
        mean=settings.mean,
        std=settings.std,
        channel_order=settings.channel_order or "RGB",
    )
    chosen = [files[i] for i in spread(len(files), limit)]
    images = np.stack([_image(file, full) for file, _ in chosen])
    labels = np.asarray([label for _, label in chosen], np.int64)
    return make_data(role, [images], labels, source=str(root), classes=tuple(classes), preprocessing=full)


def _image(path: Path, how: Preprocessing) -> NDArray[np.float32]:
    from PIL import Image, ImageOps

    assert how.resize is not None and how.scale is not None
    height, width = how.resize
    try:
        with Image.open(path) as opened:
            picture = ImageOps.exif_transpose(opened).convert("L" if how.channel_order == "GRAY" else "RGB")
    except Exception as exc:  # Pillow raises many kinds for damaged files
        raise DataError(
            f"{path} cannot be read as an image: {exc}", hint="remove or replace the file"
        ) from exc
    factor = max(width / picture.width, height / picture.height)
    covering = (max(width, round(picture.width * factor)), max(height, round(picture.height * factor)))
    picture = picture.resize(covering, Image.Resampling.BILINEAR)
    left, top = (covering[0] - width) // 2, (covering[1] - height) // 2
    pixels: NDArray[Any] = np.asarray(picture.crop((left, top, left + width, top + height)), np.float32)
    pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    if how.channel_order == "BGR":
        pixels = pixels[::-1]
    pixels = pixels / np.float32(how.scale)
    for name, values in (("mean", how.mean), ("std", how.std)):
        if values is not None and len(values) not in (1, len(pixels)):
            raise DataError(f"{name} has {len(values)} values for {len(pixels)} channels")
    if how.mean is not None:
        pixels = pixels - np.asarray(how.mean, np.float32)[:, None, None]
    if how.std is not None:
        pixels = pixels / np.asarray(how.std, np.float32)[:, None, None]
    return np.ascontiguousarray(pixels, np.float32)
