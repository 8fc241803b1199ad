"""What `edgekit build` costs and gives, measured in fresh processes with a fresh cache.

    python scripts/bench_build.py [--realdata DIR] [--only NAME ...] [--out DIR] [--markdown]

Builds the built-in demo and, where DIR holds the real models and data (its ``entry.py``), four of them
with INT8 after training. Each is built twice: the first time with an empty cache, the second time with
everything cached. Memory is the sum of the resident sets of the whole process tree, sampled every
0.1 s; pages that processes share count once for each.
Exit code 1 when a build ends with another code than 0, or `edgekit --help` imports torch.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

SAMPLE_S = 0.1
HELP_RUNS = 10
TIMEOUT_S = 1800
GATE_FAILED = 6
"""Exit code of a build that wrote a bundle but broke a limit."""
EDGEKIT = str(Path(sys.executable).with_name("edgekit"))

REAL = {
    "cifar_resnet20": ("1,3,32,32", "cifar10_train", "cifar10_test"),
    "cifar_resnet56": ("1,3,32,32", "cifar10_train", "cifar10_test"),
    "mlperf_tiny_ic_resnet8": ("1,3,32,32", "cifar10_raw_train", "cifar10_raw_test"),
    "mobilenet_v2_10_224_tf2_deq": ("1,3,224,224", "imagenet224_calib", "imagenet224_test"),
}
"""Model factory of entry.py: input shape, calibration and evaluation data."""
DEMO = "digits_demo"


@dataclass(frozen=True, kw_only=True)
class Run:
    """One process from start to end."""

    seconds: float
    peak_bytes: int
    returncode: int
    stderr: str


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Two builds of one model; ``report`` is the first one's."""

    name: str
    first: Run
    second: Run
    report: dict[str, Any] = field(default_factory=dict)


def run(command: Sequence[str], env: dict[str, str]) -> Run:
    """Run a command and watch the memory of all its processes."""
    start = time.perf_counter()
    quiet: Any = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    process = psutil.Popen(list(command), env=env, **quiet)
    peak, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(SAMPLE_S):
            peak[0] = max(peak[0], tree_rss(process))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        _, stderr = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    finally:
        seconds = time.perf_counter() - start
        done.set()
        watcher.join()
    return Run(seconds=seconds, peak_bytes=peak[0], returncode=process.returncode, stderr=stderr)


def tree_rss(process: psutil.Process) -> int:
    """Resident bytes of a process and all its descendants, 0 when it has ended."""
    try:
        members = [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    total = 0
    for member in members:
        try:
            total += member.memory_info().rss
        except psutil.NoSuchProcess:  # it ended between the two calls
            continue
    return total


def bench(name: str, realdata: Path | None, out: Path) -> Bench:
    """Build twice; the cache is empty before the first build."""
    command = [EDGEKIT, "build", "--profile", "pi4", "--out", str(out)]
    if name != DEMO:
        shape, calib, evaluation = REAL[name]
        entry = f"{realdata}/entry.py"
        command += [f"{entry}:{name}", "--input-shape", shape]
        command += ["--calib", f"{entry}:{calib}", "--eval", f"{entry}:{evaluation}"]
    with tempfile.TemporaryDirectory(prefix="bench_build_") as cache:
        env = os.environ | {"EDGEKIT_CACHE": cache}
        first = run(command, env)
        if first.returncode not in (0, GATE_FAILED):
            return Bench(name=name, first=first, second=first)
        report = json.loads((out / name / "pi4" / "report.json").read_text())
        return Bench(name=name, first=first, second=run(command, env), report=report)


def help_seconds() -> list[float]:
    """Wall time of `edgekit --help`."""
    times = []
    for _ in range(HELP_RUNS):
        start = time.perf_counter()
        subprocess.run([EDGEKIT, "--help"], stdout=subprocess.DEVNULL, check=True)
        times.append(time.perf_counter() - start)
    return times


def help_imports_torch() -> bool:
    """Whether `edgekit --help` imports torch."""
    code = "import sys; from edgekit.cli.main import run; run(['--help']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1] == "True"


def figure(value: float | None, form: str, scale: float = 1.0) -> str:
    """A number as text; a dash where it was not measured."""
    return "-" if value is None else format(value * scale, form)


def instructions(report: dict[str, Any], subject: str) -> float | None:
    """Counted arm64 instructions per inference."""
    found = [m for m in report["measurements"] if m["metric"] == "instructions" and m["subject"] == subject]
    return found[0]["median"] if found else None


def sqnr(report: dict[str, Any]) -> float | None:
    """SQNR of the final file against the torch model that it was made from."""
    stage = f"{report['plan']['scheme']['precision']} file"
    return next((row["sqnr_db"] for row in report["numerics"] if row["stage"] == stage), None)


def quality(benches: Sequence[Bench]) -> list[list[str]]:
    """What the builds give."""
    head = ["model", "top-1 %", "drop", "n", "agree %", "SQNR dB", "float kB", "file kB", "smaller"]
    head += ["Minstr float", "Minstr file", "fewer", "status"]
    rows = [head]
    for b in benches:
        r = b.report
        if not r:
            rows.append([b.name, *["-"] * (len(head) - 2), f"exit {b.first.returncode}"])
            continue
        accuracy, agreement = r["accuracy"] or {}, r["agreement"] or {}
        before, after = instructions(r, "baseline"), instructions(r, "final")
        rows.append(
            [
                b.name,
                f"{figure(accuracy.get('baseline'), '.2f')} → {figure(accuracy.get('final'), '.2f')}",
                figure(accuracy.get("drop"), "+.2f"),
                figure(accuracy.get("n"), "d", 1),
                figure(agreement.get("top1"), ".2f"),
                figure(sqnr(r), ".1f"),
                figure(r["size"]["baseline_bytes"], ".0f", 1e-3),
                figure(r["size"]["final_bytes"], ".0f", 1e-3),
                figure(r["size"]["ratio"], ".2f") + "x",
                figure(before, ".2f", 1e-6),
                figure(after, ".2f", 1e-6),
                "-" if not before or not after else f"{before / after:.2f}x",
                r["status"],
            ]
        )
    return rows


def costs(benches: Sequence[Bench]) -> list[list[str]]:
    """What the builds cost: seconds by stage, and peak memory so far as edgekit itself reports it."""
    names: list[str] = []
    for b in benches:
        for stage in b.report.get("stages", ()):
            if stage["name"] not in names:
                names.append(stage["name"])
    rows = [["seconds (peak MB so far)", *(b.name for b in benches)]]
    for name in names:
        row = [name]
        for b in benches:
            found = [s for s in b.report.get("stages", ()) if s["name"] == name]
            row.append(
                "-" if not found else f"{found[0]['seconds']:.1f} ({found[0]['peak_rss_bytes'] / 1e6:.0f})"
            )
        rows.append(row)
    rows.append(["whole build, s", *(f"{b.first.seconds:.1f}" for b in benches)])
    rows.append(["peak of all its processes, MB", *(f"{b.first.peak_bytes / 1e6:.0f}" for b in benches)])
    rows.append(["the same build again, s", *(f"{b.second.seconds:.1f}" for b in benches)])
    return rows


def table(rows: Sequence[Sequence[str]], *, markdown: bool) -> str:
    """Rows, the first of which is the head, as a Markdown table or aligned plain text."""
    if markdown:
        lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows)


