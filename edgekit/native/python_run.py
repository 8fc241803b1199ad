#!/usr/bin/env python3
"""Run a .onnx file with ONNX Runtime or a TorchScript .pt file with torch, and report it as one JSON line.

    python_run.py [-w WARMUP] [-n RUNS] [-t THREADS] [-p] [-s SPEC]... [-i IN]... [-o OUT]... MODEL

    -w N     runs before the measured ones (default 2)
    -n N     measured runs (default 5)
    -t N     threads of the runtime (default 1)
    -p       switch the runtime's profiler on and list its operators
    -s SPEC  dtype and shape of an input, "float32:1x3x32x32"; for a TorchScript file without edgekit.json
    -i IN    raw bytes of an input; once per input, in the file's order. Without any -i pseudo-random ones.
    -o OUT   where to write the raw bytes of an output; once per output, or not at all

Command line, report and exit codes are those of litert_run.c. Standard output is one JSON object:
  machine, runtime, load_ms, runs_ms[], start_rss_kb, peak_rss_kb, outputs[{bytes, sha256}]
  and with -p also ops[{name, us}]: the operators of one inference in order of execution, each with the mean
  time over the measured runs; of a .onnx file with its type, "op".
peak_rss_kb is the high-water mark of the process; start_rss_kb the mark before the model was loaded, with
the runtime imported.

Exit codes: 0 done, 2 usage, 3 the runtime refused, 4 an input does not fit, 5 an output cannot be written,
6 out of memory. The reason is on standard error. Needs Python 3.9 or newer, numpy, and onnxruntime or torch;
nothing of edgekit.
"""

from __future__ import annotations

import ctypes
import getopt
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import sys
import time
import warnings
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

EXIT_USAGE, EXIT_RUNTIME, EXIT_INPUT, EXIT_OUTPUT, EXIT_MEMORY = 2, 3, 4, 5, 6
USAGE = "usage: python_run.py [-w N] [-n N] [-t N] [-p] [-s SPEC]... [-i IN]... [-o OUT]... MODEL"
SIGNATURE = "edgekit.json"
"""Member of a TorchScript file that tells what the file itself cannot: dtypes and shapes of its inputs."""

MARKS = "EDGEKIT_MARKS"
"""Environment variable that names a library whose begin() and end() mark a measured run, for counters."""

OLDEST_TORCH = (2, 8)
FIRST_TORCH_WITH_LSE = (2, 10)
"""From this version on, torch's wheels for arm64 use LSE atomics (Armv8.1) without asking whether they are
there: Cortex-A53 and A72 end in SIGILL at import."""

LARGEST_NUMBER = 1_000_000
ORT_TYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(bool)": "bool",
}

Spec = tuple[str, tuple[int, ...]]
"""dtype as numpy names it, and shape."""


