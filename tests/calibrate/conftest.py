"""A device that takes as long as known coefficients say, and a backend whose files are names."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.calibrate import Job
from edgekit.devices import RunResult
from edgekit.devices.fake import FakeLink
from edgekit.store import Store
from edgekit.types import Artifact, DeviceCommand, MeasurementSource, RunProtocol, TensorSpec

GHZ = 1.5
RATES = {"float32": 2.0, "int8": 5.0}
COPY_GB_S, OP_US, DEPTHWISE = 4.0, 10.0, 0.5


def unit(
    op: str, precision: str = "float32", *, macs: int = 0, side: int = 8, groups: int = 1
) -> dict[str, Any]:
    shape = (1, side, side, 64)
    inputs = (shape, shape) if op == "ADD" else (shape,)
    return {
        "name": op,
        "op": op,
        "index": 0,
        "macs": macs,
        "weight_bytes": 0,
        "output_shape": shape,
        "precision": precision,
        "input_shapes": inputs,
        "channels": 64 if macs else None,
        "groups": groups,
    }


MODELS: dict[str, list[dict[str, Any]]] = {
    "dense float32": [unit("CONV_2D", macs=60_000_000)],
    "dense int8": [unit("CONV_2D", "int8", macs=60_000_000)],
    "depthwise float32": [unit("DEPTHWISE_CONV_2D", macs=10_000_000, groups=64)],
    "add": [unit("ADD", side=160)],
    "chain": [unit("ADD", side=1)] * 100,
}


def milliseconds(name: str, threads: int) -> float:
    total = 0.0
    for u in MODELS[name]:
        rate = RATES[u["precision"]] * (DEPTHWISE if u["groups"] > 1 else 1.0)
        width = 1 if u["precision"] == "int8" else 4
        moved = width * sum(math.prod(s) for s in (u["output_shape"], *u["input_shapes"]))
        total += 1e3 * u["macs"] / (threads * GHZ * 1e9 * rate) + moved / (COPY_GB_S * 1e6) + 1e-3 * OP_US
    return total


class NamedBackend:
    """Its command carries the name of the model and the number of threads."""

    name = "tflite"

    def device_command(
        self, artifact: Any, inputs: Any, *, protocol: RunProtocol, scratch: Path, **rest: Any
    ) -> DeviceCommand:
        (scratch / "program").write_bytes(b"")
        argv = ("program", artifact.path.name, str(protocol.threads), str(protocol.runs))
        return DeviceCommand(argv=argv, files={"program": scratch / "program"}, outputs=("out0.bin",))

    def parse(self, stdout: str, outputs: Mapping[str, bytes] | None = None) -> Mapping[str, Any]:
        return dict(json.loads(stdout))

    def read_outputs(self, artifact: Any, files: Any) -> list[Any]:
        return []


@pytest.fixture
def jobs() -> list[Job]:
    tensor = TensorSpec(name="x", shape=(1, 4), dtype="float32")
    return [
        Job(
            name=name,
            artifact=Artifact(
                sha256="0" * 64,
                format="tflite",
                precision="float32",
                path=Path(name),
                bytes=1,
                inputs=(tensor,),
                outputs=(tensor,),
            ),
            inputs=(np.zeros((1, 4), np.float32),),
            units=tuple(units),
            coverage=(),
        )
        for name, units in MODELS.items()
    ]


@pytest.fixture
def device(tmp_path: Path) -> Callable[..., FakeLink]:
    """``device(jitter)``: the i-th start of a model takes jitter(model, i) times as long."""

    def make(
        jitter: Callable[[str, int], float] = lambda model, start: 1.0,
        source: MeasurementSource = "device",
    ) -> FakeLink:
        starts: dict[tuple[str, str], int] = {}

        def answer(command: DeviceCommand, folder: Path) -> RunResult:
            _, model, threads, runs = command.argv
            start = starts[model, threads] = starts.get((model, threads), -1) + 1
            (folder / "out0.bin").write_bytes(b"")
            ms = milliseconds(model, int(threads)) * jitter(model, start)
            report = {"runs_ms": [ms] * int(runs), "load_ms": 1.0, "peak_rss_kb": 1}
            return RunResult(returncode=0, stdout=json.dumps(report), stderr="")

        facts = {"name": "board", "cores": 4, "governor": "performance", "cpu": "Cortex-A72"}
        return FakeLink(answer, store=Store(tmp_path / "store"), source=source, facts=facts)

    return make


@dataclass(frozen=True)
class Truth:
    """Coefficients of the device, as rates that are reached."""

    fp32: float = RATES["float32"]
    int8: float = RATES["int8"]
    copy_gb_s: float = COPY_GB_S
    op_us: float = OP_US
    depthwise: float = DEPTHWISE


@pytest.fixture
def truth() -> Truth:
    return Truth()


@pytest.fixture
def backend() -> NamedBackend:
    return NamedBackend()
