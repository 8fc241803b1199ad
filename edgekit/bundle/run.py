#!/usr/bin/env python3
"""Check or run the model in this folder. Needs Python 3.9+, numpy and a TFLite runtime; nothing of edgekit.

    python run.py                          run the golden samples; exit 0 when all agree, 1 when one does not
    python run.py --input x.npy            run one input and print the outputs
    python run.py --input cat.png --top 5  an image, when the manifest says how to prepare one

Runtimes, the first that is installed: ai-edge-litert, tflite-runtime, tensorflow.
Exit codes: 0 done, 1 a golden sample differs, 2 the folder, the input or the machine is not fit for it.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

RUNTIMES = ("ai_edge_litert.interpreter", "tflite_runtime.interpreter", "tensorflow.lite.python.interpreter")
CLEAR = 1.5  # an input may pass the range seen in calibration by this factor before a warning


class Problem(Exception):
    """Something that the user can mend; its text is one sentence."""


class Damaged(Problem):
    """A file of the bundle is not what the manifest says."""


# -- the folder


def inside(root: Path, name: Any) -> Path:
    """Path of ``name`` under ``root``. Refuses absolute paths, ``..`` and links that lead out of it."""
    if not isinstance(name, str) or not name or "\\" in name or "\x00" in name or ":" in name:
        raise Problem(f"the manifest names a file by {name!r}, which is not a plain relative path")
    pure = PurePosixPath(name)
    if pure.is_absolute() or ".." in pure.parts:
        raise Problem(f"the manifest names {name!r}, which lies outside the bundle")
    path = root.joinpath(*pure.parts)
    if not path.resolve().is_relative_to(root.resolve()):
        raise Problem(f"{name!r} is a link that leads out of the bundle")
    if not path.is_file():
        raise Problem(f"the bundle lacks the file {name!r}")
    return path


def checked(root: Path, entry: dict[str, Any]) -> Path:
    """Path of a manifest entry {path, sha256}, its bytes checked."""
    path = inside(root, entry["path"])
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != entry["sha256"]:
        raise Damaged(
            f"{entry['path']} is damaged or was changed: its sha256 is {digest[:12]}..., "
            f"the manifest says {entry['sha256'][:12]}..."
        )
    return path


def read_manifest(root: Path) -> dict[str, Any]:
    """manifest.json of the folder ``root`` as a dict; its version is checked."""
    try:
        manifest = json.loads((root / "manifest.json").read_text(encoding="utf-8"))
    except OSError as exc:
        raise Problem(f"{root / 'manifest.json'} cannot be read: {exc.strerror}") from exc
    except ValueError as exc:
        raise Problem(f"{root / 'manifest.json'} is not JSON: {exc}") from exc
    version = manifest.get("schema_version") if isinstance(manifest, dict) else None
    if version != 1:
        raise Problem(f"manifest.json has schema_version {version!r}; this program reads 1")
    return dict(manifest)


def load_array(path: Path) -> Any:
    """A .npy file without pickled objects."""
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as exc:
        raise Problem(f"{path} is not a plain .npy file: {exc}") from exc


def golden_sample(root: Path, sample: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    """(inputs, expected outputs) of one golden sample, files checked."""
    inputs = [load_array(checked(root, entry)) for entry in sample["inputs"]]
    return inputs, [load_array(checked(root, entry)) for entry in sample["outputs"]]


# -- comparing


def difference(expected: Any, got: Any, tolerance: dict[str, float]) -> tuple[float, int]:
    """(largest absolute difference, number of elements out of tolerance) of one output.

    An element agrees when |got - expected| <= atol + rtol * |expected|, in the output's own unit:
    quantisation steps for integers, real values for floats. NaN agrees with NaN only, and an infinity
    with the same infinity.
    """
    if expected.shape != got.shape or expected.dtype != got.dtype:
        raise Problem(
            f"an output is {got.dtype} {list(got.shape)}, "
            f"the golden one {expected.dtype} {list(expected.shape)}"
        )
    a, b = expected.astype(np.float64), got.astype(np.float64)
    with np.errstate(invalid="ignore"):
        distance = np.abs(a - b)
        bad = ~(distance <= tolerance["atol"] + tolerance["rtol"] * np.abs(a))
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    distance[same] = 0.0
    bad &= ~same
    bad |= np.isinf(a) & ~same  # an infinite tolerance is none
    distance[np.isnan(distance)] = np.inf
    return (float(distance.max()) if distance.size else 0.0), int(bad.sum())


# -- inputs and outputs


def to_stored(array: Any, tensor: dict[str, Any]) -> Any:
    """Real values as the file stores them: quantised when ``tensor`` has a scale, else cast to its dtype."""
    dtype = np.dtype(tensor["dtype"])
    if tensor.get("scale") is None or dtype.kind not in "iu":
        return array.astype(dtype)
    info = np.iinfo(dtype)
    steps = np.round(array.astype(np.float64) / tensor["scale"]) + tensor["zero_point"]
    return np.clip(steps, info.min, info.max).astype(dtype)


def to_real(array: Any, tensor: dict[str, Any]) -> Any:
    """Stored values as real ones."""
    if tensor.get("scale") is None or array.dtype.kind not in "iu":
        return array
    return ((array.astype(np.float64) - tensor["zero_point"]) * tensor["scale"]).astype(np.float32)


def permuted(array: Any, source: str | None, target: str | None) -> Any:
    """An image batch from one layout to another; anything else unchanged."""
    if source == target or source is None or target is None or array.ndim != 4:
        return array
    return array.transpose(*(source.index(axis) for axis in target))


def prepare(array: Any, tensor: dict[str, Any], layout: str = "auto") -> Any:
    """An array in the layout of the source model or of the file, as the file's input ``tensor`` takes it.

    ``layout`` is "source", "file" or "auto": by the shape, refused where both would fit and differ.
    A missing batch axis of 1 is added. Raises Problem with what was expected.
    """
    source, name = tensor["source"], tensor["name"]
    stored_shape, source_shape = tuple(tensor["shape"]), tuple(source["shape"])
    if array.ndim + 1 == len(stored_shape) and stored_shape[0] == 1:
        array = array[None]
    expected = f"{source['dtype']} {list(source_shape)} ({source['layout'] or 'source'})"
    expected += f" or {tensor['dtype']} {list(stored_shape)} ({tensor['layout'] or 'file'})"
    if not np.issubdtype(array.dtype, np.number):
        raise Problem(f"the input {name!r} holds {array.dtype}; expected {expected}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise Problem(f"the input {name!r} holds NaN or infinite values")
    is_source, is_stored = array.shape == source_shape, array.shape == stored_shape
    if layout == "auto" and is_source and is_stored and source["layout"] != tensor["layout"]:
        raise Problem(f"the input {name!r} fits both layouts: say --layout source or --layout file")
    if is_stored and layout != "source" and array.dtype == np.dtype(tensor["dtype"]):
        if array.dtype.kind == "f":
            warn_range(array, tensor)
        return array
    real = array.dtype.kind == "f" or np.dtype(source["dtype"]).kind in "iu"
    if not real or not ((is_source and layout != "file") or (is_stored and layout != "source")):
        raise Problem(f"the input {name!r} is {array.dtype} {list(array.shape)}; expected {expected}")
    warn_range(array, tensor)
    if is_source and layout != "file":
        array = permuted(array, source["layout"], tensor["layout"])
    return np.ascontiguousarray(to_stored(array, tensor))


def warn_range(array: Any, tensor: dict[str, Any]) -> None:
    """Say so when the values lie far outside what calibration saw: 0..255 for a model that expects -1..1."""
    if tensor.get("range") is None or array.size == 0:
        return
    low, high = tensor["range"]
    seen, most = max(abs(low), abs(high)), float(np.abs(array).max())
    if most > CLEAR * seen:
        print(
            f"warning: the input {tensor['name']!r} reaches {most:.4g}, "
            f"calibration saw {low:.4g} to {high:.4g}",
            file=sys.stderr,
        )


def image_array(path: Path, tensor: dict[str, Any], how: dict[str, Any]) -> Any:
    """An image file as real values in the file's layout, prepared as the manifest says."""
    if how.get("channel_order") is None or how.get("scale") is None:
        raise Problem("the manifest does not know how images are prepared: give --input a .npy file")
    try:
        from PIL import Image
    except ImportError as exc:
        raise Problem("reading an image needs pillow: pip install pillow") from exc
    layout = tensor["layout"]
    if layout not in ("NCHW", "NHWC"):
        raise Problem(f"the input {tensor['name']!r} is not an image")
    height, width = (tensor["shape"][layout.index(axis)] for axis in "HW")
    try:
        image = Image.open(path).convert("L" if how["channel_order"] == "GRAY" else "RGB")
    except OSError as exc:
        raise Problem(f"{path} is not an image that pillow reads: {exc}") from exc
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(image, dtype=np.float32).reshape(height, width, -1)
    if how["channel_order"] == "BGR":
        pixels = pixels[..., ::-1]
    values = pixels / how["scale"]
    if how.get("mean") is not None:
        values = values - np.asarray(how["mean"], dtype=np.float32)
    if how.get("std") is not None:
        values = values / np.asarray(how["std"], dtype=np.float32)
    return permuted(values[None].astype(np.float32), "NHWC", layout)


