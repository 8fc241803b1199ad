"""What each compression method costs and gains on real models.

    python scripts/bench_compress.py --realdata DIR --work DIR [--only PART ...] [--epochs N] [--samples N]

DIR of ``--realdata`` holds ``entry.py`` (model factories and datasets) and ``inputs/``. Parts:

    importances   cifar_resnet20, half of the channels of every group gone by each importance: top-1 before
                  and after fine-tuning; mean over ``--seeds`` runs, and their range
    distillation  the same net pruned by l2, fine-tuned with labels alone and with each kind of distillation
    lowrank       mlperf_tiny_ad_autoencoder by energy: SQNR against the original, float and int8 bytes
    resnet56      the whole recipe: the original fine-tuned, the smaller one taught by it, both in int8; size,
                  host latency (one thread, files taking turns), emulated instructions, top-1 on both tests
    hardnets      hard_mbv3_cifar and hard_effnet_cifar in int8 after training and by training for int8; three
                  ways to write HARD_SWISH: top-1, SQNR, host latency, emulated instructions, time by operator

``--work`` keeps the trained models of "resnet56" and "hardnets" (a stage that is there is not run again)
and the store.
The defaults of "resnet56" are the recipe; ``--epochs`` and ``--samples`` make every part cheaper.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

RATIO, ROUND = 0.5, 8
ENERGIES = (0.999, 0.99, 0.95, 0.9, 0.8)
KINDS = (
    (),
    ("response",),
    ("hint",),
    ("rkd-distance",),
    ("rkd-angle",),
    ("similarity",),
    ("response", "hint"),
)
BLOCKS, LAST_RATIO = {"layer1": 6, "layer2": 4, "layer3": 3}, 0.375
"""Blocks of resnet56 that are left out, of 8 in each stage that can be; and the share of the channels between
the two convolutions of those that are left in the last stage, which hold most of the weights."""
ORIGINAL_EPOCHS, STUDENT_EPOCHS = 3, 18
TIMED, CALIBRATION, HELD = 100, 200, 1000


def say(*cells: object) -> None:
    """One row of a table."""
    print("| " + " | ".join(str(c) for c in cells) + " |", flush=True)


def head(title: str, *cells: str) -> None:
    """Title and head of a table."""
    print(f"\n### {title}\n", flush=True)
    say(*cells)
    print("|" + "---|" * len(cells), flush=True)


class Bench:
    """Options, data and models that the parts share."""

    def __init__(self, options: argparse.Namespace) -> None:
        from edgekit.store import Store

        self.options = options
        self.entry = Path(options.realdata).resolve() / "entry.py"
        self.work: Path = options.work.resolve()
        (self.work / "store").mkdir(parents=True, exist_ok=True)
        self.store = Store(self.work / "store")

    def data(self, name: str, role: str, limit: int | None = None) -> Any:
        """A dataset of entry.py."""
        from edgekit.sources.data import load_data

        return load_data(f"{self.entry}:{name}", role=role, limit=limit)  # type: ignore[arg-type]

    def model(self, name: str, example: Any) -> Any:
        """A model of entry.py."""
        from edgekit.sources.models import load_model

        return load_model(f"{self.entry}:{name}", calib=example)

    def epochs(self, usual: int) -> int:
        """Epochs to train."""
        return int(self.options.epochs or usual)


def top1(run: Callable[[np.ndarray], np.ndarray], data: Any) -> float:
    """Percent of right answers."""
    x = data.inputs[0]
    found = np.concatenate([run(x[i : i + 128]).argmax(1) for i in range(0, len(x), 128)])
    return float(100 * (found == data.labels).mean())


def torch_run(module: Any) -> Callable[[np.ndarray], np.ndarray]:
    """Batches of inputs to outputs of a torch module."""
    import torch

    def run(x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return np.asarray(module(torch.from_numpy(x)))

    return run


def file_run(session: Any) -> Callable[[np.ndarray], np.ndarray]:
    """Batches of inputs to outputs of a file."""
    return lambda x: np.concatenate([session.run([x[i : i + 1]])[0] for i in range(len(x))])


def spread(values: Sequence[float]) -> str:
    """Mean, and the range where there are several."""
    text = f"{statistics.mean(values):.2f}"
    return text if len(values) == 1 else f"{text} ({min(values):.2f} to {max(values):.2f})"


def importances(bench: Bench) -> None:
    """Each importance at the same ratio."""
    from edgekit.compress.finetune import Settings, finetune
    from edgekit.compress.importance import IMPORTANCES
    from edgekit.compress.prune import prune

    train = bench.data("cifar10_train", "train", bench.options.samples)
    test, jpeg = bench.data("cifar10_test", "eval"), bench.data("cifar10_test_jpeg", "eval", 1000)
    loaded = bench.model("cifar_resnet20", test)
    epochs = bench.epochs(3)
    head(
        f"Importances: cifar_resnet20, ratio {RATIO}, {epochs} epochs on {len(train)} images, "
        f"{bench.options.seeds} seeds; n = {len(test)} and {len(jpeg)}",
        "importance", "MACs", "before", "before, JPEG", "after", "after, JPEG",
    )  # fmt: skip
    whole = torch_run(loaded.module)
    say("(unpruned)", "1.00x", f"{top1(whole, test):.2f}", f"{top1(whole, jpeg):.2f}", "-", "-")
    for importance in IMPORTANCES:
        columns: list[list[float]] = [[], [], [], []]
        gain = 0.0
        for seed in range(bench.options.seeds):
            pruned = prune(
                loaded.module,
                loaded.example_inputs,
                ratio=RATIO,
                round_to=ROUND,
                importance=importance,
                probe=train,
                task="classification",
                seed=seed,
            )
            gain = pruned.macs_before / pruned.macs_after if pruned.macs_before and pruned.macs_after else 0
            tuned = finetune(
                pruned.module,
                loaded.module,
                train,
                task="classification",
                settings=Settings(epochs=epochs, seed=seed, augment="flip"),
            )
            runs = (torch_run(pruned.module), torch_run(tuned.module))
            for column, (run, data) in zip(
                columns, [(r, d) for r in runs for d in (test, jpeg)], strict=True
            ):
                column.append(top1(run, data))
        say(importance, f"{gain:.2f}x", *map(spread, columns))


def distillation(bench: Bench) -> None:
    """Each kind against labels alone."""
    from edgekit.compress.finetune import Settings, finetune
    from edgekit.compress.prune import prune

    train = bench.data("cifar10_train", "train", bench.options.samples)
    test, jpeg = bench.data("cifar10_test", "eval"), bench.data("cifar10_test_jpeg", "eval", 1000)
    loaded = bench.model("cifar_resnet20", test)
    pruned = prune(loaded.module, loaded.example_inputs, ratio=RATIO, round_to=ROUND).module
    epochs = bench.epochs(3)
    head(
        f"Distillation: cifar_resnet20, ratio {RATIO} by l2, {epochs} epochs on {len(train)} images, "
        f"{bench.options.seeds} seeds; n = {len(test)} and {len(jpeg)}",
        "kinds", "top-1", "top-1, JPEG",
    )  # fmt: skip
    for kinds in KINDS:
        columns: list[list[float]] = [[], []]
        for seed in range(bench.options.seeds):
            more: dict[str, Any] = {"kinds": kinds} if kinds else {}
            settings = Settings(epochs=epochs, seed=seed, augment="flip", **more)
            teacher = loaded.module if kinds else None
            tuned = finetune(pruned, teacher, train, task="classification", settings=settings)
            for column, data in zip(columns, (test, jpeg), strict=True):
                column.append(top1(torch_run(tuned.module), data))
        say(" + ".join(kinds) or "(labels alone)", *map(spread, columns))


def lowrank(bench: Bench) -> None:
    """SQNR against size of a net of linear layers."""
    import torch
    from bench_models import as_data, sqnr
    from real_cases import CASES

    from edgekit.compress.finetune import Settings, finetune
    from edgekit.compress.lowrank import factorise
    from edgekit.errors import Unsupported
    from edgekit.sources.arrays import make_data

    name = "mlperf_tiny_ad_autoencoder"
    read = CASES[name].read
    assert read is not None
    rows = read(bench.entry.parent)
    fit, test = rows[: len(rows) // 2], rows[len(rows) // 2 :]
    loaded = bench.model(name, as_data(fit))
    want = torch_run(loaded.module)(test)
    epochs = bench.epochs(20)
    train = make_data("train", [fit], None, source="inputs")
    head(
        f"Low rank: {name}, n = {len(test)}; fine-tuned: {epochs} epochs on {len(fit)} windows, "
        "taught by the original",
        "energy", "layers", "MACs", "float bytes", "int8 bytes", "SQNR dB", "fine-tuned", "in int8",
    )  # fmt: skip

    def row(label: str, module: Any, tuned: Any, layers: int, gain: float) -> None:
        files = make_files(bench, loaded, tuned, [[x[None]] for x in fit], "onnx/cpu")
        got = file_run(files["int8"][1])(test)
        plain = "equal" if module is loaded.module else f"{sqnr(want, torch_run(module)(test)):.1f}"
        better = "-" if module is loaded.module else f"{sqnr(want, torch_run(tuned)(test)):.1f}"
        sizes = [files[k][0].bytes for k in ("float", "int8")]
        say(label, layers, f"{gain:.2f}x", *sizes, plain, better, f"{sqnr(want, got):.1f}")

    row("(whole)", loaded.module, loaded.module, 0, 1.0)
    for energy in ENERGIES:
        try:
            made = factorise(loaded.module, loaded.example_inputs, energy=energy)
        except Unsupported:
            say(energy, 0, "-", "-", "-", "no layer gains", "-", "-")
            continue
        with torch.random.fork_rng(devices=[]):
            settings = Settings(epochs=epochs, lr=1e-3, optimizer="adamw", batch_size=16, patience=epochs)
            tuned = finetune(made.module, loaded.module, train, task="generic", settings=settings).module
        assert made.macs_before and made.macs_after
        row(f"{energy:g}", made.module, tuned, len(made.layers), made.macs_before / made.macs_after)


def make_files(
    bench: Bench, loaded: Any, module: Any, samples: Sequence[Any], target: str
) -> dict[str, tuple[Any, Any]]:
    """Float and int8 file of a module, each with its session."""
    from edgekit.backends import get_backend
    from edgekit.types import Scheme, ignore_events

    runtime, delegate = target.split("/")
    backend = get_backend(runtime)
    common: dict[str, Any] = {"store": bench.store, "emit": ignore_events}
    floats = backend.export(module, loaded.spec, samples[:8], scheme=Scheme(delegate=delegate), **common)
    scheme = Scheme(precision="int8", delegate=delegate)
    int8 = backend.quantize(floats, samples, scheme, refit=True, **common)
    return {k: (a, backend.session(a)) for k, a in (("float", floats), ("int8", int8))}


def resnet56(bench: Bench) -> None:
    """Prune, fine-tune with distillation, quantise: against the original fine-tuned on the same data."""
    import bench_resnet56

    bench_resnet56.run(bench)


def hardnets(bench: Bench) -> None:
    """Nets with hard-swish, SiLU and squeeze-and-excite in int8."""
    import bench_hardnets

    bench_hardnets.run(bench)


PARTS: dict[str, Callable[[Bench], None]] = {
    "importances": importances,
    "distillation": distillation,
    "lowrank": lowrank,
    "resnet56": resnet56,
    "hardnets": hardnets,
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--realdata", type=Path, default=os.environ.get("EDGEKIT_REALDATA"), help="or EDGEKIT_REALDATA"
    )
    parser.add_argument("--work", type=Path, required=True, help="folder for trained models and files")
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", default=tuple(PARTS))
    parser.add_argument(
        "--epochs", type=int, help="epochs of every fine-tuning; 0 leaves that of hardnets out"
    )
    parser.add_argument("--samples", type=int, help="most training images of each data set")
    parser.add_argument("--seeds", type=int, default=1, help="runs of each cell")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of training")
    nets = ("hard_mbv3_cifar", "hard_effnet_cifar")
    parser.add_argument("--nets", nargs="+", choices=nets, default=nets, help="models of hardnets")
    parser.add_argument("--no-emulator", action="store_true", help="count no instructions")
    options = parser.parse_args()
    if options.realdata is None:
        parser.error("name the folder of real models with --realdata or EDGEKIT_REALDATA")
    import torch

    torch.set_num_threads(options.threads)
    bench = Bench(options)
    print(f"torch {torch.__version__}, {options.threads} threads", flush=True)
    for part in options.only:
        start = time.perf_counter()
        PARTS[part](bench)
        print(f"\n{part}: {time.perf_counter() - start:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
