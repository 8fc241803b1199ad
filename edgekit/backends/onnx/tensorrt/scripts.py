"""The scripts that build and measure engines on a device, written for one TensorRT line.

Nothing of a model gets into them: the names of tensors lie in jetson.json, as data. What is filled in are
constants of this package and figures of the profile's schema.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

from edgekit.backends.onnx.tensorrt.lines import Line
from edgekit.types import Precision

EXACTNESS: tuple[Precision, ...] = ("float32", "fp16", "int8")
"""Most exact first: of two equally fast engines the more exact one is taken."""

_SECONDS = 10
_MARK = re.compile(r"@@([A-Z_]+)@@")


@dataclass(frozen=True, kw_only=True)
class Engine:
    """An engine to build: ``name`` is that of its plan, ``model`` the ONNX file in the bundle.

    ``inputs`` and ``outputs`` are the names of the file's tensors in the order of the manifest.
    """

    name: str
    model: str
    precision: Precision
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def build_script(line: Line, engines: Sequence[Engine]) -> str:
    """build_engine.sh: bash that builds every engine, and says which could not be built."""
    builds = []
    for engine in engines:
        words = ["build", engine.name, engine.model, *line.flags(engine.precision)]
        builds.append(f"{shlex.join(words)} || failed+=({shlex.quote(engine.name)})")
    return _fill("build_engine.sh", line, engines, {"BUILDS": "\n".join(builds)})


def bench_script(line: Line, engines: Sequence[Engine], *, warmup_ms: int, runs: int) -> str:
    """bench.sh: golden samples, times, profile by layer and power of every engine; then the choice."""
    return _fill(
        "bench.sh",
        line,
        engines,
        {
            "WARMUP_MS": str(int(warmup_ms)),
            "RUNS": str(int(runs)),
            "SECONDS": str(_SECONDS),
            "PERCENTILES": line.percentiles,
            "TIMING": shlex.join(line.timing_flags),
            "GRAPH": shlex.join(line.graph_flags),
            "NO_GRAPH": shlex.join(line.no_graph_flags),
        },
    )


def template(name: str) -> str:
    """Text of a file in templates/."""
    return files("edgekit.backends.onnx.tensorrt").joinpath("templates", name).read_text(encoding="utf-8")


def _fill(name: str, line: Line, engines: Sequence[Engine], values: Mapping[str, str]) -> str:
    known = {
        "COMMON": template("common.sh"),
        "LINE": line.name,
        "SKIP": line.skip_inference,
        "NAMES": " ".join(shlex.quote(engine.name) for engine in engines),
        **values,
    }
    return _MARK.sub(lambda mark: known[mark.group(1)], template(name))
