"""Which layers lose most by int8.

Where a measurement costs a whole file, runs of layers are measured in float32 while all others stay in int8.
Where it costs an inference, the other way round: each layer alone in int8, which tells its own noise without
the noise of all others around it.
"""

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


_OVERLAP = 1.5
"""Noise of all layers, one by one, over the noise of all together: above it neighbours share tensors."""

_MOST = 1e9
"""Stands for infinite noise."""


def rank_alone(layers: Sequence[Layer], noise: Callable[[frozenset[str]], float]) -> list[Ranked]:
    """Layers by what keeping them in float32 gains, best first; each in one item, alone or with a neighbour.

    ``noise`` is that of :func:`rank`; it is called at most twice for each layer. The noise of rounding errors
    adds up, and small ones are told apart only when they are measured alone: the difference that one layer
    makes to a noisy file is mostly chance. A tensor that both the layer which writes it and the one which
    reads it round is free of rounding when both are in float32; what two neighbours share is the excess of
    their own noises over that of both together. Items come in the order in which each adds most for each
    of its layers to those before.
    """
    units = frozenset(u for layer in layers for u in layer.units)

    def alone(*part: Layer) -> float:
        found = noise(units.difference(*(layer.units for layer in part)))
        return min(found, _MOST) if not math.isnan(found) else _MOST

    single = [alone(layer) for layer in layers]
    shared = [0.0] * (len(layers) + 1)
    """[i]: what layers i - 1 and i share."""
    if sum(single) > _OVERLAP * min(noise(frozenset()), _MOST):
        for i, (a, b) in enumerate(pairwise(layers), 1):
            shared[i] = max(0.0, single[i - 1] + single[i] - alone(a, b))
    own = [max(0.0, s - shared[i] - shared[i + 1]) for i, s in enumerate(single)]
    total = sum(own) + sum(shared)
    if total <= 0:
        return [Ranked(layers=(layer,), gain=0.0) for layer in layers]
    return [
        Ranked(layers=tuple(layers[i] for i in item), gain=gain / total)
        for item, gain in _greedy(own, shared)
    ]


def _greedy(own: Sequence[float], shared: Sequence[float]) -> list[tuple[tuple[int, ...], float]]:
    """Layers by place, with what each item adds to those before it."""
    kept: set[int] = set()
    order: list[tuple[tuple[int, ...], float]] = []

    def added(*items: int) -> float:
        now = kept.union(items)
        freed = {i for k in items for i in (k, k + 1) if i - 1 in now and i in now}
        return sum(own[k] for k in items) + sum(shared[i] for i in freed)

    while len(kept) < len(own):
        left = [i for i in range(len(own)) if i not in kept]
        items = [(i,) for i in left] + [(i, i + 1) for i in left if i + 1 in left]
        best = max(items, key=lambda item: (added(*item) / len(item), -len(item), -item[0]))
        order.append((best, added(*best)))
        kept.update(best)
    return order