class Refused(Exception):
    """Why the program ends, and with which exit code."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class Arguments:
    """The parsed command line."""

    def __init__(self, argv: Sequence[str]) -> None:
        self.warmup, self.runs, self.threads, self.profile = 2, 5, 1, False
        self.specs: list[Spec] = []
        self.inputs: list[str] = []
        self.outputs: list[str] = []
        try:
            options, rest = getopt.getopt(list(argv), "w:n:t:ps:i:o:")
        except getopt.GetoptError as exc:
            raise Refused(EXIT_USAGE, f"{exc} ({USAGE})") from exc
        for option, value in options:
            self._take(option, value)
        if len(rest) != 1:
            raise Refused(EXIT_USAGE, f"needs exactly one MODEL ({USAGE})")
        self.model = Path(rest[0])

    def _take(self, option: str, value: str) -> None:
        if option == "-w":
            self.warmup = _number(value, option, 0)
        elif option == "-n":
            self.runs = _number(value, option, 1)
        elif option == "-t":
            self.threads = _number(value, option, 1)
        elif option == "-p":
            self.profile = True
        elif option == "-s":
            self.specs.append(_spec(value))
        else:
            (self.inputs if option == "-i" else self.outputs).append(value)


def _number(text: str, option: str, least: int) -> int:
    if not re.fullmatch(r"[+-]?\d{1,9}", text) or not least <= int(text) <= LARGEST_NUMBER:
        raise Refused(EXIT_USAGE, f"{option} needs a whole number of at least {least}, not '{text}'")
    return int(text)


def _spec(text: str) -> Spec:
    dtype, colon, dims = text.partition(":")
    try:
        np.dtype(dtype)
        shape = tuple(int(d) for d in dims.split("x")) if dims else ()
    except (TypeError, ValueError):
        colon = ""
    if not colon or any(d < 1 for d in shape):
        raise Refused(EXIT_USAGE, f"-s needs dtype:shape as in float32:1x3x32x32, not '{text}'")
    return dtype, shape


class OnnxModel:
    """A .onnx file in ONNX Runtime on the CPU."""

    def __init__(self, arguments: Arguments) -> None:
        # Set before the import: it starts a thread that uploads what is run.
        os.environ["ORT_DISABLE_TELEMETRY"] = "1"
        import onnxruntime

        self.runtime = f"onnxruntime {onnxruntime.__version__}"
        self._ort = onnxruntime
        self._arguments = arguments
        self._values: dict[str, Any] = {}

    def load(self) -> list[Spec]:
        options = self._ort.SessionOptions()
        options.intra_op_num_threads = self._arguments.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        if _saturates():
            options.add_session_config_entry("session.x64quantprecision", "1")
        if self._arguments.profile:
            options.enable_profiling = True
            options.profile_file_prefix = "onnxruntime_profile"
        self._session = self._ort.InferenceSession(
            str(self._arguments.model), options, providers=["CPUExecutionProvider"]
        )
        inputs = self._session.get_inputs()
        self._names = [value.name for value in inputs]
        return [(_ort_dtype(value.type), tuple(_dimension(d) for d in value.shape)) for value in inputs]

    def prepare(self, inputs: Sequence[np.ndarray[Any, Any]]) -> None:
        self._values = dict(zip(self._names, inputs))  # noqa: B905 (Python 3.9 has no strict)

    def run(self) -> Any:
        return self._session.run(None, self._values)

    def arrays(self, outputs: Any) -> list[np.ndarray[Any, Any]]:
        return [np.asarray(value) for value in outputs]

    def profiled(self, run: Callable[[], Any]) -> Any:
        return run()

    def ops(self, runs: int) -> list[dict[str, Any]]:
        """Operators from ONNX Runtime's profile: node events between two ends of a run, of the last runs."""
        path = Path(self._session.end_profiling())
        events = json.loads(path.read_text())
        path.unlink()
        inferences: list[list[tuple[str, float]]] = [[]]
        for event in events:
            if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
                name = event["name"][: -len("_kernel_time")]
                inferences[-1].append((f"{event['args']['op_name']} {name}", float(event["dur"])))
            elif event.get("cat") == "Session" and event["name"] == "model_run":
                inferences.append([])
        rows = _mean_ops([ops for ops in inferences if ops][-runs:])
        return [{"op": row["name"].partition(" ")[0], **row} for row in rows]


def _saturates() -> bool:
    """Whether this is an x86 processor without VNNI: its product of unsigned and signed bytes saturates, and
    int8 files compute something else unless ONNX Runtime is told to avoid it, at less than half the speed."""
    cpuinfo = Path("/proc/cpuinfo")
    if platform.machine() != "x86_64" or not cpuinfo.exists():
        return False
    flags = next((line for line in cpuinfo.read_text().splitlines() if line.startswith("flags")), "")
    return not {"avx_vnni", "avx512_vnni"} & set(flags.split())


