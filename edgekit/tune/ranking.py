"""Which layers lose most by int8: each measured in float while all others stay in int8."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from edgekit.types import Unit


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A layer with weights and the operators up to the next: they are quantised or kept together, since a
    lone activation in float between two in int8 costs conversions and gains nothing."""

    units: tuple[str, ...]
    macs: int


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """``gain``: the share of the output's noise power that goes when the layer is kept in float32.

    Layers that were only measured together with neighbours share the gain in proportion to nothing: each
    has the group's gain divided by its size, and ``alone`` is False.
    """

    layer: Layer
    gain: float
    alone: bool


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
    """Layers by what keeping them in float32 gains, best first, with at most ``measurements`` calls.

    ``noise`` gives the noise power at the outputs (any unit) of a file in which the named units stay in
    float32. Layers are measured one by one where that fits; otherwise neighbours are measured together, and
    the group with the greatest gain is halved again and again, so that the calls go where the noise is.
    """
    whole = noise(frozenset())
    left = measurements - 1
    if whole <= 0:
        return [Ranked(layer=x, gain=0.0, alone=False) for x in layers]

    def gain(group: Sequence[Layer]) -> float:
        kept = frozenset(u for x in group for u in x.units)
        return (whole - noise(kept)) / whole

    count = len(layers) if len(layers) <= left else max(1, left // 2)
    bounds = [round(i * len(layers) / count) for i in range(count + 1)]
    groups = [list(layers[a:b]) for a, b in pairwise(bounds) if b > a]
    measured = [(gain(g), g) for g in groups]
    left -= len(groups)
    while left >= 2:
        splittable = [m for m in measured if len(m[1]) > 1]
        if not splittable:
            break
        best = max(splittable, key=lambda m: m[0])
        measured.remove(best)
        half = len(best[1]) // 2
        for part in (best[1][:half], best[1][half:]):
            measured.append((gain(part), part))
        left -= 2
    ranked = [
        Ranked(layer=layer, gain=value / len(group), alone=len(group) == 1)
        for value, group in measured
        for layer in group
    ]
    order = {id(layer): i for i, layer in enumerate(layers)}
    return sorted(ranked, key=lambda r: (-r.gain, order[id(r.layer)]))
