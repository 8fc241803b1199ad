"""What the real models of a folder are fed with: shapes, readers of their data, and who has labels.

The folder holds ``entry.py`` (model factories and datasets), ``weights/`` and ``inputs/``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgekit.sources.data import load_data

Reader = Callable[[Path], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Case:
    """Data for one model; the name of the case up to a dot is that of the factory in entry.py.

    ``read`` gives samples without labels; ``calib`` and ``test`` are labelled datasets of entry.py, which
    stand for it where they are named. ``part`` is a method of the model that is deployed instead of forward.
    """

    shape: tuple[int, ...]
    data: str
    read: Reader | None = None
    calib: str | None = None
    test: str | None = None
    part: str | None = None
    dtype: str = "float32"


def photos(
    pattern: str, size: tuple[int, int], *, offset: Sequence[float], scale: float, bgr: bool, most: int = 32
) -> Reader:
    """Photos resized to (height, width): (pixel - offset) / scale, channels first."""

    def read(folder: Path) -> np.ndarray:
        from PIL import Image

        found = sorted(folder.glob(pattern))[:most]
        if not found:
            raise FileNotFoundError(f"{folder} has no {pattern}")
        images = [Image.open(p).convert("RGB").resize((size[1], size[0])) for p in found]
        x = np.stack([np.asarray(i, dtype=np.float32) for i in images])
        x = x[..., ::-1] if bgr else x
        return np.ascontiguousarray(((x - np.float32(offset)) / np.float32(scale)).transpose(0, 3, 1, 2))

    return read


def arrays(name: str, key: str, shape: tuple[int, ...], dtype: str = "float32", most: int = 64) -> Reader:
    """An array of inputs/``name``, as samples of ``shape``: longer rows are cut."""

    def read(folder: Path) -> np.ndarray:
        with np.load(folder / "inputs" / name) as z:
            rows = z[key].astype(dtype)
        if rows.ndim == len(shape) + 1 and rows.shape[1:] != shape:
            rows = rows[(slice(None), *(slice(n) for n in shape))]
        return rows.reshape(-1, *shape)[:most]

    return read


def patches(name: str, side: int) -> Reader:
    """Square patches out of the low-resolution images of inputs/``name``, scaled to 0..1."""

    def read(folder: Path) -> np.ndarray:
        with np.load(folder / "inputs" / name) as z:
            images = [z[k].astype(np.float32) for k in sorted(z.files) if "bicubic" in k]
        cut = [i[y : y + side, x : x + side] / 255 for i in images for y, x in ((0, 0), (side, side))]
        return np.stack(cut)[:, None]

    return read


def spectra(name: str, frames: int) -> Reader:
    """Magnitudes of 512-point frames (step 128) of a 16-bit recording: (n, frames, 257)."""

    def read(folder: Path) -> np.ndarray:
        return np.abs(np.fft.rfft(_frames(folder / "inputs" / name, frames))).astype(np.float32)

    return read


def frames_of(name: str, frames: int) -> Reader:
    """Frames of 512 samples (step 128) of a 16-bit recording: (n, frames, 512)."""

    def read(folder: Path) -> np.ndarray:
        return _frames(folder / "inputs" / name, frames).astype(np.float32)

    return read


def seeded(shape: tuple[int, ...], n: int = 16) -> Reader:
    """Standard normal values, for a model whose data is not there."""

    def read(folder: Path) -> np.ndarray:
        return np.random.default_rng(0).standard_normal((n, *shape)).astype(np.float32)

    return read


def labelled(folder: Path, name: str, limit: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and labels of a dataset in entry.py, preprocessed there."""
    data = load_data(f"{folder / 'entry.py'}:{name}", role="eval", limit=limit)
    assert data.labels is not None
    return data.inputs[0], data.labels


def _frames(path: Path, frames: int) -> np.ndarray:
    import wave

    with wave.open(str(path)) as f:
        signal = np.frombuffer(f.readframes(f.getnframes()), dtype="<i2") / 32768
    rows = np.lib.stride_tricks.sliding_window_view(signal, 512)[::128]
    return rows[: len(rows) // frames * frames].reshape(-1, frames, 512)


_CIFAR, _SMALL, _MFCC = (3, 32, 32), (3, 128, 128), (1, 49, 10)
_FACES = "inputs/faces/*.jpg"
_NORMALISED = {"calib": "cifar10_train", "test": "cifar10_test", "data": "CIFAR-10", "shape": _CIFAR}

CASES: dict[str, Case] = {
    "cifar_resnet20": Case(**_NORMALISED),
    "cifar_resnet56": Case(**_NORMALISED),
    "mlperf_tiny_ic_resnet8": Case(
        shape=_CIFAR,
        data="CIFAR-10",
        calib="cifar10_raw_train",
        test="cifar10_raw_test",
    ),
    "hard_mbv3_cifar": Case(**_NORMALISED),
    "hard_effnet_cifar": Case(**_NORMALISED),
    "mobilenet_v2_10_224_tf2_deq": Case(
        shape=(3, 224, 224),
        data="ImageNet",
        calib="imagenet224_calib",
        test="imagenet224_test",
    ),
    "mobilenet_v1_025_128_deq": Case(
        shape=_SMALL,
        data="ImageNet",
        calib="imagenet128_calib",
        test="imagenet128_test",
    ),
    "squeezenet_v1_0_deepcompressed": Case(
        shape=(3, 227, 227),
        data="ImageNet",
        read=photos("imagenet_sample/*.JPEG", (227, 227), offset=(104, 117, 123), scale=1, bgr=True),
    ),
    "mlperf_tiny_vww_mnv1_025": Case(
        shape=(3, 96, 96),
        data="photos",
        read=photos(_FACES, (96, 96), offset=(0, 0, 0), scale=255, bgr=False),
    ),
    "mlperf_tiny_ad_autoencoder": Case(
        shape=(640,),
        data="ToyCar windows",
        read=arrays("ad_toycar_normal_id_01_00000000.npz", "x", (640,)),
    ),
    "mlperf_tiny_kws_dscnn": Case(shape=_MFCC, data="seeded", read=seeded(_MFCC)),
    "executorch_kws_dscnn": Case(
        shape=_MFCC,
        data="speech",
        read=arrays("executorch_kws_mfcc.npz", "mfcc", _MFCC),
    ),
    "ultraface_rfb_320": Case(
        shape=(3, 240, 320),
        data="photos",
        read=photos(_FACES, (240, 320), offset=(127,) * 3, scale=128, bgr=False),
    ),
    "fastestdet_coco": Case(
        shape=(3, 352, 352),
        data="photos",
        read=photos("inputs/coco_like/*.jpg", (352, 352), offset=(0, 0, 0), scale=255, bgr=True),
    ),
    "vdsr": Case(shape=(1, 64, 64), data="Set5", read=patches("set5_y.npz", 64)),
    "dtln": Case(shape=(4096,), data="seeded", read=seeded((4096,))),
    "dtln.mask1": Case(
        part="mask1",
        shape=(16, 257),
        data="noisy speech",
        read=spectra("dtln_noisy_16k.wav", 16),
    ),
    "dtln.core2": Case(
        part="core2",
        shape=(16, 512),
        data="noisy speech",
        read=frames_of("dtln_noisy_16k.wav", 16),
    ),
    "stories260k": Case(
        shape=(64,),
        dtype="int64",
        data="own samples",
        read=arrays("stories_tokens.npz", "ids", (64,), dtype="int64"),
    ),
}
