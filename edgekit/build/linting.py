"""What of the model may suffer in int8, as warnings of a plan and for `edgekit inspect`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from edgekit.backends.onnx_export import tool_versions
from edgekit.backends.torch_graph import TorchGraph, place_of, tensors, trace
from edgekit.build.inputs import Inputs, samples_of
from edgekit.build.runner import Runner
from edgekit.types import Emit, Event, Plan
from edgekit.verify.lint import SAMPLES, Finding, find, grouped, measured

if TYPE_CHECKING:
    from edgekit.types import Array

_STEP = "lint"


def lint(graph: TorchGraph, samples: Sequence[Sequence[Array]], emit: Emit) -> tuple[Finding, ...]:
    """Findings of an exported module; measured where there are ``samples`` (arrays with a batch of 1).

    A graph that cannot be looked at is a warning and has no findings: the build itself will tell more.
    """
    try:
        program = graph.program.module(check_guards=False)
        found = find(program.graph, place_of)
        if samples:
            found = measured(program, found, [list(tensors(s)) for s in samples])
    except Exception as exc:  # it looks at whatever users write: it must not end the build
        text = f"the model could not be looked through for int8 ({type(exc).__name__}: {exc})"
        emit(Event(kind="warning", step=_STEP, message=text))
        return ()
    return tuple(found)


def warned(inputs: Inputs, plans: Sequence[Plan], runner: Runner) -> list[Plan]:
    """The plans, those for int8 with a warning for each rule that matters on the calibration data."""
    module = (inputs.student or inputs.model).module
    calib = inputs.datas.get("calib")
    int8 = any(p.scheme.precision == "int8" for p in plans)
    if module is None or calib is None or not int8:
        return list(plans)
    spec = (inputs.student or inputs.model).spec

    def work() -> dict[str, Any]:
        samples = samples_of(tuple(x[:SAMPLES] for x in calib.inputs))
        graph = trace(module, samples[0])
        found = () if graph.program is None else lint(graph, samples, runner.emit)
        return {"objects": [], "findings": [asdict(f) for f in found]}

    key = {
        "model": spec.sha256,
        "calib": calib.sha256,
        "samples": SAMPLES,
        "tools": tool_versions("torch"),
    }
    found = [Finding(**f) for f in runner.run(_STEP, key, work)["findings"]]
    texts = tuple(str(g) for g in grouped(found) if g.matters)
    return [replace(p, warnings=(*p.warnings, *texts)) if p.scheme.precision == "int8" else p for p in plans]
