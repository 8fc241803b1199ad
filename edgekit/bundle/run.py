#!/usr/bin/env python3
"""Check or run the model in this folder. Needs Python 3.9+, numpy and one runtime; nothing of edgekit.

    python run.py                          run the golden samples; exit 0 when all agree, 1 when one does not
    python run.py --input x.npy            run one input and print the outputs
    python run.py --input cat.png --top 5  an image, when the manifest says how to prepare one

manifest.json names the runtime, and this program the package of it that is missing:
    tflite       ai-edge-litert, tflite-runtime or tensorflow, the first that is installed
    onnx         onnxruntime, on the CPU; openvino where the manifest's first delegate is openvino
    executorch   executorch
    torchscript  torch, with its qnnpack engine where the manifest's first delegate is qnnpack
Exit codes: 0 done, 1 a golden sample differs, 2 the folder, the input or the machine is not fit for it.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import logging
import os
import platform
import sys
import warnings
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

TFLITE_MODULES = (
    "ai_edge_litert.interpreter",
    "tflite_runtime.interpreter",
    "tensorflow.lite.python.interpreter",
)
ORT_DTYPES = {"float": "float32", "double": "float64"}  # the other types are called as numpy calls them
EXECUTORCH_DTYPES = {
    **{0: "uint8", 1: "int8", 2: "int16", 3: "int32", 4: "int64"},
    **{5: "float16", 6: "float32", 7: "float64", 11: "bool"},
}
LSE_FROM = (2, 10)  # torch wheels for aarch64 use LSE atomics from this version on
CPUINFO = Path("/proc/cpuinfo")
CLEAR = 1.5  # an input may pass the range seen in calibration by this factor before a warning


class Problem(Exception):
    """Something that the user can mend; its text is one sentence."""


class Missing(Problem):
    """A package is not here; ``requirement`` is what pip has to install."""

    def __init__(self, what: str, requirement: str) -> None:
        super().__init__(f"{what}: pip install {requirement}")
        self.what, self.requirement = what, requirement


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
        from PIL import Image, ImageOps
    except ImportError as exc:
        raise Missing("reading an image needs pillow", "pillow") from exc
    layout = tensor["layout"]
    if layout not in ("NCHW", "NHWC"):
        raise Problem(f"the input {tensor['name']!r} is not an image")
    height, width = (tensor["shape"][layout.index(axis)] for axis in "HW")
    try:
        with Image.open(path) as opened:
            upright = ImageOps.exif_transpose(opened)
            image = upright.convert("L" if how["channel_order"] == "GRAY" else "RGB")
    except OSError as exc:
        raise Problem(f"{path} is not an image that pillow reads: {exc}") from exc
    # As the data of the build were read: scaled to just cover the input, then cropped about the centre.
    factor = max(width / image.width, height / image.height)
    covering = (max(width, round(image.width * factor)), max(height, round(image.height * factor)))
    image = image.resize(covering, Image.Resampling.BILINEAR)
    left, top = (covering[0] - width) // 2, (covering[1] - height) // 2
    image = image.crop((left, top, left + width, top + height))
    pixels: Any = np.asarray(image, dtype=np.float32).reshape(height, width, -1)
    if how["channel_order"] == "BGR":
        pixels = pixels[..., ::-1]
    values = pixels / np.float32(how["scale"])
    if how.get("mean") is not None:
        values = values - np.asarray(how["mean"], dtype=np.float32)
    if how.get("std") is not None:
        values = values / np.asarray(how["std"], dtype=np.float32)
    return permuted(values[None].astype(np.float32), "NHWC", layout)


# -- runtimes: each engine takes and returns arrays as the file stores them, in the manifest's order


def needed(module: str, requirement: str) -> Any:
    """A module of a runtime. Raises Problem naming what to install with pip when it does not import."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(module)
    except (ImportError, OSError) as exc:
        package = module.split(".")[0]
        if isinstance(exc, ModuleNotFoundError) and str(exc.name).split(".")[0] == package:
            raise Missing(f"{package} is not installed", requirement) from exc
        raise Missing(f"{module} does not import ({exc})", requirement) from exc


