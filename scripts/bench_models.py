"""Every real model on every backend: what converts, how exactly, what int8 costs, how large and how fast.

    python scripts/bench_models.py --realdata DIR [--only MODEL ...] [--target RUNTIME/DELEGATE ...]

DIR holds ``entry.py`` (model factories and datasets), ``weights/`` and ``inputs/``. Each cell runs in a
process of its own: preflight, float file, int8 file (calibrated on up to 200 samples, as `edgekit build`
does), then

    parity    largest |difference| to torch over the largest |value|, worst output, up to 8 samples
    SQNR      of the int8 file's outputs against torch in dB, worst output, on samples that calibration
              has not seen (no labels: the second half of what there is)
    top-1     of torch and of the int8 file, and n, where the data has labels
    size      float bytes / int8 bytes
    speed     median latency float / int8 on this host, one thread, both in one session taking turns
    seconds   float file + int8 file (for executorch: quantise and lower), wall time; and the processor's
              seconds for the int8 file, which other work on the machine lengthens less

A cell is "refused" when planning would refuse it (operator, place and reason are printed below the
table), "FAILED" when it broke after that. Exit code 1 when a cell failed or is above the parity limit.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from real_cases import CASES, Case, labelled

TARGETS = (
    "tflite/xnnpack",
    "executorch/xnnpack",
    "onnx/cpu",
    "onnx/tensorrt",
    "onnx/openvino",
    "torchscript/qnnpack",
)
LIMIT = 1e-3
"""Parity limit of `edgekit build`."""
CALIBRATION, TEST, PARITY, TIMED = 200, 512, 8, 30
CELL_SECONDS = 900


def cell(folder: Path, name: str, target: str, store_root: Path) -> dict[str, Any]:
    """One cell of the table as JSON data; see the module's docstring."""
    import torch

    from edgekit.backends import get_backend
    from edgekit.build.preflight import check_targets
    from edgekit.sources.models import load_model
    from edgekit.store import Store
    from edgekit.types import Scheme, ignore_events
    from edgekit.verify import accuracy, reference

    case = CASES[name]
    calib, test, labels = data_of(folder, case)
    model = load_model(source_of(folder, name, case, store_root), calib=as_data(calib))
    torch.set_num_threads(1)
    runtime, delegate = target.split("/")
    scheme = Scheme(precision="int8", delegate=delegate)
    problems = check_targets(model, [calib[:1]], {target: scheme})[target]
    if problems:
        return {"refused": [str(p) + (f" -> {p.hint}" if p.hint else "") for p in problems]}
    backend, store = get_backend(runtime), Store(store_root)
    want = reference.run_module(model.module, [test])
    samples = [[x[None]] for x in calib]
    start = time.perf_counter()
    floats = backend.export(
        model.module,
        model.spec,
        samples[:PARITY],
        store=store,
        scheme=Scheme(delegate=delegate),
        emit=ignore_events,
    )
    float_s = time.perf_counter() - start
    parity = worst(want, reference.run_session(backend.session(floats), [test[:PARITY]]))
    result: dict[str, Any] = {
        "parity": parity,
        "float_s": float_s,
        "exporter": floats.meta.get("exporter", ""),
        "float_bytes": floats.bytes,
    }
    start, start_cpu = time.perf_counter(), sum(os.times()[:4])
    try:
        int8 = backend.quantize(floats, samples, scheme, refit=True, store=store, emit=ignore_events)
    except Exception as exc:  # a cell tells what broke, the others go on
        return result | {"int8_failed": f"{type(exc).__name__}: {exc}"}
    result |= {"int8_s": time.perf_counter() - start, "int8_cpu_s": sum(os.times()[:4]) - start_cpu}
    got = reference.run_session(backend.session(int8), [test])
    result |= {
        "int8_bytes": int8.bytes,
        "sqnr_db": min(sqnr(w, g) for w, g in zip(want, got, strict=True)),
        "speed": speed(backend.session(floats), backend.session(int8), [test[:1]]),
        "n": len(test),
    }
    if labels is not None:
        result["top1"] = [accuracy.top1(want[0], labels).top1, accuracy.top1(got[0], labels).top1]
    return result


def data_of(folder: Path, case: Case) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """(calibration inputs, test inputs, test labels or None)."""
    if case.calib is not None and case.test is not None:
        test, labels = labelled(folder, case.test, TEST)
        return labelled(folder, case.calib, CALIBRATION)[0], test, labels
    assert case.read is not None
    rows = case.read(folder)
    half = (len(rows) + 1) // 2
    return rows[:half], rows[half:], None


def source_of(folder: Path, name: str, case: Case, scratch: Path) -> str:
    """The factory in entry.py, or one around the part of the model that is deployed."""
    entry = folder / "entry.py"
    if case.part is None:
        return f"{entry}:{name}"
    file = scratch / f"{name.replace('.', '_')}.py"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(
        "import importlib.util\n"
        "import torch\n"
        f"spec = importlib.util.spec_from_file_location('entry', {str(entry)!r})\n"
        "entry = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(entry)\n"
        "class Part(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        f"        self.whole = entry.{name.partition('.')[0]}()\n"
        "    def forward(self, x):\n"
        f"        return self.whole.{case.part}(x)\n"
        "def part():\n"
        "    return Part().eval()\n"
    )
    return f"{file}:part"


def as_data(inputs: np.ndarray) -> Any:
    """Inputs as calibration data, for shapes and dtypes."""
    from edgekit.sources.arrays import Data

    ids = tuple(str(i).encode() for i in range(len(inputs)))
    return Data(role="calib", inputs=(inputs,), labels=None, source="bench", sha256="0" * 64, ids=ids)


