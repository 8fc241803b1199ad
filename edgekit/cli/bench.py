"""`edgekit bench`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edgekit.cli.console import json_option, print_json, print_rows, print_table, progress

if TYPE_CHECKING:
    from edgekit.bench import Series
    from edgekit.cli.targets import Subject
    from edgekit.devices import Link
    from edgekit.errors import EdgekitError
    from edgekit.store import Store
    from edgekit.types import Emit

F = TypeVar("F", bound=Callable[..., Any])


class _Numbers(click.ParamType[tuple[int, ...]]):
    """Comma separated numbers, and with ``ranges`` also "4-7"."""

    def __init__(self, name: str, *, lowest: int, ranges: bool = False) -> None:
        self.name = name
        self._lowest, self._ranges = lowest, ranges

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        found: list[int] = []
        for part in str(value).split(","):
            low, dash, high = part.partition("-")
            if not low.isdigit() or (
                dash and not (self._ranges and high.isdigit() and int(low) <= int(high))
            ):
                self.fail(f"{value!r} is not a list such as {self.name}", param, ctx)
            found += range(int(low), int(high or low) + 1)
        if min(found) < self._lowest or max(found) > 1023 or len(set(found)) != len(found):
            self.fail(f"{value!r}: each number from {self._lowest} to 1023, and once", param, ctx)
        return tuple(found)


_OPTIONS = [
    click.option(
        "--device",
        "devices",
        multiple=True,
        default=("local",),
        show_default="local",
        metavar="LINK",
        help="local, emulator, ssh:[user@]host[:port] or adb:SERIAL; may be given repeatedly.",
    ),
    click.option("--profile", metavar="NAME|FILE", help="Device to emulate; without it the bundle's own."),
    click.option(
        "--runs", type=click.IntRange(1), help="Least number of timed runs (the profile's; 1 when counting)."
    ),
    click.option(
        "--warmup", type=click.IntRange(0), help="Runs that are thrown away first (the profile's; 1)."
    ),
    click.option(
        "--min-seconds",
        type=click.FloatRange(0, 3600),
        show_default="1, or 0 with --runs",
        help="Least time of the timed runs together; 20,000 of them are enough.",
    ),
    click.option(
        "--threads",
        type=_Numbers("1,2,4", lowest=1),
        default="1",
        show_default=True,
        metavar="1,2,4",
        help="Threads of the runtime; several are measured one after the other.",
    ),
    click.option(
        "--cores",
        type=_Numbers("4-7", lowest=0, ranges=True),
        metavar="4-7",
        help="Cores to run on; without it the fastest, on devices with several kinds.",
    ),
    click.option(
        "--cool-down",
        type=click.FloatRange(0, 3600),
        default=120.0,
        show_default=True,
        metavar="SECONDS",
        help="Longest wait until the temperature is back before the next measurement.",
    ),
    click.option(
        "--sustained",
        type=click.FloatRange(0, 240, min_open=True),
        metavar="MINUTES",
        help="Also run for so long without a pause, and show how latency changes with heat.",
    ),
    click.option(
        "--per-op", is_flag=True, help="Also list operators: microseconds, or instructions on the emulator."
    ),
    click.option(
        "--benchmark-binary",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="TFLite's benchmark_model for the device, to measure with instead of edgekit's own runner.",
    ),
    click.option(
        "--delegate",
        type=click.Choice(["cpu", "xnnpack", "gpu", "nnapi", "npu"]),
        help="Delegate for --benchmark-binary or the app; without it the bundle's own.",
    ),
    click.option(
        "--via",
        type=click.Choice(["binary", "app"]),
        default="binary",
        show_default=True,
        help="On phones: a program pushed there, or the app of android_demo with Android's own delegates.",
    ),
    click.option(
        "--apk",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="The app to install for --via app; without it the one that is there.",
    ),
]


def _options(function: F) -> F:
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


@click.command("bench")
@click.argument("path", metavar="BUNDLE|FILE", type=click.Path(exists=True, path_type=Path))
@_options
@json_option
def bench(path: Path, devices: tuple[str, ...], profile: str | None, as_json: bool, **options: Any) -> None:
    """Measure a BUNDLE or a model FILE.

    On a device and on this host: latency with median, p90, p99 and the 95 % interval of the median, first
    run, loading and memory. On the emulator: instructions per inference in total and by class, modelled cache
    misses and memory; its latency means nothing and is not reported. Bundles run on their first golden
    sample, bare files on seeded random values.

    FILE is .tflite, .pte, .onnx or a TorchScript .pt. The times of --per-op come from one further run under
    the runtime's own profiler, which costs time itself. Several devices are measured one after the other.
    """
    from edgekit.cli.bench_app import refuse_other_outputs
    from edgekit.cli.targets import open_subject, profile_for
    from edgekit.devices import open_link
    from edgekit.errors import DeviceError, EdgekitError
    from edgekit.store import Store

    subject, store = open_subject(path), Store()
    results: list[dict[str, Any]] = []
    failures: list[tuple[str, EdgekitError]] = []
    with progress() as emit:
        for device in devices:
            try:
                link = open_link(device, profile_for(profile, subject.manifest, device), store)
                try:
                    results.append(_measure(subject, link, store, profile, emit, options))
                finally:
                    link.close()
            except EdgekitError as exc:
                if len(devices) == 1:
                    raise
                failures.append((device, exc))
    if as_json:
        only = results[0] if len(devices) == 1 and results else {}
        shown = {k: only[k] for k in ("device", "measurements") if k in only}
        errors = [{"link": device, "error": str(exc), "hint": exc.hint} for device, exc in failures]
        print_json({"file": str(path), **shown, "results": results, "errors": errors})
    else:
        for result in results:
            _print(result, named=len(devices) > 1)
    if options["via"] == "app":
        refuse_other_outputs(results)
    if failures:
        raise DeviceError("; ".join(f"{device}: {exc}" for device, exc in failures), hint=failures[0][1].hint)


def _measure(
    subject: Subject, link: Link, store: Store, profile: str | None, emit: Emit, options: Mapping[str, Any]
) -> dict[str, Any]:
    from edgekit.bench import SeriesPlan, bench_series
    from edgekit.bench.benchmark_model import bench_with_binary
    from edgekit.cli.bench_app import measure_with_app
    from edgekit.cli.targets import profile_for, raw_inputs
    from edgekit.errors import UserError

    emulated = link.source == "emulator"
    if emulated and options["threads"] != (1,):
        raise UserError("instruction counts are exact with one thread only", hint="leave --threads out")
    found = profile_for(profile, subject.manifest, link.name)
    usual = (found.protocol.warmup, found.protocol.runs) if found else (10, 50)
    if emulated:
        usual = (1, 1)
    minutes = options["sustained"]
    plan = SeriesPlan(
        warmup=usual[0] if options["warmup"] is None else options["warmup"],
        runs=options["runs"] or usual[1],
        min_seconds=_least(options),
        threads=options["threads"],
        cpus=options["cores"],
        cool_down_s=options["cool_down"],
        sustained_s=None if minutes is None else 60 * minutes,
        per_op=options["per_op"],
    )
    if options["via"] == "app":
        if options["benchmark_binary"] is not None:
            raise UserError("--benchmark-binary is a way without the app", hint="leave out --via app")
        series, golden = measure_with_app(subject, link, plan, emit, options)
        return {**_to_data(series), "golden": golden}
    if options["apk"] is not None:
        raise UserError("--apk is for --via app", hint="add --via app")
    if options["benchmark_binary"] is not None:
        delegate = options["delegate"] or _delegate_of(subject)
        return _to_data(
            bench_with_binary(options["benchmark_binary"], delegate, subject.artifact, link, plan=plan)
        )
    if options["delegate"] is not None:
        raise UserError(
            "--delegate is for --benchmark-binary and --via app: edgekit's runners have one each",
            hint="leave it out, or give the benchmark_model program for the device or the app",
        )
    if subject.manifest is not None and link.source == "device":
        from edgekit.bench.jetson import SCRIPT, bench_jetson
        from edgekit.deploy import bundle_files

        files = bundle_files(subject.manifest.root)
        if SCRIPT in files:
            return _to_data(bench_jetson(files, link, store=store, emit=emit))
    inputs = raw_inputs(subject.artifact, subject.manifest)
    return _to_data(
        bench_series(subject.backend, subject.artifact, inputs, link, store=store, plan=plan, emit=emit)
    )


def _least(options: Mapping[str, Any]) -> float:
    """Who gives a number of runs gets that number."""
    given: float | None = options["min_seconds"]
    return given if given is not None else 0.0 if options["runs"] else 1.0


def _delegate_of(subject: Subject) -> str:
    """The first delegate of a bundle that benchmark_model knows; XNNPACK is what it takes by itself."""
    known = ("gpu", "nnapi", "xnnpack", "cpu")
    listed = subject.manifest.data["runtime"].get("delegates", ()) if subject.manifest else ()
    return next((name for name in listed if name in known), "xnnpack")


def _to_data(series: Series) -> dict[str, Any]:
    from edgekit.types import to_json

    return {
        "link": series.link,
        "device": to_json(series.device),
        "outputs_sha256": series.outputs_sha256,
        "measurements": [to_json(m) for m in series.measurements],
    }


_COLUMNS = ("metric", "median", "unit", "threads", "p90", "p99", "95 % interval", "n", "source")


def _print(result: Mapping[str, Any], *, named: bool) -> None:
    measurements = result["measurements"]
    if named:
        device = result["device"]
        known = [str(device[k]) for k in ("name", "soc", "os") if device.get(k)]
        print_rows([("device", f"{result['link']}: {', '.join(known)}")])
    print_table(_COLUMNS, [_row(m) for m in measurements])
    notes = [
        note for m in measurements if m["metric"] in ("latency", "sustained_latency") for note in _notes(m)
    ]
    if "golden" in result:
        from edgekit.cli.bench_app import golden_words

        notes.append(("golden samples", golden_words(result["golden"])))
    if notes:
        print_rows(notes)
    for m in measurements:
        if m["metric"] == "instructions":
            total = m["median"] or 1
            classes = [
                (k, f"{v:,.0f}", f"{100 * v / total:.1f} %") for k, v in m["detail"]["classes"].items()
            ]
            print_table(("class", "instructions", "share"), classes)
        _print_curve(m["detail"].get("curve", []))
        _print_operators(m["detail"].get("ops", []))


def _row(m: Mapping[str, Any]) -> tuple[str, ...]:
    engine = m["detail"].get("engine")
    return (
        f"{m['metric']}, {engine}" if engine else m["metric"],
        _figure(m["median"], m["unit"]),
        m["unit"],
        str(m["threads"]),
        _figure(m["p90"], m["unit"]),
        _figure(m["detail"].get("p99"), m["unit"]),
        "" if m["ci95"] is None else " .. ".join(_figure(v, m["unit"]) for v in m["ci95"]),
        str(m["n"]) if m["n"] else "",
        "modelled" if m["detail"].get("modelled") else m["source"],
    )


def _notes(m: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a latency was measured under, one line."""
    detail = m["detail"]
    celsius = [f"{c:.1f}" for c in detail.get("celsius", ()) if c is not None]
    runtime = detail["runtime"] if detail.get("via") == "app" else None
    python = detail.get("python")
    parts = [
        f"by the device's Python, {python['runtime']}: {python['because']}" if python else "",
        f"{runtime['name']} {runtime['version']} on {detail['delegate']}" if runtime else "",
        f"cores {','.join(map(str, detail['cores']))}" if detail.get("cores") else "",
        f"governor {detail['governor']}" if detail.get("governor") else "",
        f"{' to '.join(celsius)} °C" if celsius else "",
        "throttled" if detail.get("throttled") else "",
        _battery_words(detail.get("battery") or [None]),
        f"cooled down for {detail['cooled_down_s']:.0f} s" if detail.get("cooled_down_s") else "",
        f"{detail['power_mw'] / 1000:.2f} W" if detail.get("power_mw") else "",
        f"no TensorRT was run: {detail['stand_in']} answered" if detail.get("stand_in") else "",
        f"chosen: {detail['why']}" if detail.get("why") else "",
        *(f"{name} is out: {reason}" for name, reason in detail.get("left_out", {}).items()),
        f"{detail['slowdown']:.2f} times as slow at the end" if "slowdown" in detail else "",
    ]
    text = ", ".join(part for part in parts if part)
    return [(f"{m['metric']}, threads {m['threads']}", text)] if text else []


def _battery_words(before_and_after: Sequence[Mapping[str, Any] | None]) -> str:
    """What the battery was at the end; nothing of a device that has none."""
    last = before_and_after[-1]
    if last is None:
        return ""
    charging = {True: "charging", False: "not charging", None: ""}[last["charging"]]
    figures = (
        f"{last['percent']:.0f} %" if last["percent"] is not None else "",
        f"{last['celsius']:.1f} °C" if last["celsius"] is not None else "",
    )
    known = [word for word in (*figures, charging) if word]
    return "battery " + " ".join(known) if known else ""


def _print_curve(curve: Sequence[Mapping[str, Any]]) -> None:
    if curve:
        rows = [(f"{p['second']:.1f}", f"{p['median_ms']:,.4g}", str(p["n"])) for p in curve]
        print_table(("until second", "median ms", "n"), rows)


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