# -- running


def open_interpreter(path: Path, threads: int) -> tuple[Any, str]:
    """(interpreter, name of the runtime). The first runtime that is installed is taken."""
    for name in RUNTIMES:
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        try:
            interpreter = module.Interpreter(model_path=str(path), num_threads=threads)
            interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as exc:
            raise Problem(f"{name.split('.')[0]} cannot load {path.name}: {exc}") from exc
        return interpreter, name.split(".")[0]
    raise Problem("no TFLite runtime is installed: pip install ai-edge-litert (or tflite-runtime)")


def named_details(interpreter: Any, side: str) -> dict[str, Any]:
    """The interpreter's tensors by their own names and by those of its signature, where it has one."""
    details = {d["name"]: d for d in getattr(interpreter, f"get_{side}_details")()}
    signatures = interpreter.get_signature_list()
    if len(signatures) == 1:
        runner = interpreter.get_signature_runner(next(iter(signatures)))
        details.update(getattr(runner, f"get_{side}_details")())
    return details


def matched(interpreter: Any, tensors: list[dict[str, Any]], side: str) -> list[Any]:
    """The interpreter's tensors in the manifest's order: by name where the names are known, else by place."""
    details = getattr(interpreter, f"get_{side}_details")()
    if len(details) != len(tensors):
        raise Problem(f"the file has {len(details)} {side}s, the manifest {len(tensors)}")
    by_name = named_details(interpreter, side)
    if all(t["name"] in by_name for t in tensors):
        details = [by_name[t["name"]] for t in tensors]
    for detail, tensor in zip(details, tensors):  # noqa: B905 (Python 3.9 runs this too; equal lengths above)
        shape, dtype = tuple(int(x) for x in detail["shape"]), np.dtype(detail["dtype"])
        if shape != tuple(tensor["shape"]) or dtype != np.dtype(tensor["dtype"]):
            raise Problem(
                f"the {side} {tensor['name']!r} of the file is {dtype} {list(shape)}, "
                f"the manifest says {tensor['dtype']} {tensor['shape']}"
            )
    return list(details)