def worst(want: Sequence[np.ndarray], got: Sequence[np.ndarray]) -> float:
    """Relative error of the worst output; each is judged by its own scale."""
    from edgekit.verify import numerics

    return max(numerics.closeness([w[: len(g)]], [g]).max_rel for w, g in zip(want, got, strict=True))


def sqnr(want: np.ndarray, got: np.ndarray) -> float:
    """10 log10(signal / noise) in dB."""
    a, b = want.astype(np.float64), got.astype(np.float64)
    noise = ((a - b) ** 2).sum()
    return float(10 * np.log10((a**2).sum() / noise)) if noise > 0 else float("inf")


def speed(floats: Any, int8: Any, sample: Sequence[np.ndarray]) -> float:
    """Median latency of the float session over that of the int8 session, taking turns."""
    times: dict[str, list[float]] = {"float": [], "int8": []}
    sessions = {"float": floats, "int8": int8}
    raw = {k: s.encode(sample) for k, s in sessions.items()}
    for i in range(TIMED + 3):
        for kind, session in sessions.items():
            start = time.perf_counter()
            session.run_raw(raw[kind])
            if i >= 3:
                times[kind].append(time.perf_counter() - start)
    return float(np.median(times["float"]) / np.median(times["int8"]))


def run_cell(folder: Path, name: str, target: str) -> dict[str, Any]:
    """:func:`cell` in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="bench_models_") as scratch:
        command = [sys.executable, __file__, "--realdata", str(folder), "--cell", name, target, scratch]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=CELL_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            return {"failed": f"no result after {CELL_SECONDS} s"}
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        last = next((x for x in reversed(done.stderr.splitlines()) if x.strip()), "no message")
        return {"failed": last[:300]}
    return dict(json.loads(lines[-1]))


HEAD = (
    "model",
    "target",
    "parity",
    "SQNR dB",
    "top-1 float -> int8",
    "n",
    "size",
    "speed",
    "s float + int8",
    "result",
)


def row(name: str, target: str, found: Mapping[str, Any]) -> list[str]:
    """One line of the table."""
    top1 = found.get("top1")
    return [
        name,
        target,
        f"{found['parity']:.1e}" if "parity" in found else "-",
        f"{found['sqnr_db']:.1f}" if "sqnr_db" in found else "-",
        f"{top1[0]:.2f} -> {top1[1]:.2f}" if top1 else "-",
        str(found.get("n", "-")),
        f"{found['float_bytes'] / found['int8_bytes']:.2f}x" if "int8_bytes" in found else "-",
        f"{found['speed']:.2f}x" if "speed" in found else "-",
        f"{found['float_s']:.0f} + {found['int8_s']:.0f} (cpu {found['int8_cpu_s']:.0f})"
        if "int8_s" in found
        else "-",
        verdict(found),
    ]


def verdict(found: Mapping[str, Any]) -> str:
    """Result of a cell in a word or two."""
    if "refused" in found:
        return "refused"
    if "failed" in found or "int8_failed" in found:
        return "FAILED"
    if not found["parity"] <= LIMIT:
        return "NO PARITY"
    return f"ok ({found['exporter']})" if found["exporter"] else "ok"


def notes(results: Sequence[tuple[str, str, Mapping[str, Any]]]) -> list[str]:
    """Reasons of the cells that were refused or failed."""
    lines = []
    for name, target, found in results:
        texts = found.get("refused") or [found.get("failed") or found.get("int8_failed")]
        lines += [f"{name} on {target}: {text}" for text in texts[:2] if text]
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--realdata", type=Path, default=os.environ.get("EDGEKIT_REALDATA"), help="or EDGEKIT_REALDATA"
    )
    parser.add_argument("--only", nargs="+", choices=CASES, metavar="MODEL", help="these models only")
    parser.add_argument("--target", nargs="+", choices=TARGETS, metavar="RUNTIME/DELEGATE", default=TARGETS)
    parser.add_argument(
        "--jobs", type=int, default=1, help="cells at once (figures of speed suffer from more)"
    )
    parser.add_argument("--cell", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.realdata is None:
        parser.error("name the folder of real models with --realdata or EDGEKIT_REALDATA")
    folder = Path(options.realdata).resolve()
    if options.cell:
        name, target, scratch = options.cell
        print(json.dumps(cell(folder, name, target, Path(scratch))))
        return 0
    present = {p.stem for p in (folder / "weights").glob("*.safetensors")}
    names = options.only or [n for n in CASES if n.partition(".")[0] in present]
    missing = sorted(present - {n.partition(".")[0] for n in CASES})
    if missing:
        parser.error(f"scripts/real_cases.py does not know {', '.join(missing)}")
    results = []
    print("| " + " | ".join(HEAD) + " |\n|" + "---|" * len(HEAD), flush=True)
    cells = [(name, target) for name in names for target in options.target]
    with ThreadPoolExecutor(max_workers=options.jobs) as pool:
        for (name, target), found in zip(cells, pool.map(lambda c: run_cell(folder, *c), cells), strict=True):
            results.append((name, target, found))
            print("| " + " | ".join(row(name, target, found)) + " |", flush=True)
    print()
    print("\n".join(notes(results)))
    verdicts = [verdict(found) for _, _, found in results]
    built = sum(v.startswith("ok") for v in verdicts)
    print(f"\n{built} built, {verdicts.count('refused')} refused, {len(verdicts)} cells")
    return 0 if built + verdicts.count("refused") == len(verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
