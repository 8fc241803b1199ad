"""Which layers lose most by int8: runs of them measured in float32 while all others stay in int8."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from edgekit.types import Unit

_SHORTEST = 2
"""Layers in a run, at least."""

_LOST = -1e9
"""Stands for minus infinity, which JSON cannot hold."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A layer with weights and the operators up to the next: they are quantised or kept together, since a
    lone activation in float between two in int8 costs conversions and gains nothing."""

    units: tuple[str, ...]
    macs: int


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """Neighbouring layers, and the share of the output's noise power that goes when they stay in float32."""

    layers: tuple[Layer, ...]
    gain: float

    @property
    def units(self) -> tuple[str, ...]:
        return tuple(u for layer in self.layers for u in layer.units)

    @property
    def macs(self) -> int:
        return sum(layer.macs for layer in self.layers)


def layers_of(units: Sequence[Unit]) -> list[Layer]:
    """Units in execution order grouped by layer. What precedes the first layer belongs to it."""
    groups: list[list[Unit]] = []
    has_weights = False
    for unit in units:
        if not groups or (unit.macs and has_weights):
            groups.append([])
            has_weights = False
        groups[-1].append(unit)
        has_weights |= bool(unit.macs)
    return [Layer(units=tuple(u.name for u in g), macs=sum(u.macs for u in g)) for g in groups]


def rank(
    layers: Sequence[Layer], noise: Callable[[frozenset[str]], float], *, measurements: int
) -> list[Ranked]:
    """Runs of neighbouring layers by what keeping them in float32 gains, best first.

    ``noise`` gives the noise power at the outputs (any unit) of a file in which the named units stay in
    float32; it is called at most ``measurements`` times. Runs and not single layers: a tensor is only free
    of rounding when the layer that writes it and the one that reads it are both in float32, so a layer that
    is kept alone gains next to nothing. ``noise`` is infinite for a file that cannot be made: keeping that
    run counts as the worst choice.
    """
    whole = noise(frozenset())
    count = max(1, min(measurements - 1, len(layers) // _SHORTEST))
    bounds = [round(i * len(layers) / count) for i in range(count + 1)]
    runs = [tuple(layers[a:b]) for a, b in pairwise(bounds) if b > a]
    if whole <= 0:
        return [Ranked(layers=run, gain=0.0) for run in runs]

    def gain(run: Sequence[Layer]) -> float:
        left = noise(frozenset(u for layer in run for u in layer.units))
        if not math.isfinite(left):
            return _LOST
        return max(_LOST, (whole - left) / whole) if math.isfinite(whole) else 1.0

    ranked = [Ranked(layers=run, gain=gain(run)) for run in runs]
    return sorted(ranked, key=lambda r: -r.gain)