class Model:
    """The bundle's model in a runtime of this machine."""

    def __init__(self, root: Path, manifest: dict[str, Any]) -> None:
        if manifest["runtime"]["name"] != "tflite":
            raise Problem(f"this program runs tflite files, the bundle is for {manifest['runtime']['name']}")
        path = checked(root, manifest["models"][0])
        self._interpreter, self.runtime = open_interpreter(path, manifest["runtime"]["threads"])
        self._inputs = matched(self._interpreter, manifest["inputs"], "input")
        self._outputs = matched(self._interpreter, manifest["outputs"], "output")

    def run(self, arrays: Sequence[Any]) -> list[Any]:
        """One inference: arrays as the file stores them, in and out."""
        if len(arrays) != len(self._inputs):
            raise Problem(f"the model takes {len(self._inputs)} inputs, {len(arrays)} were given")
        for detail, array in zip(self._inputs, arrays):  # noqa: B905
            self._interpreter.set_tensor(detail["index"], array)
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(d["index"]) for d in self._outputs]


def check_golden(root: Path) -> bool:
    """Run the golden samples and print each; True when all agree."""
    manifest = read_manifest(root)
    model = Model(root, manifest)
    golden = manifest["golden"]
    tolerance, samples, failed = golden["tolerance"], golden["samples"], 0
    if not samples:
        raise Problem("the bundle has no golden samples to check")
    precision = manifest["models"][0]["precision"]
    print(f"{manifest['name']} for {manifest['profile']}, {precision}, in {model.runtime}")
    for i, sample in enumerate(samples):
        inputs, expected = golden_sample(root, sample)
        results = [difference(e, g, tolerance) for e, g in zip(expected, model.run(inputs))]  # noqa: B905
        worst, bad = max(r[0] for r in results), sum(r[1] for r in results)
        failed += bad > 0
        print(f"sample {i}: max diff {worst:.6g}, {'ok' if not bad else f'{bad} values out of tolerance'}")
    limit = f"atol {tolerance['atol']:g}, rtol {tolerance['rtol']:g}"
    print(f"{len(samples) - failed} of {len(samples)} golden samples agree ({limit})")
    return not failed