def version_of(package: str) -> str:
    """The package's name with its version."""
    try:
        return f"{package} {metadata.version(package)}"
    except metadata.PackageNotFoundError:
        return package


def check_tensors(side: str, tensors: list[dict[str, Any]], found: Sequence[tuple[Any, Any]]) -> None:
    """Compare (shape, dtype) of each tensor of the file, or of each array, with the manifest."""
    if len(found) != len(tensors):
        raise Problem(f"there are {len(found)} {side}s, the manifest names {len(tensors)}")
    for (dims, kind), tensor in zip(found, tensors):  # noqa: B905 (Python 3.9 runs this too; lengths are equal)
        shape, dtype = tuple(dims), np.dtype(kind)
        if shape != tuple(tensor["shape"]) or dtype != np.dtype(tensor["dtype"]):
            raise Problem(
                f"the {side} {tensor['name']!r} is {dtype} {list(shape)}, "
                f"the manifest says {tensor['dtype']} {tensor['shape']}"
            )


def in_order(names: Sequence[str], tensors: list[dict[str, Any]]) -> list[int]:
    """Place of each of the manifest's tensors among ``names``: by name where all are known, else as it is."""
    wanted = [t["name"] for t in tensors]
    return [names.index(n) for n in wanted] if set(wanted) == set(names) else list(range(len(names)))


class TFLite:
    """A .tflite file in the first TFLite runtime that is installed."""

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        module = self._module()
        self.name = module.__name__.split(".")[0]
        self._interpreter = module.Interpreter(
            model_path=str(path), num_threads=manifest["runtime"]["threads"]
        )
        self._interpreter.allocate_tensors()
        self._inputs = self._matched("input", manifest["inputs"])
        self._outputs = self._matched("output", manifest["outputs"])

    @staticmethod
    def _module() -> Any:
        for name in TFLITE_MODULES:
            try:
                return importlib.import_module(name)
            except ImportError:
                continue
        raise Missing("no TFLite runtime is installed", "ai-edge-litert (or tflite-runtime)")

    def _matched(self, side: str, tensors: list[dict[str, Any]]) -> list[Any]:
        """The interpreter's tensors by their own names, by those of its signature, or by place."""
        details = list(getattr(self._interpreter, f"get_{side}_details")())
        by_name = {d["name"]: d for d in details}
        signatures = self._interpreter.get_signature_list()
        if len(signatures) == 1:
            runner = self._interpreter.get_signature_runner(next(iter(signatures)))
            by_name.update(getattr(runner, f"get_{side}_details")())
        if len(details) == len(tensors) and all(t["name"] in by_name for t in tensors):
            details = [by_name[t["name"]] for t in tensors]
        check_tensors(side, tensors, [([int(n) for n in d["shape"]], d["dtype"]) for d in details])
        return details

    def run(self, arrays: Sequence[Any]) -> list[Any]:
        for detail, array in zip(self._inputs, arrays):  # noqa: B905
            self._interpreter.set_tensor(detail["index"], array)
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(d["index"]) for d in self._outputs]


def saturates() -> bool:
    """Whether this is an x86 processor without VNNI: ONNX Runtime adds two products of bytes in 16 bits
    there, which overflow, unless it is told to take the slower way."""
    cpuinfo = Path("/proc/cpuinfo")
    if platform.machine() != "x86_64" or not cpuinfo.exists():
        return False
    return "vnni" not in cpuinfo.read_text()


