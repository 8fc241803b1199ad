"""How well latency is predicted without the device, on published measurements.

    python scripts/bench_estimate.py [--realdata DIR]

Reads DIR/latency (EDGEKIT_REALDATA): every ``*_litert.csv`` (device, network, precision, threads, ms, MACs,
bytes moved, operators of networks whose graphs are known), ``xnnpack_readme.csv`` (the same MobileNets on a
Pi 3B+, 32-bit, XNNPACK of 2020) and ``nasbench201_latency_help.npz``; beside it the Pi 5 rows of
``scripts/published`` (EfficientDet-lite by TFLite 2.18 with XNNPACK, means of 50 runs, from the repository
NobuoTsukamoto/benchmarks at 339f3bd, tensorflow/lite/efficentdet/results/RasPi5/
efficientdet_latency_v2.18.0.txt, MIT). Rows of a
device are predicted by the profile that ships for it, through the same function as `edgekit estimate`; what
was fitted to such rows is said, and tested once more with networks left out of a fit. Nothing is run: a
device without rows is not in the table. Exit code 1 when a figure misses its limit.

Limits: mean error (MAPE) at most 12 %, at least 85 % of rows within 20 %, the 90 % interval holds at least
85 %, no wrong decision on int8, NAS-Bench-201 group medians on a Pixel 3 within 3 %.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.measure.estimate import Comparison, Estimate, compare, estimate_latency
from edgekit.measure.estimate.calibration import DESIGN
from edgekit.measure.estimate.fit import Problem, fit, leave_out
from edgekit.profiles import load_profile

PUBLISHED = Path(__file__).resolve().parent / "published"
INPUT_PX = {"lite0": 320, "lite1": 384, "lite2": 448, "lite3": 512, "lite3x": 640, "lite4": 640}
"""EfficientDet-lite: side of the square input (efficientdet.md of NobuoTsukamoto/benchmarks)."""
LEVELS, ANCHORS_PER_CELL, CLASSES = range(3, 8), 9, 90
"""EfficientDet (Tan et al. 2020): pyramid levels P3-P7, 3 scales x 3 aspects; COCO's 90 class ids."""
OPERATORS = ("nor_conv_3x3", "nor_conv_1x1", "avg_pool_3x3", "skip_connect")
FOLDS = 5
README_NETWORKS = {
    "MobileNet v1 1.0X": "v1",
    "MobileNet v2 1.0X": "v2",
    "MobileNet v3 Large": "v3l",
    "MobileNet v3 Small": "v3s",
}
README_BOARD, README_PROFILE = "Raspberry Pi 3+ (BCM2837B0)", "pi3b"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One published measurement and what the shipped profile predicts for it."""

    device: str
    network: str
    precision: str
    threads: int
    ms: float
    dense: float
    depthwise: float
    bytes: float
    ops: int
    predicted: Estimate

    @property
    def scores(self) -> int:
        """Anchors times classes of the detection post-processing; 0 for a network without."""
        if self.network not in INPUT_PX:
            return 0
        sides = [-(-INPUT_PX[self.network] // 2**level) for level in LEVELS]
        return sum(s * s for s in sides) * ANCHORS_PER_CELL * CLASSES


@dataclass(frozen=True, kw_only=True)
class Line:
    """A row of the printed table; ``ok`` None where there is no limit."""

    what: str
    n: int
    figures: str
    limit: str = ""
    ok: bool | None = None


def units(row: Mapping[str, str]) -> list[dict[str, Any]]:
    """A published network as units with its sums: operators' own sizes are not in the file."""
    precision = {"fp32": "float32", "int8": "int8"}[row["precision"]]
    nothing: dict[str, Any] = {
        "op": "ADD",
        "macs": 0,
        "weight_bytes": 0,
        "input_shapes": ((0,),),
        "output_shape": (0,),
        "precision": precision,
    }
    moved = {"macs": int(row["dense_macs"]), "weight_bytes": int(row["bytes_moved"])}
    found = [
        {**nothing, **moved, "op": "CONV_2D"},
        {**nothing, "macs": int(row["depthwise_macs"]), "op": "DEPTHWISE_CONV_2D"},
    ]
    side = INPUT_PX.get(row["network"])
    if side is not None:
        anchors = sum((-(-side // 2**level)) ** 2 for level in LEVELS) * ANCHORS_PER_CELL
        post = {"op": "CUSTOM:TFLite_Detection_PostProcess", "input_shapes": ((anchors, CLASSES),)}
        found.append({**nothing, **post})
    return found + [nothing] * (int(row["ops"]) - len(found))


def read(folder: Path) -> list[Row]:
    """All rows of the folder, and those that lie beside this script, each with its prediction."""
    rows = []
    found = {path.name: path for where in (PUBLISHED, folder) for path in where.glob("*_litert.csv")}
    for _, path in sorted(found.items()):
        with path.open(newline="") as file:
            rows += [row_of(line, line["device"], float(line["ms"])) for line in csv.DictReader(file)]
    return rows


def row_of(line: Mapping[str, str], device: str, ms: float) -> Row:
    """A published line with what the profile ``device`` predicts."""
    profile = load_profile(device)
    target = next(t for t in profile.targets if (t.runtime, t.delegate) == ("tflite", "xnnpack"))
    predicted = estimate_latency(profile, target, units(line), threads=int(line["threads"]))
    if predicted is None:
        raise SystemExit(f"the profile {profile.id} has no coefficients for {target.runtime}")
    return Row(
        device=device,
        network=line["network"],
        precision=line["precision"],
        threads=int(line["threads"]),
        ms=ms,
        dense=float(line["dense_macs"]),
        depthwise=float(line["depthwise_macs"]),
        bytes=float(line["bytes_moved"]),
        ops=int(line["ops"]),
        predicted=predicted,
    )


def read_readme(folder: Path) -> list[Row]:
    """The XNNPACK README's MobileNets on a Pi 3B+; their graphs are those of the Pi 4's rows."""
    path, graphs = folder / "xnnpack_readme.csv", folder / "pi4_litert.csv"
    if not (path.exists() and graphs.exists()):
        return []
    with graphs.open(newline="") as file:
        known = {
            (r["network"], r["precision"]): r for r in csv.DictReader(file) if r["network"] not in INPUT_PX
        }
    rows = []
    with path.open(newline="") as file:
        for r in csv.DictReader(file):
            line = known.get((README_NETWORKS.get(r["model"], ""), r["precision"]))
            if r["device"] == README_BOARD and line is not None:
                rows.append(row_of(line, README_PROFILE, float(r["latency_ms"])))
    return rows


def accuracy(what: str, predicted: Sequence[float], measured: Sequence[float], *, limits: bool) -> Line:
    """MAPE and shares within 10 and 20 %."""
    error = np.abs(np.asarray(predicted) / np.asarray(measured) - 1)
    mape, near, close = error.mean(), (error <= 0.2).mean(), (error <= 0.1).mean()
    figures = (
        f"MAPE {100 * mape:.1f} %, within 10 / 20 %: {100 * close:.0f} / {100 * near:.0f} %, "
        f"worst {100 * error.max():.0f} %"
    )
    if not limits:
        return Line(what=what, n=len(error), figures=figures)
    ok = bool(mape <= 0.12 and near >= 0.85)
    return Line(what=what, n=len(error), figures=figures, limit="MAPE <= 12 %, 85 % within 20 %", ok=ok)


def device_lines(device: str, rows: Sequence[Row]) -> Iterator[Line]:
    """What the shipped profile of a device reaches on its published rows."""
    basis = rows[0].predicted.basis
    ms = [r.ms for r in rows]
    yield accuracy(f"{device}: shipped profile ({basis})", [r.predicted.ms for r in rows], ms, limits=True)
    for precision in ("fp32", "int8"):
        some = [r for r in rows if r.precision == precision]
        yield accuracy(
            f"{device}: {precision}", [r.predicted.ms for r in some], [r.ms for r in some], limits=False
        )
    yield from bandwidth_lines(device, rows)
    held = sum(r.predicted.interval[0] <= r.ms <= r.predicted.interval[1] for r in rows)
    yield Line(
        what=f"{device}: 90 % interval",
        n=len(rows),
        figures=f"holds {held} of {len(rows)} ({100 * held / len(rows):.0f} %)",
        limit=">= 85 %",
        ok=held >= 0.85 * len(rows),
    )
    pairs = [
        (a, b)
        for a in rows
        for b in rows
        if (a.precision, b.precision) == ("fp32", "int8") and (a.network, a.threads) == (b.network, b.threads)
    ]
    if pairs:
        yield decisions(f"{device}: does int8 pay?", pairs, limit=True)
    sizes = [
        (b, a) if a.ms < b.ms else (a, b)
        for a, b in combinations(rows, 2)
        if (a.precision, a.threads) == (b.precision, b.threads)
        and a.network in INPUT_PX
        and b.network in INPUT_PX
    ]
    if sizes:
        yield decisions(f"{device}: is the smaller EfficientDet faster?", sizes, limit=False)


def bandwidth_lines(device: str, rows: Sequence[Row]) -> Iterator[Line]:
    """The same with the profile's own memory figure, where the estimate uses another."""
    profile = load_profile(device)
    assert profile.estimate is not None
    own, used = profile.memory.copy_gb_s, profile.estimate.copy_gb_s
    if own is None or abs(own / used - 1) < 0.05:
        return
    predicted = [r.predicted.ms * (1 + r.predicted.shares["memory"] * (used / own - 1)) for r in rows]
    what = f"{device}: with {own:g} GB/s instead of {used:g}"
    yield accuracy(what, predicted, [r.ms for r in rows], limits=False)


def decisions(what: str, pairs: Sequence[tuple[Row, Row]], *, limit: bool) -> Line:
    """Verdicts on pairs (before, after), against the measured ratio; "measure" is no decision."""
    found: list[tuple[Comparison, float]] = [
        (compare(a.predicted, b.predicted), a.ms / b.ms) for a, b in pairs
    ]
    right = sum(c.verdict == ("faster" if ratio > 1 else "slower") for c, ratio in found)
    wrong = sum(c.verdict == ("slower" if ratio > 1 else "faster") for c, ratio in found)
    held = sum(c.interval[0] <= ratio <= c.interval[1] for c, ratio in found)
    off = [abs(c.ratio / ratio - 1) for c, ratio in found]
    measured = [ratio for _, ratio in found]
    return Line(
        what=what,
        n=len(found),
        figures=f"{right} right, {wrong} wrong, {len(found) - right - wrong} left to measure; ratio off by "
        f"{100 * np.mean(off):.0f} %, worst {100 * max(off):.0f} %, interval holds {held}; measured "
        f"{min(measured):.2f} to {max(measured):.2f}",
        limit="none wrong or left" if limit else "",
        ok=right == len(found) if limit else None,
    )


def left_out_lines(device: str, rows: Sequence[Row]) -> Iterator[Line]:
    """Networks, then families, that a fit has not seen; it starts from the core's figures only."""
    problem = published_problem(device, rows)
    ms = np.asarray([r.ms for r in rows])
    networks = [r.network for r in rows]
    by_network = ms / np.exp(leave_out(problem, networks))
    yield accuracy(f"{device}: fitted, one network left out", by_network.tolist(), ms.tolist(), limits=True)
    family = np.asarray([r.network in INPUT_PX for r in rows])
    if family.all():
        return
    theta = fit(problem.only(family)).theta
    other = problem.only(~family).predict(theta)
    yield accuracy(
        f"{device}: fitted to EfficientDet, tested on MobileNet",
        other.tolist(),
        ms[~family].tolist(),
        limits=False,
    )


def published_problem(device: str, rows: Sequence[Row]) -> Problem:
    """Runs as a fit takes them. What the profile has from these rows (efficiency, int8 rate, post-processing)
    is not used: the prior is the core's fp32 rate, twice that for int8, tinymembench's copy, and a wide
    one for the cost of operators and of post-processing."""
    profile = load_profile(device)
    assert profile.estimate is not None and profile.cores[0].ghz is not None
    lanes, ghz = profile.estimate.macs_per_cycle.fp32, profile.cores[0].ghz
    columns = []
    for r in rows:
        at = 0 if r.precision == "fp32" else 1
        amounts = [0.0] * 7
        amounts[at] = 1e3 * r.dense / (r.threads * ghz * 1e9)
        amounts[2 + at] = 1e3 * r.depthwise / (r.threads * ghz * 1e9)
        amounts[4:] = [1e3 * r.bytes / 1e9, 1e-3 * r.ops, 1e-6 * r.scores]
        columns.append(amounts)
    design = np.zeros((7, 7))
    design[:6, :6] = DESIGN
    design[6, 6] = 1.0
    return Problem(
        terms=np.asarray(columns),
        ms=np.asarray([r.ms for r in rows]),
        design=design,
        prior=np.log([lanes, 2 * lanes, profile.memory.copy_gb_s or 1.0, 1.0, 1.0, 1.0, 10.0]),
        sd=np.asarray([0.3, 0.3, 0.3, 1.0, 0.5, 0.5, 1.0]),
    )


def nasbench_lines(path: Path) -> Iterator[Line]:
    """Whole networks of NAS-Bench-201, fitted on other multisets of operators.

    Cells without ``none`` only: with it, the runtime folds or removes parts (docs/estimate.md). All networks
    have the same skeleton, so that the counts of the four operators are the features. A group is all
    networks with equal counts: its median has most of the noise removed.
    """
    data = np.load(path)
    for device in ("pixel3", "raspi4"):
        live = np.isfinite(data[device]) & (np.char.find(data["arch"], "none") < 0)
        ms = data[device][live].astype(float)
        counts = np.stack([np.char.count(data["arch"][live], op) for op in OPERATORS], axis=1).astype(float)
        keys = [tuple(map(int, row)) for row in counts]
        groups = sorted(set(keys))
        order = np.random.default_rng(0).permutation(len(groups)) % FOLDS
        fold = dict(zip(groups, order.tolist(), strict=True))
        problem = Problem(
            terms=np.concatenate([counts, np.ones((len(ms), 1))], axis=1),
            ms=ms,
            design=np.eye(5),
            prior=np.full(5, math.log(np.median(ms) / 7)),
            sd=np.ones(5),
            noise=0.01,
        )
        predicted = ms / np.exp(leave_out(problem, [fold[k] for k in keys]))
        yield accuracy(
            f"NAS-Bench-201 {device}: other op multisets", predicted.tolist(), ms.tolist(), limits=False
        )
        of = {g: np.asarray([k == g for k in keys]) for g in groups}
        error = np.asarray([abs(np.median(predicted[m]) / np.median(ms[m]) - 1) for m in of.values()])
        limited = device == "pixel3"
        yield Line(
            what=f"NAS-Bench-201 {device}: group medians",
            n=len(groups),
            figures=f"MAPE {100 * error.mean():.1f} %, within 10 %: {100 * (error <= 0.1).mean():.0f} %",
            limit="MAPE <= 3 %" if limited else "",
            ok=bool(error.mean() <= 0.03) if limited else None,
        )


def lines(folder: Path) -> list[Line]:
    """The whole table."""
    rows = read(folder)
    found: list[Line] = []
    for device in sorted({r.device for r in rows}):
        some = [r for r in rows if r.device == device]
        found += [*device_lines(device, some), *left_out_lines(device, some)]
    readme = read_readme(folder)
    if readme:
        found.append(
            accuracy(
                f"{README_PROFILE}: shipped profile (spec), 32-bit rows of 2020",
                [r.predicted.ms for r in readme],
                [r.ms for r in readme],
                limits=False,
            )
        )
    nasbench = folder / "nasbench201_latency_help.npz"
    return [*found, *nasbench_lines(nasbench)] if nasbench.exists() else found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--realdata", default=os.environ.get("EDGEKIT_REALDATA"), metavar="DIR")
    options = parser.parse_args()
    if not options.realdata:
        parser.error("name the folder of published measurements by --realdata or EDGEKIT_REALDATA")
    folder = Path(options.realdata) / "latency"
    if not folder.is_dir():
        parser.error(f"{folder} does not exist")
    found = lines(folder)
    if not found:
        parser.error(f"{folder} has no *_litert.csv and no NAS-Bench-201 latencies")
    for line in found:
        verdict = {None: "", True: "ok", False: "MISSED"}[line.ok]
        print(
            f"{line.what:52} n={line.n:<5} {line.figures}"
            + (f"  [{line.limit}: {verdict}]" if verdict else "")
        )
    return 1 if any(line.ok is False for line in found) else 0


if __name__ == "__main__":
    sys.exit(main())