class TorchModel:
    """A TorchScript file, with the qnnpack engine where it has quantised operators."""

    def __init__(self, arguments: Arguments) -> None:
        self._arguments = arguments
        self._specs, quantized = _read_archive(arguments.model)
        _check_torch()
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # its notes are not for standard error
        import torch

        torch.set_num_threads(arguments.threads)
        torch.set_num_interop_threads(1)
        if "qnnpack" in torch.backends.quantized.supported_engines:
            torch.backends.quantized.engine = "qnnpack"
        elif quantized:
            engines = ", ".join(torch.backends.quantized.supported_engines)
            raise Refused(
                EXIT_RUNTIME, f"torch {torch.__version__} has no engine qnnpack here, only {engines}"
            )
        self.runtime = f"torch {torch.__version__}"
        self._torch: Any = torch
        self._profiles: list[list[tuple[str, float]]] = []

    def load(self) -> list[Spec]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.jit is deprecated, and what torch 2.8 and 2.9 run
            self._module = self._torch.jit.load(str(self._arguments.model), map_location="cpu").eval()
        return self._arguments.specs or self._specs

    def prepare(self, inputs: Sequence[np.ndarray[Any, Any]]) -> None:
        self._values = [self._torch.from_numpy(value) for value in inputs]

    def run(self) -> Any:
        # Without the profiling executor the first run optimises and all later ones are the same.
        with self._torch.inference_mode(), self._torch.jit.optimized_execution(False):
            return self._module(*self._values)

    def arrays(self, outputs: Any) -> list[np.ndarray[Any, Any]]:
        return [tensor.detach().contiguous().numpy() for tensor in _flatten(outputs)]

    def profiled(self, run: Callable[[], Any]) -> Any:
        with _torch_profiler(self._torch) as profile:
            outputs = run()
        self._profiles.append(_outermost(profile.function_events))
        return outputs

    def ops(self, runs: int) -> list[dict[str, Any]]:
        return _mean_ops(self._profiles[-runs:])


def _read_archive(path: Path) -> tuple[list[Spec], bool]:
    """Input specs from edgekit.json ([] without one), and whether the code calls quantised operators."""
    specs: list[Spec] = []
    quantized = False
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if name.endswith(f"/extra/{SIGNATURE}"):
                    signature = json.loads(archive.read(name))
                    specs = [(t["dtype"], tuple(t["shape"])) for t in signature["inputs"]]
                elif "/code/" in name and name.endswith(".py"):
                    quantized = quantized or b"ops.quantized" in archive.read(name)
    except (zipfile.BadZipFile, ValueError, KeyError, TypeError) as exc:
        raise Refused(EXIT_RUNTIME, f"{path} is not a TorchScript file: {exc}") from exc
    return specs, quantized


def _check_torch() -> None:
    """Refuse a torch that cannot run here, before importing it ends the process."""
    text = importlib.metadata.version("torch")
    found = re.match(r"(\d+)\.(\d+)", text)
    version = (int(found[1]), int(found[2])) if found else (0, 0)
    oldest = ".".join(map(str, OLDEST_TORCH))
    if version < OLDEST_TORCH:
        raise Refused(EXIT_RUNTIME, f"torch {text} is too old for this file: it needs {oldest} or newer")
    if platform.machine() == "aarch64" and version >= FIRST_TORCH_WITH_LSE and not _has_lse():
        raise Refused(
            EXIT_RUNTIME,
            f"torch {text} needs LSE atomics, which this processor does not have (it would end in SIGILL): "
            f"install torch>={oldest},<{'.'.join(map(str, FIRST_TORCH_WITH_LSE))}",
        )


def _has_lse() -> bool:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return True  # nothing is known: let torch try
    features = [line.split() for line in text.splitlines() if line.startswith("Features")]
    return not features or all("atomics" in words for words in features)


def _torch_profiler(torch: Any) -> Any:
    """The old profiler where it is there: the new one starts a thread, and counts need a single one."""
    try:
        from torch.autograd import profiler_legacy
    except ImportError:
        return torch.autograd.profiler.profile()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated
        profile: Any = profiler_legacy.profile
        return profile()


