"""The part "resnet56" of scripts/bench_compress.py; not a program of its own."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
from bench_compress import (
    BLOCKS,
    CALIBRATION,
    HELD,
    LAST_RATIO,
    ORIGINAL_EPOCHS,
    ROUND,
    STUDENT_EPOCHS,
    TIMED,
    file_run,
    head,
    make_files,
    say,
    top1,
)

NAMES = ("original", "pruned")
CORES = {"a72": "pi4", "a76": "pi5"}
PUBLISHED = (
    ("pruned", "2.0x", "1.5x", "0.8"),
    ("int8", "4.0x", "2.0x", "0.3"),
    ("both", "8.0x", "3.0x", "1.5"),
)
"""Of a published table, ResNet-50 with half of it pruned, in int8, and with both: smaller, faster, points
lost. Not measured here."""


def run(bench: Any) -> None:
    """Train what is not trained yet, make four files, and compare them."""
    data = {n: bench.data(n, "eval", bench.options.samples) for n in ("cifar10_test", "cifar10_test_jpeg")}
    loaded = bench.model("cifar_resnet56", data["cifar10_test"])
    modules = dict(zip(NAMES, trained(bench, loaded), strict=True))
    calib = bench.data("cifar10_train", "calib", CALIBRATION)
    samples = [[calib.inputs[0][i : i + 1]] for i in range(len(calib))]
    files = {
        (name, kind): pair
        for name, module in modules.items()
        for kind, pair in make_files(bench, loaded, module, samples, "tflite/xnnpack").items()
    }
    latency = latencies(files, data["cifar10_test"].inputs[0][:1])
    counts = (
        {} if bench.options.no_emulator else instructions(bench, files, data["cifar10_test"].inputs[0][:1])
    )
    base = ("original", "float")
    sizes = {key: artifact.bytes for key, (artifact, _) in files.items()}
    right = {key: [top1(file_run(s), d) for d in data.values()] for key, (_, s) in files.items()}
    lengths = " and ".join(str(len(d)) for d in data.values())
    head(
        f"cifar_resnet56 on tflite/xnnpack, n = {lengths}, latency: median (p10 to p90) of {TIMED}",
        "file", "bytes", "smaller", "host ms", "faster", *(f"{c} instructions, fewer" for c in CORES),
        "top-1", "top-1, JPEG", "drop", "drop, JPEG",
    )  # fmt: skip
    for key in files:
        fewer = [
            f"{counts[key][c] / 1e6:.1f} M, {counts[base][c] / counts[key][c]:.2f}x" if counts else "-"
            for c in CORES
        ]
        drops = [f"{b - r:.2f}" for b, r in zip(right[base], right[key], strict=True)]
        say(
            f"{key[0]} {key[1]}", sizes[key], f"{sizes[base] / sizes[key]:.2f}x",
            "{:.3f} ({:.3f} to {:.3f})".format(*latency[key]),
            f"{latency[base][0] / latency[key][0]:.2f}x", *fewer, *(f"{r:.2f}" for r in right[key]), *drops,
        )  # fmt: skip
    for what, smaller, faster, lost in PUBLISHED:
        say(f"published, ResNet-50: {what}", "-", smaller, "-", faster, "-", "-", "-", "-", lost, "-")


def trained(bench: Any, loaded: Any) -> tuple[Any, Any]:
    """The original fine-tuned on labels, and the smaller model taught by it."""
    from safetensors.torch import load_file, save_file

    from edgekit.compress.depth import apply_depth, remove_blocks
    from edgekit.compress.finetune import Settings, finetune
    from edgekit.compress.history import apply_history
    from edgekit.compress.prune import prune

    original, student, record = (
        bench.work / f"resnet56_{name}"
        for name in ("original.safetensors", "pruned.safetensors", "depth.json")
    )
    train = val = None
    if not (original.exists() and student.exists() and record.exists()):
        train, val = training_data(bench)
    common: dict[str, Any] = {
        "batch_size": 128, "patience": 1000, "augment": "flip-shift", "precision": "bfloat16"
    }  # fmt: skip
    teacher = loaded.module
    if original.exists():
        teacher.load_state_dict(load_file(original))
    else:
        assert train is not None
        epochs = bench.epochs(ORIGINAL_EPOCHS)
        settings = Settings(epochs=epochs, lr=0.02, **common)
        start = time.perf_counter()
        tuned = finetune(teacher, None, train, task="classification", settings=settings, val=val, emit=tell)
        print(
            f"original: {epochs} epochs on {len(train)} images, {time.perf_counter() - start:.0f} s",
            flush=True,
        )
        teacher = tuned.module
        save_file(teacher.state_dict(), original)
    if record.exists():
        shallow = apply_depth(teacher, json.loads(record.read_text()))
    else:
        made = remove_blocks(teacher, loaded.example_inputs, blocks=BLOCKS, probe=train, emit=tell)
        shallow = made.module
        record.write_text(json.dumps(made.record))
    last = [n for n, _ in shallow.named_modules() if n.startswith("layer3.") and n.endswith(".conv1")]
    pruned = prune(
        shallow, loaded.example_inputs, ratio=0, round_to=ROUND, probe=train,
        ratios=dict.fromkeys(last, LAST_RATIO),
        importance="taylor" if train is not None else "l2", task="classification",
    )  # fmt: skip
    if student.exists():  # its widths follow from the ratios, whichever channels have gone
        return teacher, apply_history(shallow, pruned.history, load_file(student))
    assert train is not None
    epochs = bench.epochs(STUDENT_EPOCHS)
    settings = Settings(epochs=epochs, lr=0.05, **common)
    start = time.perf_counter()
    tuned = finetune(
        pruned.module, teacher, train, task="classification", settings=settings, val=val, emit=tell
    )
    print(f"pruned: {epochs} epochs on {len(train)} images, {time.perf_counter() - start:.0f} s", flush=True)
    save_file(tuned.module.state_dict(), student)
    return teacher, tuned.module


def training_data(bench: Any) -> tuple[Any, Any]:
    """All training images of both sets, of which HELD are kept for choosing the best epoch."""
    from edgekit.sources.arrays import make_data

    parts = [bench.data(n, "train", bench.options.samples) for n in ("cifar10_train", "cifar10_train_jpeg")]
    x, y = (np.concatenate(a) for a in ([p.inputs[0] for p in parts], [p.labels for p in parts]))
    both = make_data("train", [x], y, source="cifar10_train and cifar10_train_jpeg")
    order = np.random.default_rng(0).permutation(len(both))
    held = min(HELD, len(both) // 10)
    return both.take(order[held:].tolist()), both.take(order[:held].tolist())


def tell(event: Any) -> None:
    """Print the end of each epoch."""
    if event.message:
        print(event.message, flush=True)


def latencies(files: dict[Any, Any], sample: np.ndarray) -> dict[Any, tuple[float, float, float]]:
    """Milliseconds of each file's session, one thread, taking turns: median, 10th and 90th percentile."""
    raw = {key: session.encode([sample]) for key, (_, session) in files.items()}
    times: dict[Any, list[float]] = {key: [] for key in files}
    for i in range(TIMED + 5):
        for key, (_, session) in files.items():
            start = time.perf_counter()
            session.run_raw(raw[key])
            if i >= 5:
                times[key].append(1e3 * (time.perf_counter() - start))
    return {key: tuple(np.percentile(t, (50, 10, 90)).tolist()) for key, t in times.items()}


def instructions(bench: Any, files: dict[Any, Any], sample: np.ndarray) -> dict[Any, dict[str, float]]:
    """Instructions per inference on emulated cores."""
    from edgekit.backends import get_backend
    from edgekit.bench import bench as measure
    from edgekit.devices.open import open_link
    from edgekit.profiles import load_profile
    from edgekit.types import RunProtocol

    backend = get_backend("tflite")
    found: dict[Any, dict[str, float]] = {key: {} for key in files}
    for core, profile in CORES.items():
        link = open_link("emulator", load_profile(profile), bench.store)
        for key, (artifact, session) in files.items():
            done = measure(
                backend, artifact, session.encode([sample]), link, store=bench.store,
                protocol=RunProtocol(warmup=1, runs=1),
            )  # fmt: skip
            count = next(m.median for m in done.measurements if m.metric == "instructions")
            assert count is not None
            found[key][core] = count
    return found