class OnnxRuntime:
    """An .onnx file in ONNX Runtime on the CPU."""

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read at import
        ort = needed("onnxruntime", "onnxruntime")
        self.name = version_of("onnxruntime")
        options = ort.SessionOptions()
        options.intra_op_num_threads = manifest["runtime"]["threads"]
        options.log_severity_level = 3
        if saturates():
            options.add_session_config_entry("session.x64quantprecision", "1")
        self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._inputs = self._matched("input", self._session.get_inputs(), manifest["inputs"])
        self._outputs = self._matched("output", self._session.get_outputs(), manifest["outputs"])

    @staticmethod
    def _matched(side: str, found: Sequence[Any], tensors: list[dict[str, Any]]) -> list[str]:
        kinds = [f.type.replace("tensor(", "").rstrip(")") for f in found]
        facts = [(f.shape, ORT_DTYPES.get(kind, kind)) for f, kind in zip(found, kinds)]  # noqa: B905
        order = in_order([f.name for f in found], tensors)
        check_tensors(side, tensors, [facts[i] for i in order])
        return [found[i].name for i in order]

    def run(self, arrays: Sequence[Any]) -> list[Any]:
        return list(self._session.run(self._outputs, dict(zip(self._inputs, arrays))))  # noqa: B905


class OpenVino:
    """An .onnx file in OpenVINO on the CPU."""

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        core = needed("openvino", "openvino").Core()
        self.name = version_of("openvino")
        # By itself it computes float32 files in bfloat16 where the CPU can.
        how = {
            "INFERENCE_NUM_THREADS": manifest["runtime"]["threads"],
            "INFERENCE_PRECISION_HINT": "f32",
        }
        self._model = core.compile_model(core.read_model(str(path)), "CPU", how)
        self._inputs = self._matched("input", self._model.inputs, manifest["inputs"])
        self._outputs = self._matched("output", self._model.outputs, manifest["outputs"])

    @staticmethod
    def _matched(side: str, found: Sequence[Any], tensors: list[dict[str, Any]]) -> list[Any]:
        order = in_order([port.any_name for port in found], tensors)
        check_tensors(
            side, tensors, [(tuple(found[i].shape), found[i].element_type.to_dtype()) for i in order]
        )
        return [found[i] for i in order]

    def run(self, arrays: Sequence[Any]) -> list[Any]:
        results = self._model(dict(zip(self._inputs, arrays)))  # noqa: B905
        return [np.array(results[port]) for port in self._outputs]


class ExecuTorch:
    """A .pte file in the ExecuTorch runtime of its Python package."""

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        refuse_illegal_torch("use ExecuTorch's C++ runtime on this machine")
        logging.getLogger("torchao").setLevel(logging.ERROR)  # kernels for GPUs that it does not find
        version = manifest["runtime"]["min_version"]
        requirement = f"executorch=={version}" if version else "executorch"
        runtime = needed("executorch.runtime", requirement)
        self._torch = needed("torch", requirement)
        self.name = version_of("executorch")
        library = needed("executorch.extension.pybindings.portable_lib", requirement)
        threads = manifest["runtime"]["threads"]
        if getattr(library, "_threadpool_get_thread_count", lambda: threads)() != threads:
            library._unsafe_reset_threadpool(threads)  # there is no public way
        self._program = runtime.Runtime.get().load_program(path)
        self._method = self._program.load_method("forward")
        about = self._method.metadata
        for side in ("input", "output"):
            of = getattr(about, f"{side}_tensor_meta")
            metas = [of(i) for i in range(getattr(about, f"num_{side}s")())]
            facts = [(m.sizes(), EXECUTORCH_DTYPES.get(int(m.dtype()), "void")) for m in metas]
            check_tensors(side, manifest[f"{side}s"], facts)

    def run(self, arrays: Sequence[Any]) -> list[Any]:
        tensors = [self._torch.from_numpy(np.array(a, order="C")) for a in arrays]
        return [np.array(y.numpy()) for y in self._method.execute(tensors)]


