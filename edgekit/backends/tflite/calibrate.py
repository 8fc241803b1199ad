"""Reads every float activation of a .tflite file, for calibration.

ai-edge-quantizer's own calibration is a moving average of per-sample ranges; it clips and costs 10
to 15 dB. Its quantiser takes any ranges, so the ranges are measured here over every float activation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from edgekit.backends import calibration
from edgekit.backends.tflite.flatbuffer import read_graph
from edgekit.backends.tflite.session import encode, make_interpreter
from edgekit.types import Artifact, Emit, ignore_events

if TYPE_CHECKING:
    from edgekit.types import Array


def observe(
    artifact: Artifact, groups: Sequence[Sequence[Sequence[Array]]], emit: Emit = ignore_events
) -> list[dict[str, calibration.Observed]]:
    """What calibration sees of the float file's activations; see :func:`calibration.observe`."""
    return calibration.observe(reader(artifact), groups, emit)


def reader(artifact: Artifact) -> calibration.Read:
    """Runs a sample (a list of (1, ...) arrays in source layout) and gives every activation by its name."""
    graph = read_graph(artifact.path)
    watched = {t.index: t.name for t in graph.tensors if t.dtype == "float32" and not t.constant}
    interpreter = make_interpreter(artifact.path, keep_all=True)
    by_name = {graph.tensors[i].name: i for i in graph.inputs}
    slots = [by_name[s.name] for s in artifact.inputs]

    def read(sample: Sequence[Array]) -> Iterator[tuple[str, Array]]:
        for slot, x, spec in zip(slots, sample, artifact.inputs, strict=True):
            interpreter.set_tensor(slot, encode(x, spec))
        interpreter.invoke()
        for index, name in watched.items():
            try:
                value: Array = interpreter.get_tensor(index)
            except ValueError:  # folded away or never written
                continue
            if value.size:
                yield name, value

    return read
