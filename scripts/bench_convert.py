"""Which real models convert to a float32 .tflite that computes what torch computes.

    python scripts/bench_convert.py --realdata DIR [--only NAME ...] [--markdown]

DIR holds ``entry.py`` (model factories) and ``weights/``. Each model is exported, converted and run
on up to eight real samples (seeded normal values where the folder has no data for it); the figure
is the largest |difference| over the largest |value| of any output, against the torch model.
Exit code 1 when a model is refused or above the limit.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.backends.tflite.backend import TFLiteBackend
from edgekit.errors import EdgekitError
from edgekit.sources.data import load_data
from edgekit.sources.models import load_model
from edgekit.store import Store
from edgekit.types import Scheme, ignore_events
from edgekit.verify import numerics, reference

SAMPLES = 8
LIMIT = 1e-3
"""Parity limit of `edgekit build`."""

Reader = Callable[[Path], np.ndarray]


def dataset(name: str) -> Reader:
    """Samples of a dataset in entry.py, preprocessed there."""

    def read(folder: Path) -> np.ndarray:
        return load_data(f"{folder / 'entry.py'}:{name}", role="eval", limit=SAMPLES).inputs[0]

    return read


def photos(
    pattern: str, size: tuple[int, int], *, offset: Sequence[float], scale: float, bgr: bool
) -> Reader:
    """Photos resized to (height, width): (pixel - offset) / scale, channels first."""

    def read(folder: Path) -> np.ndarray:
        from PIL import Image

        found = sorted(folder.glob(pattern))[:SAMPLES]
        if not found:
            raise FileNotFoundError(f"{folder} has no {pattern}")
        images = [Image.open(p).convert("RGB").resize((size[1], size[0])) for p in found]
        x = np.stack([np.asarray(i, dtype=np.float32) for i in images])
        x = x[..., ::-1] if bgr else x
        return np.ascontiguousarray(((x - np.float32(offset)) / np.float32(scale)).transpose(0, 3, 1, 2))

    return read


def arrays(name: str, key: str, shape: tuple[int, ...]) -> Reader:
    """An array of inputs/``name``, as samples of ``shape``."""

    def read(folder: Path) -> np.ndarray:
        with np.load(folder / "inputs" / name) as z:
            return z[key].astype(np.float32).reshape(-1, *shape)[:SAMPLES]

    return read


def patches(name: str, side: int) -> Reader:
    """Square patches out of the low-resolution images of inputs/``name``, scaled to 0..1."""

    def read(folder: Path) -> np.ndarray:
        with np.load(folder / "inputs" / name) as z:
            images = [z[k].astype(np.float32) for k in sorted(z.files) if "bicubic" in k]
        cut = [i[y : y + side, x : x + side] / 255 for i in images for y, x in ((0, 0), (side, side))]
        return np.stack(cut)[:SAMPLES, None]

    return read


def seeded(shape: tuple[int, ...]) -> Reader:
    """Standard normal values, for a model whose data is not there."""

    def read(folder: Path) -> np.ndarray:
        return np.random.default_rng(0).standard_normal((SAMPLES, *shape)).astype(np.float32)

    return read


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model factory of entry.py, what it is fed with, and the words for that in the table."""

    shape: tuple[int, ...]
    read: Reader
    data: str


def _case(shape: tuple[int, ...], data: str, read: Reader) -> Case:
    return Case(shape=shape, read=read, data=data)


