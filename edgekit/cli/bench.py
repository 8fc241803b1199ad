"""`edgekit bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgekit.cli.console import json_option, print_json, print_table


@click.command("bench")
@click.argument("path", metavar="BUNDLE|FILE", type=click.Path(exists=True, path_type=Path))
@click.option("--device", default="local", show_default=True, metavar="LINK", help="local or emulator.")
@click.option("--profile", metavar="NAME|FILE", help="Device to emulate; without it the bundle's own.")
@click.option(
    "--runs", type=click.IntRange(1), help="Timed runs (50 on a clock, 1 when instructions are counted)."
)
@click.option("--warmup", type=click.IntRange(0), help="Runs that are thrown away first (10, or 1).")
@click.option(
    "--threads", type=click.IntRange(1), default=1, show_default=True, help="Threads of the runtime."
)
@click.option(
    "--per-op", is_flag=True, help="Also list operators: microseconds, or instructions on the emulator."
)
@json_option
def bench(
    path: Path,
    device: str,
    profile: str | None,
    runs: int | None,
    warmup: int | None,
    threads: int,
    per_op: bool,
    as_json: bool,
) -> None:
    """Measure a BUNDLE or a model FILE.

    On this host: latency with median, p90 and the 95 % interval of the median. On the emulator:
    instructions per inference in total and by class, modelled cache misses and memory; its latency means
    nothing and is not reported. Bundles run on their first golden sample, bare files on seeded random values.

    FILE is .tflite, .pte, .onnx or a TorchScript .pt. The times of --per-op come from one further run under
    the runtime's own profiler, which costs time itself.
    """
    from edgekit.bench import bench as run_bench
    from edgekit.cli.targets import open_subject, profile_for, raw_inputs
    from edgekit.devices import open_link
    from edgekit.errors import UserError
    from edgekit.store import Store
    from edgekit.types import RunProtocol, to_json

    subject = open_subject(path)
    store = Store()
    link = open_link(device, profile_for(profile, subject.manifest, device), store)
    emulated = link.source == "emulator"
    if emulated and threads != 1:
        raise UserError("instruction counts are exact with one thread only", hint="leave --threads out")
    protocol = RunProtocol(
        warmup=(1 if emulated else 10) if warmup is None else warmup,
        runs=runs or (1 if emulated else 50),
        threads=threads,
    )
    done = run_bench(
        subject.backend,
        subject.artifact,
        raw_inputs(subject.artifact, subject.manifest),
        link,
        store=store,
        protocol=protocol,
        caches=emulated,
        per_op=per_op,
    )
    measurements: list[dict[str, Any]] = [to_json(m) for m in done.measurements]
    if as_json:
        print_json({"file": str(path), "device": link.facts(), "measurements": measurements})
        return
    rows = [
        (
            m["metric"],
            _figure(m["median"], m["unit"]),
            m["unit"],
            _figure(m["p90"], m["unit"]),
            "" if m["ci95"] is None else " .. ".join(_figure(v, m["unit"]) for v in m["ci95"]),
            str(m["n"]) if m["n"] else "",
            "modelled" if m["detail"].get("modelled") else m["source"],
        )
        for m in measurements
    ]
    print_table(("metric", "median", "unit", "p90", "95 % interval", "n", "source"), rows)
    for m in measurements:
        if m["metric"] == "instructions":
            total = m["median"] or 1
            classes = [
                (k, f"{v:,.0f}", f"{100 * v / total:.1f} %") for k, v in m["detail"]["classes"].items()
            ]
            print_table(("class", "instructions", "share"), classes)
        _print_operators(m["detail"].get("ops", []))


def _print_operators(ops: list[dict[str, Any]]) -> None:
    """Operators in execution order, each with its share of their sum."""
    if not ops:
        return
    unit = "us" if "us" in ops[0] else "instructions"
    total = sum(o[unit] for o in ops) or 1
    figure = "{:,.1f}" if unit == "us" else "{:,.0f}"
    rows = [(o["name"], figure.format(o[unit]), f"{100 * o[unit] / total:.1f} %") for o in ops]
    print_table(("operator", unit, "share"), rows)


def _figure(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    return f"{value:,.4g}" if unit == "ms" else f"{value:,.0f}"
