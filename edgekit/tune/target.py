"""Meeting a cost: how far each group of layers is pruned, by what it loses for what it saves.

Sensitivities of single groups give a path from the whole model to the narrowest one: at each point the
group is narrowed next whose metric falls least for the arithmetic that it saves. The path is then searched
by bisection for the first model whose *measured or estimated* cost is within the limit: arithmetic only
orders the steps, it never decides whether the target is met.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

CLOSE = 0.05
"""A cost within this share below its limit is close enough: the search ends."""


@dataclass(frozen=True, kw_only=True)
class Width:
    """One group pruned alone: the ratio, the metric (greater is better), the model's size in ``unit``s."""

    ratio: float
    metric: float
    size: int


@dataclass(frozen=True, kw_only=True)
class GroupCurve:
    """A group of layers: metric and size of the whole model, and what its widths make of them."""

    name: str
    metric: float
    size: int
    widths: tuple[Width, ...]


@dataclass(frozen=True, kw_only=True)
class Tried:
    """A point of the path and its cost."""

    index: int
    ratios: Mapping[str, float]
    cost: float


@dataclass(frozen=True, kw_only=True)
class Met:
    """The allocation to take, whether its cost is within the limit, and everything that was tried."""

    ratios: Mapping[str, float]
    cost: float
    reached: bool
    tried: tuple[Tried, ...]
    reason: str


def path_of(curves: Sequence[GroupCurve]) -> list[dict[str, float]]:
    """Ratios by group at each point, the first with nothing pruned."""
    place = {c.name: 0 for c in curves}
    ratios: dict[str, float] = {}
    path = [dict(ratios)]
    while True:
        best: tuple[float, str, int] | None = None
        for curve in curves:
            losses, saved = _profile(curve)
            at = place[curve.name]
            for k in range(at + 1, len(losses)):
                gained = saved[k] - saved[at]
                if gained > 0:
                    slope = (losses[k] - losses[at]) / gained
                    if best is None or slope < best[0]:
                        best = (slope, curve.name, k)
        if best is None:
            return path
        _, name, k = best
        place[name] = k
        ratios[name] = next(c for c in curves if c.name == name).widths[k - 1].ratio
        path.append(dict(ratios))


def _profile(curve: GroupCurve) -> tuple[list[float], list[int]]:
    """Loss and size saved at each width, from 0; a loss never falls as the group is narrowed."""
    losses, saved = [0.0], [0]
    for width in curve.widths:
        losses.append(max(losses[-1], curve.metric - width.metric))
        saved.append(max(saved[-1], curve.size - width.size))
    return losses, saved


def meet(
    path: Sequence[Mapping[str, float]],
    cost: Callable[[Mapping[str, float]], float],
    limit: float,
    *,
    evaluations: int,
    stop: Callable[[], bool] = lambda: False,
) -> Met:
    """The least pruned point of the path whose cost is at most ``limit``, with at most ``evaluations`` calls
    (but always both ends), and none after ``stop`` gives true: then the least pruned that was found.

    Where none is, the narrowest point, not reached.
    """
    tried: list[Tried] = []

    def at(index: int) -> float:
        known = next((t.cost for t in tried if t.index == index), None)
        if known is None:
            known = cost(path[index])
            tried.append(Tried(index=index, ratios=path[index], cost=known))
        return known

    low, high = 0, len(path) - 1
    first = at(low)
    if first <= limit:
        return _met(path, low, first, tried, "nothing has to be pruned")
    last = at(high) if high > low else first
    if last > limit:
        text = "even the narrowest model of the search costs more"
        return Met(ratios=path[high], cost=last, reached=False, tried=tuple(tried), reason=text)
    while high - low > 1 and len(tried) < evaluations and at(high) < (1 - CLOSE) * limit and not stop():
        share = (at(low) - limit) / max(at(low) - at(high), 1e-12)
        middle = min(high - 1, max(low + 1, low + round(share * (high - low))))
        if len(tried) % 2 == 1:  # interpolation alone creeps along a bent path
            middle = (low + high) // 2
        if at(middle) <= limit:
            high = middle
        else:
            low = middle
    reason = f"{len(path[high])} groups are narrowed"
    if at(high) < (1 - CLOSE) * limit:
        below = f"{100 * (1 - at(high) / limit):.0f} % below the limit"
        wider = "the next wider model costs more" if high - low <= 1 else "no further model was tried"
        reason += f", {below}: {wider}"
    return _met(path, high, at(high), tried, reason)


def _met(
    path: Sequence[Mapping[str, float]], index: int, cost: float, tried: list[Tried], reason: str
) -> Met:
    return Met(ratios=path[index], cost=cost, reached=True, tried=tuple(tried), reason=reason)