_CIFAR, _SMALL, _MFCC = (3, 32, 32), (3, 128, 128), (1, 49, 10)
_FACES = "inputs/faces/*.jpg"
CASES = {
    "cifar_resnet20": _case(_CIFAR, "CIFAR-10", dataset("cifar10_test")),
    "cifar_resnet56": _case(_CIFAR, "CIFAR-10", dataset("cifar10_test")),
    "mlperf_tiny_ic_resnet8": _case(_CIFAR, "CIFAR-10", dataset("cifar10_raw_test")),
    "mlperf_tiny_vww_mnv1_025": _case(
        (3, 96, 96), "photos", photos(_FACES, (96, 96), offset=(0, 0, 0), scale=255, bgr=False)
    ),
    "mlperf_tiny_ad_autoencoder": _case(
        (640,), "ToyCar windows", arrays("ad_toycar_normal_id_01_00000000.npz", "x", (640,))
    ),
    "mlperf_tiny_kws_dscnn": _case(_MFCC, "seeded", seeded(_MFCC)),
    "executorch_kws_dscnn": _case(_MFCC, "speech", arrays("executorch_kws_mfcc.npz", "mfcc", _MFCC)),
    "squeezenet_v1_0_deepcompressed": _case(
        (3, 227, 227),
        "ImageNet",
        photos("imagenet_sample/*.JPEG", (227, 227), offset=(104, 117, 123), scale=1, bgr=True),
    ),
    "mobilenet_v1_025_128_deq": _case(_SMALL, "ImageNet", dataset("imagenet128_test")),
    "mobilenet_v2_10_224_tf2_deq": _case((3, 224, 224), "ImageNet", dataset("imagenet224_test")),
    "ultraface_rfb_320": _case(
        (3, 240, 320), "photos", photos(_FACES, (240, 320), offset=(127,) * 3, scale=128, bgr=False)
    ),
    "fastestdet_coco": _case(
        (3, 352, 352),
        "photos",
        photos("inputs/coco_like/*.jpg", (352, 352), offset=(0, 0, 0), scale=255, bgr=True),
    ),
    "vdsr": _case((1, 64, 64), "Set5", patches("set5_y.npz", 64)),
    "hard_mbv3_cifar": _case(_CIFAR, "CIFAR-10", dataset("cifar10_test")),
    "hard_effnet_cifar": _case(_CIFAR, "CIFAR-10", dataset("cifar10_test")),
}
LEFT_OUT = {"dtln": "LSTM over a whole utterance", "stories260k": "takes token ids, not floats"}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table; ``refusal`` is empty for a model that passed."""

    model: str
    shape: tuple[int, ...]
    data: str
    seconds: float
    refusal: str = ""
    exporter: str = ""
    onnx: float | None = None
    tflite: float | None = None
    ops: int | None = None
    transposes: int | None = None


def worst_output(want: Sequence[np.ndarray], got: Sequence[np.ndarray]) -> float:
    """Relative error of the worst output; each is judged by its own scale."""
    return max(numerics.closeness([w], [g]).max_rel for w, g in zip(want, got, strict=True))


def convert(folder: Path, name: str, case: Case, store: Store) -> Row:
    """Export, convert and compare one model."""
    start = time.perf_counter()
    base: dict[str, Any] = {"model": name, "shape": (1, *case.shape), "data": case.data}
    try:
        inputs = (case.read(folder),)
        loaded = load_model(f"{folder / 'entry.py'}:{name}", input_shapes=[(1, *case.shape)])
        assert loaded.module is not None
        want = reference.run_module(loaded.module, inputs)
        backend = TFLiteBackend()
        samples = [[x[i : i + 1] for x in inputs] for i in range(len(inputs[0]))]
        artifact = backend.export(
            loaded.module, loaded.spec, samples, store=store, scheme=Scheme(), emit=ignore_events
        )
    except EdgekitError as exc:
        return Row(**base, seconds=time.perf_counter() - start, refusal=str(exc))
    onnx_path = store.get(str(artifact.meta["onnx_sha256"]))
    onnx = worst_output(want, reference.run_onnx(onnx_path, inputs))
    tflite = worst_output(want, reference.run_session(backend.session(artifact), inputs))
    facts, _ = backend.check(artifact, Scheme())
    over = [
        f"{stage} parity {value:.2g}"
        for stage, value in (("ONNX", onnx), ("TFLite", tflite))
        if not value <= LIMIT
    ]
    return Row(
        **base,
        seconds=time.perf_counter() - start,
        refusal=", ".join(over),
        exporter=str(artifact.meta["exporter"]),
        onnx=onnx,
        tflite=tflite,
        ops=int(facts["ops"]),
        transposes=int(facts["transposes"]),
    )


def table(rows: Sequence[Row], *, markdown: bool) -> str:
    """The rows as a Markdown table or as aligned plain text."""
    head = ["model", "input", "data", "exporter", "ONNX", "TFLite", "ops", "transposes", "s", "result"]
    body = [
        [
            r.model,
            "x".join(map(str, r.shape)),
            r.data,
            r.exporter or "-",
            "-" if r.onnx is None else f"{r.onnx:.1e}",
            "-" if r.tflite is None else f"{r.tflite:.1e}",
            "-" if r.ops is None else str(r.ops),
            "-" if r.transposes is None else str(r.transposes),
            f"{r.seconds:.1f}",
            r.refusal or "ok",
        ]
        for r in rows
    ]
    if markdown:
        lines = [head, ["---"] * len(head), *body]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)
    widths = [max(len(line[i]) for line in [head, *body]) for i in range(len(head))]
    return "\n".join(
        "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in [head, *body]
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--realdata", type=Path, default=os.environ.get("EDGEKIT_REALDATA"), help="or EDGEKIT_REALDATA"
    )
    parser.add_argument("--only", nargs="+", choices=sorted(CASES), help="these models only")
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table")
    options = parser.parse_args()
    if options.realdata is None:
        parser.error("name the folder of real models with --realdata or EDGEKIT_REALDATA")
    folder = Path(options.realdata).resolve()
    present = sorted(p.stem for p in (folder / "weights").glob("*.safetensors"))
    unknown = [name for name in present if name not in CASES and name not in LEFT_OUT]
    if unknown:
        parser.error(f"no input shape is known for {', '.join(unknown)}: add them to CASES or LEFT_OUT")
    names = options.only or [name for name in present if name in CASES]
    rows = []
    with tempfile.TemporaryDirectory(prefix="bench_convert_") as scratch:
        store = Store(Path(scratch))
        for name in names:
            rows.append(convert(folder, name, CASES[name], store))
            print(f"{name}: {rows[-1].refusal or 'ok'}", file=sys.stderr, flush=True)
    print(table(rows, markdown=options.markdown))
    passed = sum(not r.refusal for r in rows)
    print(f"\n{passed} of {len(rows)} convert within {LIMIT:g} of torch; up to {SAMPLES} samples each.")
    if not options.only:
        left = [f"{name} ({why})" for name, why in LEFT_OUT.items() if name in present]
        print(f"Not tried: {', '.join(left) or 'none'}.")
    return 0 if passed == len(rows) else 1


if __name__ == "__main__":
    sys.exit(main())
