from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from edgekit.tune import Layer, layers_of, rank, rank_alone
from edgekit.types import Unit


def unit(name: str, macs: int = 0) -> Unit:
    return Unit(name=name, op="x", index=0, macs=macs, weight_bytes=0, output_shape=(1,), precision="float32")


def test_a_layer_reaches_to_the_next_one_with_weights() -> None:
    units = [unit("pad"), unit("conv", 9), unit("relu"), unit("dw", 5), unit("add"), unit("fc", 2)]
    layers = layers_of(units)
    assert [x.units for x in layers] == [("pad", "conv", "relu"), ("dw", "add"), ("fc",)]
    assert [x.macs for x in layers] == [9, 5, 2]


LAYERS = [Layer(units=(f"u{i}", f"relu{i}"), macs=1) for i in range(16)]
BETWEEN = [0.1, 0.0, 5.0, 0.2, 0.0, 0.3, 3.0, 0.1, 0.0, 0.0, 0.4, 0.0, 0.0, 0.0, 0.1]
"""Noise of the tensor behind each layer: it goes when that layer and the next are in float32."""


def counting() -> tuple[list[frozenset[str]], Callable[[frozenset[str]], float]]:
    calls: list[frozenset[str]] = []

    def noise(kept: frozenset[str]) -> float:
        calls.append(kept)
        free = [{f"u{i}", f"u{i + 1}"} <= kept for i in range(len(BETWEEN))]
        return sum(n for n, gone in zip(BETWEEN, free, strict=True) if not gone)

    return calls, noise


@pytest.mark.parametrize(("measurements", "runs"), [(40, 8), (9, 8), (6, 5), (2, 1)])
def test_runs_of_neighbours_cover_every_layer_once(measurements: int, runs: int) -> None:
    calls, noise = counting()
    ranked = rank(LAYERS, noise, measurements=measurements)
    assert len(ranked) == runs and len(calls) == runs + 1 <= measurements
    assert sorted(u for r in ranked for u in r.units) == sorted(u for x in LAYERS for u in x.units)
    assert sum(r.macs for r in ranked) == len(LAYERS)


def test_the_noisiest_run_comes_first() -> None:
    _, noise = counting()
    ranked = rank(LAYERS, noise, measurements=40)
    assert [r.layers[0].units[0] for r in ranked][:2] == ["u2", "u6"]
    assert ranked[0].gain == pytest.approx(5.0 / sum(BETWEEN))


def test_equal_files_rank_nothing() -> None:
    ranked = rank(LAYERS, lambda kept: 0.0, measurements=20)
    assert ranked and all(r.gain == 0.0 for r in ranked)


def test_a_run_whose_file_cannot_be_made_comes_last() -> None:
    ranked = rank(LAYERS[:6], lambda kept: math.inf if "u0" in kept else 50.0 - len(kept), measurements=9)
    assert ranked[-1].layers[0].units[0] == "u0"
    assert all(math.isfinite(r.gain) for r in ranked), "a ranking is stored as JSON"


def test_where_only_some_files_can_be_made_theirs_are_the_useful_runs() -> None:
    ranked = rank(LAYERS[:6], lambda kept: 1.0 if "u2" in kept else math.inf, measurements=9)
    assert ranked[0].layers[0].units[0] == "u2" and ranked[0].gain > 0
    assert all(-math.inf < r.gain < 0 for r in ranked[1:])


def test_alone_tensors_are_told_from_layers_where_neighbours_share_them() -> None:
    calls, noise = counting()
    ranked = rank_alone(LAYERS, noise)
    assert len(calls) == 2 * len(LAYERS)
    assert [tuple(x.units[0] for x in r.layers) for r in ranked][:2] == [("u2", "u3"), ("u6", "u7")]
    assert ranked[0].gain == pytest.approx(5.0 / sum(BETWEEN))
    assert sum(r.gain for r in ranked) == pytest.approx(1.0)
    assert sorted(u for r in ranked for u in r.units) == sorted(u for x in LAYERS for u in x.units)


def test_alone_each_layer_is_an_item_where_none_are_shared() -> None:
    own = {f"u{i}": float(i * i % 7) for i in range(16)}
    calls: list[frozenset[str]] = []

    def noise(kept: frozenset[str]) -> float:
        calls.append(kept)
        return sum(n for unit, n in own.items() if unit not in kept)

    ranked = rank_alone(LAYERS, noise)
    assert len(calls) == len(LAYERS) + 1, "pairs tell nothing more"
    assert all(len(r.layers) == 1 for r in ranked)
    assert [r.gain for r in ranked] == sorted((r.gain for r in ranked), reverse=True)
    assert ranked[0].gain == pytest.approx(max(own.values()) / sum(own.values()))


def test_alone_infinite_noise_comes_first_and_nothing_ranks_nothing() -> None:
    ranked = rank_alone(LAYERS, lambda kept: math.inf if "u5" not in kept else 0.0)
    assert ranked[0].layers[0].units[0] == "u5" and math.isfinite(ranked[0].gain)
    assert all(r.gain == 0.0 for r in rank_alone(LAYERS, lambda kept: 0.0))
