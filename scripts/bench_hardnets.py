"""The part "hardnets" of scripts/bench_compress.py; not a program of its own."""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from bench_compress import file_run, head, say, torch_run
from bench_models import sqnr
from bench_resnet56 import CORES, instructions, latencies

TESTS = ("cifar10_test", "cifar10_test_jpeg")
CALIBRATION = 400
"""Half of them from each training set. With 200 the SQNR of one net moved between 27.3 and 29.5 dB with the
choice of the images."""
TRAINING, HELD = 1500, 250
"""Images of each training set, behind those that calibration reads; and behind them, to choose the epoch."""
MAX_DROP, MIN_SQNR = 0.3, 28.0
ROUNDS = 3
"""Times that each file's latency is taken in; the median of them is printed with their range."""
_GATED = "HARD_SWISH"


def run(bench: Any) -> None:
    """Files of both models in every form, what they cost and what they lose, and the limits of the issue."""
    calib = mixed(bench, "calib", 0, CALIBRATION // 2)
    samples = [[calib.inputs[0][i : i + 1]] for i in range(len(calib))]
    tests = {name: bench.data(name, "eval") for name in TESTS}
    for name in bench.options.nets:
        loaded = bench.model(name, tests["cifar10_test"])
        trained = None if bench.options.epochs == 0 else Trained(bench, loaded, calib, tests)
        files = make(bench, loaded, samples, trained)
        table(bench, name, loaded, files, trained, tests)
        if not bench.options.no_emulator:
            by_operator(bench, name, files, tests["cifar10_test"].inputs[0][:1])


def make(
    bench: Any, loaded: Any, samples: Sequence[Any], trained: Trained | None
) -> dict[str, tuple[Any, Any]]:
    """Every file with its session."""
    from edgekit.backends import get_backend
    from edgekit.types import Scheme, ignore_events

    backend = get_backend("tflite")
    common: dict[str, Any] = {"store": bench.store, "emit": ignore_events}
    int8 = Scheme(precision="int8", delegate="xnnpack")

    def export(module: Any) -> Any:
        return backend.export(module, loaded.spec, samples[:8], scheme=Scheme(delegate="xnnpack"), **common)

    def quantized(file: Any, scheme: Any = int8) -> Any:
        return backend.quantize(file, samples, scheme, refit=True, **common)

    floats = export(loaded.module)
    files = {"float": floats, "int8": quantized(floats)}
    kept = {u.name: "float32" for u in backend.units(floats) if u.op == _GATED}
    if kept:
        files[f"int8, {_GATED} in float32"] = quantized(floats, replace(int8, overrides=kept))
        data = rewritten(floats.path)
        sha = bench.store.put_bytes(data)
        spelt = replace(floats, sha256=sha, path=bench.store.get(sha), bytes=len(data))
        files[f"int8, {_GATED} as ADD, MUL, MUL"] = quantized(spelt)
    if trained is not None:
        scheme = replace(int8, calibration="minmax", trained=trained.ranges)
        files["int8, trained"] = quantized(export(trained.module), scheme)
    return {k: (a, backend.session(a)) for k, a in files.items()}


class Trained:
    """A model trained for int8, on images that neither calibration nor the tests have; kept in --work.

    ``ranges`` as a scheme takes them; ``own`` and ``played`` are the outputs of the trained weights on each
    test, in float32 and with int8 played in torch.
    """

    def __init__(self, bench: Any, loaded: Any, calib: Any, tests: Any) -> None:
        from safetensors.torch import load_file, save_file

        name = loaded.spec.name
        weights, rest = bench.work / f"{name}_int8.safetensors", bench.work / f"{name}_int8.npz"
        if not (weights.exists() and rest.exists()):
            made, told = _train(bench, loaded, calib)
            found = {"ranges": np.array([(r.seen_lo, r.seen_hi, r.lo, r.hi) for r in made.ranges])}
            for test, data in tests.items():
                found[f"played_{test}"] = _all(torch_run(made.simulated), data.inputs[0])
            save_file(made.module.state_dict(), weights)
            np.savez(rest, told=np.array(told), **found)
        self.module = copy.deepcopy(loaded.module)
        self.module.load_state_dict(load_file(weights))
        with np.load(rest) as z:
            self.ranges = tuple(tuple(float(v) for v in row) for row in z["ranges"])
            self.played = {test: z[f"played_{test}"] for test in tests}
            print(f"\n{name}: {z['told']}", flush=True)
        self.own = {t: _all(torch_run(self.module), d.inputs[0]) for t, d in tests.items()}


def _train(bench: Any, loaded: Any, calib: Any) -> tuple[Any, str]:
    from edgekit.backends.executorch.toolchain import quiet
    from edgekit.compress.finetune import Settings
    from edgekit.compress.qat import qat

    first = CALIBRATION // 2
    last = first + (bench.options.samples or TRAINING)
    data, held = mixed(bench, "train", first, last), mixed(bench, "train", last, last + HELD)
    epochs = bench.epochs(1)
    settings = Settings(epochs=epochs, lr=0.001, batch_size=64, augment="flip", freeze_bn=0.5)
    start = time.perf_counter()
    with quiet():
        made = qat(
            loaded.module, loaded.module, data, calib, task="classification", settings=settings, val=held
        )
    told = (
        f"{epochs} epochs of training for int8 on {made.train_n} images ({made.val_n} others choose the "
        f"epoch: {made.best_epoch}), {time.perf_counter() - start:.0f} s"
    )
    return made, told


def mixed(bench: Any, role: str, first: int, end: int) -> Any:
    """Images ``first`` to ``end`` of both training sets in turn: what a device sees is not of one kind."""
    from edgekit.sources.arrays import make_data

    names = ("cifar10_train", "cifar10_train_jpeg")
    parts = [bench.data(n, role, end) for n in names]
    x = np.stack([p.inputs[0][first:end] for p in parts], axis=1)
    y = np.stack([p.labels[first:end] for p in parts], axis=1)
    return make_data(role, [x.reshape(-1, *x.shape[2:])], y.reshape(-1), source=" and ".join(names))


def table(
    bench: Any, name: str, loaded: Any, files: dict[str, tuple[Any, Any]], trained: Trained | None, tests: Any
) -> None:
    """Cost and loss of each file, how near the trained file comes to what was played, and the limits."""
    x = {t: d.inputs[0] for t, d in tests.items()}
    sample = x["cifar10_test"][:1]
    latency = [latencies(files, sample) for _ in range(ROUNDS)]
    counts = {} if bench.options.no_emulator else instructions(bench, files, sample)
    outputs = {k: {t: file_run(s)(x[t]) for t in TESTS} for k, (_, s) in files.items()}
    torch_outputs = {t: _all(torch_run(loaded.module), x[t]) for t in TESTS}
    right = {k: [_top1(o[t], tests[t]) for t in TESTS] for k, o in outputs.items()}
    before = [_top1(torch_outputs[t], tests[t]) for t in TESTS]
    lengths = " and ".join(str(len(tests[t])) for t in TESTS)
    head(
        f"{name} on tflite/xnnpack, n = {lengths}; host: one thread, files taking turns, median of "
        f"{ROUNDS} rounds (range)",
        "file", "bytes", "units in int8", "host ms", "of float",
        *(f"{c} instructions, of float" for c in CORES), "SQNR dB, JPEG", "top-1", "top-1, JPEG",
        "drop", "drop, JPEG", "agreement, JPEG",
    )  # fmt: skip
    for key, (artifact, _) in files.items():
        noise = sqnr(torch_outputs[TESTS[1]], outputs[key][TESTS[1]])
        drops = [b - r for b, r in zip(before, right[key], strict=True)]
        same = 100 * (outputs[key][TESTS[1]].argmax(1) == torch_outputs[TESTS[1]].argmax(1)).mean()
        ms = [r[key][0] for r in latency]
        shares = [r[key][0] / r["float"][0] for r in latency]
        needs = [
            f"{counts[key][c] / 1e6:.2f} M, {counts[key][c] / counts['float'][c]:.2f}x" if counts else "-"
            for c in CORES
        ]
        say(
            key, artifact.bytes, _units(artifact), _spread(ms), f"{_spread(shares, 2)}x", *needs,
            "-" if key == "int8, trained" else f"{noise:.1f}",
            *(f"{r:.2f}" for r in right[key]), *(f"{d:.2f}" for d in drops), f"{same:.2f}",
        )  # fmt: skip
    limits(before[1], {k: r[1] for k, r in right.items()}, torch_outputs, outputs, files)
    if trained is None:
        return
    floats = [_top1(trained.own[t], tests[t]) for t in TESTS]
    played = [_top1(trained.played[t], tests[t]) for t in TESTS]
    filed, wanted = outputs["int8, trained"][TESTS[1]], trained.played[TESTS[1]]
    same, noise = 100 * (filed.argmax(1) == wanted.argmax(1)).mean(), sqnr(wanted, filed)
    print(
        f"\nThe trained weights in float32: {floats[0]:.2f} and {floats[1]:.2f} %; with int8 played in "
        f"torch: {played[0]:.2f} and {played[1]:.2f} %; its file agrees with the played model on "
        f"{same:.2f} % of the JPEG images, SQNR {noise:.1f} dB.",
        flush=True,
    )


def by_operator(bench: Any, name: str, files: dict[str, tuple[Any, Any]], sample: np.ndarray) -> None:
    """float32 against int8 by kind of operator: emulated cores, and this host."""
    from edgekit.backends import get_backend
    from edgekit.build.explaining import explain
    from edgekit.build.runner import Runner
    from edgekit.devices.open import open_link
    from edgekit.profiles import load_profile
    from edgekit.types import ignore_events

    runner = Runner(bench.store, ignore_events, 0)
    both = {"float32": files["float"][0], "final": files["int8"][0]}
    places: dict[str, Any] = {}
    for core, profile_id in CORES.items():
        profile = load_profile(profile_id)
        link = open_link("emulator", profile, bench.store)
        found = explain(runner, get_backend("tflite"), link, profile, both, [sample], delegate="xnnpack")
        places |= {core if p["device"] else "host": p for p in found["places"]}
    costs = {place: {r["kind"]: (r["before"], r["after"]) for r in p["rows"]} for place, p in places.items()}
    kinds = dict.fromkeys(r["kind"] for p in places.values() for r in p["rows"])
    units = {place: "us" if p["unit"] == "us" else "M" for place, p in places.items()}
    head(f"{name} by operator, float32 to int8", "kind", *(f"{p}, {units[p]}" for p in places))
    for kind in kinds:
        cells = []
        for place in places:
            pair = costs[place].get(kind, (0.0, 0.0))
            scale, digits = (1.0, 0) if units[place] == "us" else (1e6, 3)
            cells.append(" to ".join(f"{v / scale:.{digits}f}" for v in pair))
        say(kind, *cells)
    print()
    for place, p in places.items():
        print(f"{place}: {p['reason']}")


def limits(
    before: float, right: dict[str, float], wanted: Any, outputs: Any, files: dict[str, tuple[Any, Any]]
) -> None:
    """The limits of the issue, each with what was measured."""
    noise = sqnr(wanted[TESTS[1]], outputs["int8"][TESTS[1]])
    rows = [
        ("post-training, drop on JPEG", before - right["int8"], f"<= {MAX_DROP} points", MAX_DROP),
        ("post-training, -SQNR on JPEG", -noise, f"<= {-MIN_SQNR:g} dB", -MIN_SQNR),
    ]
    if "int8, trained" in files:
        rows.append(
            ("trained, drop on JPEG", before - right["int8, trained"], f"<= {MAX_DROP} points", MAX_DROP)
        )
    print()
    for text, value, limit, most in rows:
        print(f"{text}: {value:.2f}, limit {limit}: {'holds' if value <= most else 'BROKEN'}")
    for kind in ("int8", "int8, trained"):
        if kind in files:
            share = _units(files[kind][0])
            held = len(set(share.split(" of "))) == 1
            print(f"{kind}, units in int8: {share}: {'holds' if held else 'BROKEN'}")
    sys.stdout.flush()


def _units(artifact: Any) -> str:
    from edgekit.backends import get_backend

    units = [u for u in get_backend("tflite").units(artifact) if u.op != "RESHAPE"]
    return f"{sum(u.precision == 'int8' for u in units)} of {len(units)}"


def _all(run: Any, x: np.ndarray) -> np.ndarray:
    return np.concatenate([run(x[i : i + 128]) for i in range(0, len(x), 128)])


def _top1(outputs: np.ndarray, data: Any) -> float:
    return float(100 * (outputs.argmax(1) == data.labels).mean())


def _spread(values: Sequence[float], digits: int = 3) -> str:
    low, high = min(values), max(values)
    return f"{np.median(values):.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def rewritten(path: Path) -> bytes:
    """A float .tflite with every HARD_SWISH spelt as x * (relu6(x + 3) / 6): ADD with RELU6, MUL, MUL.

    In the file itself, as TensorFlow's converter turns the three back into HARD_SWISH.
    """
    from ai_edge_litert import schema_py_generated as schema

    from edgekit.backends.tflite.flatbuffer import read_model, write_model

    model = read_model(path)
    graph = model.subgraphs[0]
    kinds = schema.BuiltinOperator
    codes = [max(c.builtinCode, c.deprecatedBuiltinCode) for c in model.operatorCodes]

    def tensor(name: str, like: Any = None, value: float | None = None) -> int:
        made = schema.TensorT()
        made.name, made.type, made.buffer = name.encode(), schema.TensorType.FLOAT32, 0
        made.shape = np.array([1], np.int32) if like is None else like.shape
        if value is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.float32(value).tobytes(), np.uint8)
            model.buffers.append(buffer)
            made.buffer = len(model.buffers) - 1
        graph.tensors.append(made)
        return len(graph.tensors) - 1

    def operator(kind: str, inputs: Sequence[int], output: int, activation: int) -> Any:
        code = getattr(kinds, kind)
        if code not in codes:
            known = schema.OperatorCodeT()
            known.builtinCode = known.deprecatedBuiltinCode = code
            known.version = 1
            model.operatorCodes.append(known)
            codes.append(code)
        made = schema.OperatorT()
        made.opcodeIndex = codes.index(code)
        made.inputs, made.outputs = np.array(inputs, np.int32), np.array([output], np.int32)
        title = kind.capitalize()
        made.builtinOptionsType = getattr(schema.BuiltinOptions, f"{title}Options")
        made.builtinOptions = getattr(schema, f"{title}OptionsT")()
        made.builtinOptions.fusedActivationFunction = activation
        return made

    three, sixth = tensor("hard_swish/three", value=3.0), tensor("hard_swish/sixth", value=1 / 6)
    none, relu6 = schema.ActivationFunctionType.NONE, schema.ActivationFunctionType.RELU6
    operators = []
    for op in graph.operators:
        if codes[op.opcodeIndex] != kinds.HARD_SWISH:
            operators.append(op)
            continue
        x, y = int(op.inputs[0]), int(op.outputs[0])
        name = graph.tensors[y].name.decode()
        clipped, gate = (tensor(f"{name}/{part}", like=graph.tensors[y]) for part in ("relu6", "gate"))
        operators += [
            operator("ADD", [x, three], clipped, relu6),
            operator("MUL", [clipped, sixth], gate, none),
            operator("MUL", [x, gate], y, none),
        ]
    graph.operators = operators
    return write_model(model)
