"""What a search tries and what it finds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from edgekit.types import Gate, Precision, Scheme


class LeftOut(Exception):
    """Raised by an evaluation for a trial that is not made. Its text says why, in the outcome's reason."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One file that could be made: ``form`` names the float file that it comes from, ``scheme`` what is
    done with it. ``rung`` is the step of the ladder that asks for it, ``note`` what is new about it."""

    rung: str
    scheme: Scheme
    form: str = "original"
    note: str = ""

    @property
    def kept(self) -> tuple[str, ...]:
        """Units that stay in float32."""
        return tuple(unit for unit, p in self.scheme.overrides.items() if p == "float32")


@dataclass(frozen=True, kw_only=True)
class Point:
    """A trial that was made and measured on all verification samples.

    ``values`` has what was measured for each gate by name, None where it could not be. ``cost`` is an
    estimate in ``cost_unit``, None where the profile has no coefficients; ``bytes`` the size of the file.
    """

    trial: Trial
    bytes: int
    values: Mapping[str, float | None]
    margin: float
    cost: float | None = None
    cost_unit: str = "ms"
    seconds: float = 0.0
    figures: Mapping[str, float | None] = field(default_factory=dict)
    """"drop", "agreement" and "sqnr_db", for the report."""

    @property
    def passed(self) -> bool:
        """Whether every gate that a search can move holds."""
        return self.margin >= 0

    @property
    def quality(self) -> tuple[float, float]:
        """What more of is better when nothing passes: distance to the limits, then SQNR."""
        sqnr = self.figures.get("sqnr_db")
        return self.margin, -math.inf if sqnr is None else sqnr


def margin_of(gates: Sequence[Gate], values: Mapping[str, float | None]) -> float:
    """By how much the tightest gate holds (negative: is broken), each in its own unit; sizes in percent.

    Minus infinity when a gate could not be measured. Gates that ``values`` does not name are left out.
    """
    slacks = []
    for gate in gates:
        if gate.name not in values:
            continue
        measured = values[gate.name]
        if measured is None:
            return -math.inf
        slack = measured - gate.limit if gate.comparison == ">=" else gate.limit - measured
        if gate.unit == "bytes":
            slack = 100 * slack / gate.limit
        slacks.append(slack)
    return min(slacks, default=math.inf)


def cheapest(points: Sequence[Point]) -> Point:
    """The point with the lowest estimated cost where all have one in one unit, else the smallest file.

    Of equal ones the better in quality.
    """
    units = {p.cost_unit for p in points if p.cost is not None}
    if len(units) == 1 and all(p.cost is not None for p in points):
        return min(points, key=lambda p: (p.cost or 0.0, -p.quality[0], -p.quality[1]))
    return min(points, key=lambda p: (p.bytes, -p.quality[0], -p.quality[1]))


def keeping(trial: Trial, rung: str, units: Sequence[str], note: str) -> Trial:
    """The trial with these units in float32 beside those that it keeps there already."""
    overrides: dict[str, Precision] = {**trial.scheme.overrides, **dict.fromkeys(units, "float32")}
    return replace(trial, rung=rung, note=note, scheme=replace(trial.scheme, overrides=overrides))
