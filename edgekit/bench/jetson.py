"""Bundles for TensorRT: engines built, checked, timed and chosen on the Jetson by the bundle's scripts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.backends.onnx.tensorrt import tegrastats, trtexec
from edgekit.bench.series import Series
from edgekit.devices.base import Link, RunResult, Workspace, last_lines
from edgekit.errors import DeviceError
from edgekit.measure.statistics import summarize
from edgekit.store import Store
from edgekit.types import Emit, Event, Measurement, ignore_events

SCRIPT = "build_engine.sh"
"""A bundle that has it is for TensorRT."""
_BUILD_S = 7200.0
_BENCH_S = 3600.0


@dataclass(frozen=True, kw_only=True)
class Engines:
    """What the scripts found: ``chosen`` is chosen.json, ``files`` results by their paths in the bundle.

    ``stand_in`` is the program that answered in place of trtexec, None where that was trtexec itself.
    """

    chosen: Mapping[str, Any]
    files: Mapping[str, bytes]
    stand_in: str | None


def run_scripts(
    space: Workspace, folder: str, link: Link, *, store: Store, emit: Emit = ignore_events
) -> Engines:
    """Run build_engine.sh and bench.sh of the bundle in ``folder`` of a workspace; bring the results back.

    tegrastats runs alongside where the device has it. Raises DeviceError when a script fails and when no
    engine gave the golden outputs, with the reason of each.
    """
    _say(emit, link, "building engines, which takes minutes")
    built = space.run(["bash", f"{folder}/{SCRIPT}"], timeout_s=_BUILD_S)
    # An engine that cannot be built is a reason not to choose it, no failure of the others.
    _say(emit, link, "checking and timing engines")
    timed = space.run(["bash", f"{folder}/bench.sh"], timeout_s=_BENCH_S)
    chosen_file = _pull(space, f"{folder}/chosen.json", store)
    if chosen_file is None:
        raise _failed(link, built if built.returncode else timed)
    chosen = trtexec.read_chosen(chosen_file.decode(errors="replace"))
    if chosen["chosen"] is None:
        reasons = "; ".join(f"{row['name']}: {row['reason']}" for row in chosen["engines"])
        raise DeviceError(
            f"no engine on {link.name} is good ({reasons})",
            hint=last_lines(f"{built.stderr}\n{timed.stderr}"),
        )
    files = {}
    for row in chosen["engines"]:
        for name in ("times.json", "trtexec.log", "profile.json", "golden.json", "tegrastats.log"):
            path = f"results/{row['name']}/{name}"
            found = _pull(space, f"{folder}/{path}", store)
            if found is not None:
                files[path] = found
    log = files.get(f"results/{chosen['chosen']}/trtexec.log")
    if log is None:
        raise DeviceError(f"bench.sh on {link.name} left no log of trtexec", hint="run it again")
    stand_in = trtexec.stand_in(log.decode(errors="replace"))
    return Engines(chosen=chosen, files=files, stand_in=stand_in)


def bench_jetson(
    files: Mapping[str, Path], link: Link, *, store: Store, emit: Emit = ignore_events
) -> Series:
    """Measure a bundle for TensorRT: one "latency" for each engine that passed its golden samples, that of
    the chosen one (subject "final") first.

    ``detail`` has the engine, why it was chosen, the parts of the time, layers, what tegrastats showed, and
    the engines that were left out with their reasons. ``files`` are the bundle's, by their names in it.
    The source is "stand-in" when no trtexec answered but a program that says that it stands in for it;
    ``detail`` has its path as "stand_in" then.
    """
    with link.workspace() as space:
        facts = link.facts()
        space.push({f"bundle/{name}": path for name, path in files.items()})
        engines = run_scripts(space, "bundle", link, store=store, emit=emit)
    chosen = engines.chosen
    config = json.loads(files["jetson.json"].read_bytes())
    good = [row for row in chosen["engines"] if row["reason"] is None]
    good.sort(key=lambda row: row["name"] != chosen["chosen"])
    found = [_latency(row["name"], engines, config["warmup_ms"], link, facts) for row in good]
    return Series(
        link=link.name,
        device=facts,
        measurements=tuple(found),
        outputs=(),
        outputs_sha256=None,
    )


def _latency(
    name: str, engines: Engines, warmup_ms: float, link: Link, facts: Mapping[str, Any]
) -> Measurement:
    chosen = engines.chosen

    def text(file: str) -> str | None:
        raw = engines.files.get(f"results/{name}/{file}")
        return None if raw is None else raw.decode(errors="replace")

    times = text("times.json")
    if times is None:
        raise DeviceError(f"bench.sh on {link.name} left no times of the engine {name}", hint="run it again")
    report = trtexec.runner_report(times, warmup_ms=warmup_ms, profile=text("profile.json"))
    s = summarize(report["runs_ms"])
    is_chosen = name == chosen["chosen"]
    detail: dict[str, Any] = {
        "engine": name,
        "chosen": is_chosen,
        "p99": s.p99,
        **{part: summarize(report[part]).median for part in ("compute_ms", "h2d_ms", "d2h_ms")},
        **{key: chosen.get(key) for key in ("tensorrt", "max_clocks", "power_mode", "cuda_graph")},
        **_board(text("tegrastats.log")),
    }
    if engines.stand_in is not None:
        detail["stand_in"] = engines.stand_in
    if "ops" in report:
        detail["ops"] = report["ops"]
    if is_chosen:
        detail["why"] = chosen["why"]
        detail["left_out"] = {r["name"]: r["reason"] for r in chosen["engines"] if r["reason"] is not None}
    return Measurement(
        metric="latency",
        unit="ms",
        source=link.source if engines.stand_in is None else "stand-in",
        subject="final" if is_chosen else f"engine {name}",
        median=s.median,
        samples=tuple(report["runs_ms"]),
        p90=s.p90,
        ci95=s.ci95,
        n=s.n,
        device=facts,
        detail=detail,
    )


def _board(log: str | None) -> dict[str, Any]:
    """Power and heat while it was timed, from tegrastats; nothing where the device has none."""
    readings = tegrastats.parse(log) if log else ()
    if not readings:
        return {"power_mw": None, "celsius": []}
    known = all(r.total is not None for r in readings)
    hottest = [max(r.celsius.values()) for r in readings if r.celsius]
    return {
        "power_mw": tegrastats.mean_power_mw(readings) if known else None,
        "celsius": [hottest[0], max(hottest)] if hottest else [],
    }


def _pull(space: Workspace, name: str, store: Store) -> bytes | None:
    """A file of the workspace; None when it is not there."""
    there = space.run(["sh", "-c", '[ -f "$1" ]', "sh", name], timeout_s=60)
    if there.returncode != 0:
        return None
    with store.scratch() as folder:
        space.pull(name, folder / "pulled")
        return (folder / "pulled").read_bytes()


def _failed(link: Link, done: RunResult) -> DeviceError:
    said = [line for line in done.stderr.splitlines() if line.strip()]
    reason = next((x for x in reversed(said) if x.startswith("error:")), said[-1] if said else "no message")
    return DeviceError(
        f"the bundle's scripts failed on {link.name}: {reason.removeprefix('error: ')}",
        hint=last_lines(done.stderr),
    )


def _say(emit: Emit, link: Link, text: str) -> None:
    emit(Event(kind="info", step=f"bench {link.name}", message=text))