def machine() -> str:
    """Processor, cores and memory of this machine."""
    model = platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        named = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line
        ]
        model = named[0] if named else model
    memory = psutil.virtual_memory().total / 1e9
    return f"{model}, {os.cpu_count()} cores, {memory:.0f} GB, Python {platform.python_version()}"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--realdata", type=Path, default=os.environ.get("EDGEKIT_REALDATA"), help="or EDGEKIT_REALDATA"
    )
    parser.add_argument("--only", nargs="+", choices=[DEMO, *REAL], help="these models only")
    parser.add_argument("--out", type=Path, help="keep bundles and reports here")
    parser.add_argument("--markdown", action="store_true", help="print Markdown tables")
    options = parser.parse_args()
    realdata = None if options.realdata is None else Path(options.realdata).resolve()
    names = options.only or [DEMO, *(REAL if realdata else ())]
    if realdata is None and set(names) != {DEMO}:
        parser.error("the real models need --realdata or EDGEKIT_REALDATA")
    load = os.getloadavg()[0]
    helps, torch_imported = help_seconds(), help_imports_torch()
    benches = []
    with tempfile.TemporaryDirectory(prefix="bench_build_out_") as scratch:
        out = options.out or Path(scratch)
        for name in names:
            benches.append(bench(name, realdata, out))
            last = benches[-1]
            print(
                f"{name}: exit {last.first.returncode} in {last.first.seconds:.1f} s",
                file=sys.stderr,
                flush=True,
            )
            if last.first.returncode != 0:
                print(last.first.stderr[-2000:], file=sys.stderr)
    print(table(quality(benches), markdown=options.markdown), end="\n\n")
    print(table(costs(benches), markdown=options.markdown), end="\n\n")
    print(
        f"`edgekit --help`: median {statistics.median(helps):.2f} s of {len(helps)} "
        f"({min(helps):.2f} to {max(helps):.2f}); imports torch: {'yes' if torch_imported else 'no'}."
    )
    print(
        f"{datetime.now(UTC):%Y-%m-%d}; {machine()}; load average {load:.1f} before the first build. "
        "One build of each model with an empty cache and one with a full one (n = 1 each); "
        "instructions are per inference on an emulated Cortex-A72, counted exactly; SQNR is that of the file "
        "against the torch model that it was made from."
    )
    failed = any(b.first.returncode or b.second.returncode for b in benches)
    return 1 if failed or torch_imported else 0


if __name__ == "__main__":
    sys.exit(main())