class TorchScript:
    """A TorchScript file in torch."""

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        refuse_illegal_torch("pip install 'torch>=2.8,<2.10'")
        version = manifest["runtime"]["min_version"]
        self._torch = torch = needed("torch", f"'torch>={version}'" if version else "torch")
        self.name = version_of("torch")
        if manifest["runtime"]["delegates"][:1] == ["qnnpack"]:
            if "qnnpack" not in torch.backends.quantized.supported_engines:
                raise Problem(f"{self.name} has no qnnpack engine: pip install torch from PyPI")
            torch.backends.quantized.engine = "qnnpack"
        torch.set_num_threads(manifest["runtime"]["threads"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._module = torch.jit.load(str(path), map_location="cpu").eval()

    def run(self, arrays: Sequence[Any]) -> list[Any]:
        # Without the profiling executor the first run computes as all later ones do.
        with self._torch.inference_mode(), self._torch.jit.optimized_execution(False):
            return self._flat(self._module(*(self._torch.from_numpy(np.array(a, order="C")) for a in arrays)))

    def _flat(self, result: Any) -> list[Any]:
        """The tensors of nested tuples, lists and dicts, in order."""
        if isinstance(result, dict):
            result = tuple(result.values())
        if isinstance(result, (tuple, list)):
            return [array for part in result for array in self._flat(part)]
        return [np.array(result.numpy())]


def refuse_illegal_torch(remedy: str) -> None:
    """Raise Problem where importing torch would end this program by SIGILL, before it could say a word."""
    if platform.machine() != "aarch64" or not CPUINFO.is_file():
        return
    try:
        version = metadata.version("torch")
    except metadata.PackageNotFoundError:
        return
    release = tuple(int(n) for n in version.split("+")[0].split(".")[:2])
    if release >= LSE_FROM and "atomics" not in CPUINFO.read_text(errors="replace").split():
        raise Problem(f"torch {version} needs LSE atomics, which this CPU does not have: {remedy}")


def engine_class(runtime: dict[str, Any]) -> Any:
    """What runs the files of the manifest's section "runtime"."""
    if runtime["name"] == "onnx":
        return OpenVino if runtime["delegates"][:1] == ["openvino"] else OnnxRuntime
    known = {"tflite": TFLite, "executorch": ExecuTorch, "torchscript": TorchScript}
    if runtime["name"] not in known:
        raise Problem(f"this program runs {', '.join([*known, 'onnx'])}, the bundle is for {runtime['name']}")
    return known[runtime["name"]]


class Model:
    """The bundle's model in a runtime of this machine. ``runtime`` is the runtime's name."""

    def __init__(self, root: Path, manifest: dict[str, Any]) -> None:
        engine = engine_class(manifest["runtime"])
        path = checked(root, manifest["models"][0])
        try:
            self._engine = engine(path, manifest)
        except (Problem, KeyError):
            raise
        except Exception as exc:  # each runtime has errors of its own
            raise Problem(f"{engine.__name__} cannot load {path.name}: {first_line(exc)}") from exc
        self.runtime: str = self._engine.name
        self._path, self._inputs, self._outputs = path, manifest["inputs"], manifest["outputs"]

    def run(self, arrays: Sequence[Any]) -> list[Any]:
        """One inference: arrays as the file stores them, in and out."""
        check_tensors("input", self._inputs, [(a.shape, a.dtype) for a in arrays])
        try:
            outputs = self._engine.run(arrays)
        except Exception as exc:
            raise Problem(f"{self.runtime} cannot run {self._path.name}: {first_line(exc)}") from exc
        check_tensors("output", self._outputs, [(a.shape, a.dtype) for a in outputs])
        return list(outputs)


def first_line(error: Exception) -> str:
    """The beginning of a runtime's message, some of which run over pages."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__


# -- what this program does


def check_golden(root: Path) -> bool:
    """Run the golden samples and print each; True when all agree."""
    manifest = read_manifest(root)
    model = Model(root, manifest)
    golden = manifest["golden"]
    tolerance, samples, failed = golden["tolerance"], golden["samples"], 0
    if not samples:
        raise Problem("the bundle has no golden samples to check")
    for entry in [*manifest["models"][1:], *manifest.get("files", [])]:
        checked(root, entry)
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


def highest(scores: Any, count: int) -> list[int]:
    """Indices of the highest scores, the lower index first among equals."""
    return [int(i) for i in np.argsort(-scores, kind="stable")[:count]]


def print_top(scores: Any, labels: list[str], top: int) -> None:
    """The highest scores, each with its class."""
    for place, index in enumerate(highest(scores, top), start=1):
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
