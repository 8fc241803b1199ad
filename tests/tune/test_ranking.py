from __future__ import annotations

import math

import pytest

from edgekit.tune import Layer, layers_of, rank
from edgekit.types import Unit


def unit(name: str, macs: int = 0) -> Unit:
    return Unit(name=name, op="x", index=0, macs=macs, weight_bytes=0, output_shape=(1,), precision="float32")


def test_a_layer_reaches_to_the_next_one_with_weights() -> None:
    units = [unit("pad"), unit("conv", 9), unit("relu"), unit("dw", 5), unit("add"), unit("fc", 2)]
    layers = layers_of(units)
    assert [x.units for x in layers] == [("pad", "conv", "relu"), ("dw", "add"), ("fc",)]
    assert [x.macs for x in layers] == [9, 5, 2]


NOISE = [0.1, 0.0, 5.0, 0.2, 0.0, 0.3, 3.0, 0.1, 0.0, 0.0, 0.4, 0.0, 0.0, 0.0, 0.1, 0.0]
LAYERS = [Layer(units=(f"u{i}",), macs=1) for i in range(len(NOISE))]


def counting() -> tuple[list[frozenset[str]], object]:
    calls: list[frozenset[str]] = []

    def noise(kept: frozenset[str]) -> float:
        calls.append(kept)
        return sum(n for layer, n in zip(LAYERS, NOISE, strict=True) if not kept & set(layer.units))

    return calls, noise


def test_with_enough_measurements_every_layer_is_measured_alone() -> None:
    calls, noise = counting()
    ranked = rank(LAYERS, noise, measurements=40)  # type: ignore[arg-type]
    assert len(calls) == 1 + len(LAYERS) and all(r.alone for r in ranked)
    assert [r.layer.units[0] for r in ranked][:4] == ["u2", "u6", "u10", "u5"]
    assert sum(r.gain for r in ranked) == pytest.approx(1.0)


@pytest.mark.parametrize("measurements", [2, 5, 9, 12])
def test_few_measurements_go_where_the_noise_is(measurements: int) -> None:
    calls, noise = counting()
    ranked = rank(LAYERS, noise, measurements=measurements)  # type: ignore[arg-type]
    assert len(calls) <= measurements
    assert {r.layer.units for r in ranked} == {x.units for x in LAYERS}
    if measurements >= 9:
        assert ranked[0].layer.units == ("u2",) and ranked[0].alone


def test_equal_files_rank_nothing() -> None:
    ranked = rank(LAYERS, lambda kept: 0.0, measurements=20)
    assert [r.gain for r in ranked] == [0.0] * len(LAYERS)


def test_a_layer_whose_file_cannot_be_made_comes_last() -> None:
    ranked = rank(LAYERS[:3], lambda kept: math.inf if "u0" in kept else 5.0 - len(kept), measurements=9)
    assert ranked[-1].layer.units == ("u0",)