def run_inputs(root: Path, files: list[Path], top: int, layout: str) -> None:
    """Run the files (one per input of the model) and print the outputs."""
    manifest = read_manifest(root)
    tensors = manifest["inputs"]
    if len(files) != len(tensors):
        names = ", ".join(t["name"] for t in tensors)
        raise Problem(f"the model takes {len(tensors)} inputs ({names}): give --input as many times")
    arrays = []
    for file, tensor in zip(files, tensors):  # noqa: B905
        if file.suffix.lower() == ".npy":
            arrays.append(prepare(load_array(file), tensor, layout))
        else:
            arrays.append(to_stored(image_array(file, tensor, manifest["preprocessing"]), tensor))
    outputs = Model(root, manifest).run(arrays)
    for tensor, stored in zip(manifest["outputs"], outputs):  # noqa: B905
        values = to_real(stored, tensor)
        if manifest["task"] == "classification" and values.ndim == 2 and values.shape[0] == 1:
            print_top(values[0], manifest["labels"], top)
        else:
            print(f"{tensor['name']}: {values.dtype} {list(values.shape)}")
            print(np.array2string(values, precision=6, threshold=200))


def print_top(scores: Any, labels: list[str], top: int) -> None:
    """The highest scores, each with its class."""
    for place, index in enumerate(np.argsort(-scores, kind="stable")[:top], start=1):
        label = labels[index] if index < len(labels) else f"class {index}"
        print(f"{place:2}. {label}  {scores[index]:.6g}")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--input", type=Path, action="append", help=".npy or image; once per input of the model"
    )
    parser.add_argument("--top", type=int, default=5, help="classes to print (default 5)")
    parser.add_argument(
        "--layout", choices=("auto", "source", "file"), default="auto", help="layout of a .npy input"
    )
    options = parser.parse_args(arguments)
    root = Path(__file__).resolve().parent
    try:
        if options.input:
            run_inputs(root, options.input, options.top, options.layout)
            return 0
        return 0 if check_golden(root) else 1
    except Problem as exc:
        print(f"error: {exc}", file=sys.stderr)
    except KeyError as exc:
        print(f"error: manifest.json lacks {exc}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