def _outermost(events: Any) -> list[tuple[str, float]]:
    """Names and microseconds of the operators ("aten::conv2d") that no other operator called, in order."""
    found = []
    for event in sorted(events, key=lambda e: (e.time_range.start, -e.time_range.end)):
        parent = event.cpu_parent
        while parent is not None and "::" not in parent.name:
            parent = parent.cpu_parent
        if "::" in event.name and parent is None:
            found.append((event.name, float(event.time_range.elapsed_us())))
    return found


def _mean_ops(inferences: Sequence[Sequence[tuple[str, float]]]) -> list[dict[str, Any]]:
    """Mean time by position over inferences that ran the same operators as the last one."""
    if not inferences:
        return []
    names = [name for name, _ in inferences[-1]]
    alike = [ops for ops in inferences if [name for name, _ in ops] == names]
    return [
        {"name": name, "us": round(sum(ops[i][1] for ops in alike) / len(alike), 3)}
        for i, name in enumerate(names)
    ]


def _flatten(outputs: Any) -> list[Any]:
    if isinstance(outputs, (list, tuple)):
        return [tensor for value in outputs for tensor in _flatten(value)]
    if isinstance(outputs, dict):
        return [tensor for value in outputs.values() for tensor in _flatten(value)]
    return [outputs]


def _ort_dtype(name: str) -> str:
    return ORT_TYPES.get(name) or name[len("tensor(") : -1]


def _dimension(size: Any) -> int:
    """A dimension that the file leaves open is 1."""
    return size if isinstance(size, int) and size > 0 else 1


def read_inputs(arguments: Arguments, specs: Sequence[Spec]) -> list[np.ndarray[Any, Any]]:
    """The input arrays: from the files of -i, or made up. Raises Refused when they do not fit."""
    if not specs:
        raise Refused(
            EXIT_INPUT, f"{arguments.model} does not tell the shapes of its inputs: give each with -s"
        )
    if not arguments.inputs:
        return [_invent(dtype, shape) for dtype, shape in specs]
    if len(arguments.inputs) != len(specs):
        raise Refused(
            EXIT_INPUT,
            f"model {arguments.model} has {len(specs)} inputs, {len(arguments.inputs)} were given",
        )
    arrays = []
    for path, (dtype, shape) in zip(arguments.inputs, specs):  # noqa: B905 (see above)
        try:
            data = Path(path).read_bytes()
        except OSError as exc:
            raise Refused(EXIT_INPUT, f"cannot read input {path}: {exc.strerror}") from exc
        needed = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        if len(data) != needed:
            much = "short" if len(data) < needed else "long"
            raise Refused(
                EXIT_INPUT, f"input {path} is too {much}: {len(data)} bytes, the model needs {needed}"
            )
        arrays.append(np.frombuffer(data, dtype=dtype).reshape(shape).copy())
    return arrays


def _invent(dtype: str, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """A fixed sequence: floats in [-1, 1), any byte for 8-bit types, zeros for the rest (an index or a
    length must not be random). Linear congruential generator of Numerical Recipes, started at 1.
    """
    count = int(np.prod(shape, dtype=np.int64))
    kind = np.dtype(dtype)
    if kind.kind != "f" and kind not in (np.dtype("int8"), np.dtype("uint8")):
        return np.zeros(shape, dtype=kind)
    # state(n) = a^n + c (1 + a + ... + a^(n-1)), modulo 2^32.
    powers = np.cumprod(np.full(count, 1664525, dtype=np.uint32), dtype=np.uint32)
    sums = np.cumsum(np.concatenate([np.ones(1, np.uint32), powers[:-1]])[:count], dtype=np.uint32)
    state = powers + np.uint32(1013904223) * sums
    if kind.kind == "f":
        return ((state >> 8).astype(np.float64) / 8388608.0 - 1.0).astype(kind).reshape(shape)
    return (state >> 24).astype(np.uint8).view(kind).reshape(shape)


def write_outputs(arguments: Arguments, arrays: Sequence[np.ndarray[Any, Any]]) -> list[dict[str, Any]]:
    """Write the files of -o; size and digest of every output."""
    if arguments.outputs and len(arguments.outputs) != len(arrays):
        raise Refused(
            EXIT_OUTPUT,
            f"model {arguments.model} has {len(arrays)} outputs, {len(arguments.outputs)} names were given",
        )
    digests = []
    for index, array in enumerate(arrays):
        data = np.ascontiguousarray(array).tobytes()
        digests.append({"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()})
        if arguments.outputs:
            try:
                Path(arguments.outputs[index]).write_bytes(data)
            except OSError as exc:
                raise Refused(
                    EXIT_OUTPUT, f"cannot write output {arguments.outputs[index]}: {exc.strerror}"
                ) from exc
    return digests


def _marks() -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Functions that mark begin and end of a measured run for an instruction counter."""
    path = os.environ.get(MARKS)
    if not path:
        return (lambda: None), (lambda: None)
    library = ctypes.CDLL(path)
    return library.begin, library.end


def _peak_rss_kb() -> int:
    """High-water mark of this process, 0 where the kernel does not tell (see litert_run.c)."""
    try:
        found = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) if found else 0


def measure(model: Any, arguments: Arguments) -> tuple[list[float], Any]:
    """Milliseconds of each measured run, and the outputs of the last."""
    begin, end = _marks()
    for _ in range(arguments.warmup):
        model.run()
    times: list[float] = []

    def timed() -> Any:
        start = time.perf_counter()
        begin()
        outputs = model.run()
        end()
        times.append((time.perf_counter() - start) * 1e3)
        return outputs

    outputs: Any = None
    for _ in range(arguments.runs):
        outputs = model.profiled(timed) if arguments.profile else timed()
    return times, outputs


KINDS: dict[str, Any] = {".onnx": OnnxModel, ".pt": TorchModel}  # programs beside this one put theirs here


def run(argv: Sequence[str]) -> None:
    """The whole program. Raises Refused."""
    arguments = Arguments(argv)
    kind = KINDS.get(arguments.model.suffix)
    if kind is None:
        raise Refused(EXIT_USAGE, f"MODEL must end in {' or '.join(KINDS)}, not '{arguments.model.name}'")
    if not os.access(arguments.model, os.R_OK):
        raise Refused(EXIT_INPUT, f"cannot read model {arguments.model}")
    model: Any = kind(arguments)
    start_rss = _peak_rss_kb()
    start = time.perf_counter()
    specs = model.load()
    load_ms = (time.perf_counter() - start) * 1e3
    model.prepare(read_inputs(arguments, specs))
    times, outputs = measure(model, arguments)
    report: dict[str, Any] = {
        "machine": platform.machine(),
        "runtime": model.runtime,
        "load_ms": round(load_ms, 4),
        "runs_ms": [round(t, 6) for t in times],
        "start_rss_kb": start_rss,
        "peak_rss_kb": _peak_rss_kb(),
        "outputs": write_outputs(arguments, model.arrays(outputs)),
    }
    if arguments.profile:
        report["ops"] = model.ops(arguments.runs)
    sys.stdout.write(json.dumps(report, separators=(",", ":")) + "\n")


def _end(code: int, reason: str) -> NoReturn:
    sys.stderr.write(f"python_run: {reason}\n")
    raise SystemExit(code)


def main() -> None:
    """Run, and end with an exit code and one sentence on standard error."""
    try:
        run(sys.argv[1:])
    except Refused as exc:
        _end(exc.code, str(exc))
    except MemoryError:
        _end(EXIT_MEMORY, "out of memory")
    except ImportError as exc:
        _end(EXIT_RUNTIME, f"a package is missing: {exc}")
    except Exception as exc:  # whatever a runtime raises for a file or inputs that it cannot run
        _end(EXIT_RUNTIME, f"{type(exc).__name__}: {exc}")


if __name__ == "__main__":
    main()
