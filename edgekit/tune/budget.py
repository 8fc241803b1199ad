"""The accuracy budget: from full int8 up a ladder of dearer recipes until the gates hold.

Rungs, in order: int8 as planned; every calibration method; float-side equalisation; mixed precision, with
as few layers in float32 as hold the limits; quantisation-aware training, all layers in int8 again; files in
a wider precision. Each rung up to mixed precision starts from the best that the ones before it found.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import sqrt

from edgekit.settings import RUNGS
from edgekit.tune.points import LeftOut, Point, Trial, cheapest, keeping
from edgekit.tune.ranking import Ranked
from edgekit.types import Precision

TRAINED = "trained"
"""The form of a trial whose float model quantisation-aware training makes."""
_QAT = "quantisation-aware training"
_MOST_KEPT = 0.5
"""Share of the layers that mixed precision may keep in float32: beyond it the file is no int8 file."""


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """What may be tried. ``forms`` are names of other float files of the same model ("equalized")."""

    rungs: tuple[str, ...] = RUNGS
    forms: tuple[str, ...] = ()
    wider: tuple[Precision, ...] = ()
    evaluations: int = 12
    deadline: float | None = None
    """On the clock of ``time.monotonic``, None for no limit."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Rungs that there would be, and why there are not, for the reason of an outcome that misses them."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Every point in the order it was tried, the one to take, and why the search ended."""

    points: tuple[Point, ...]
    chosen: Point
    reason: str
    ranking: tuple[Ranked, ...] = ()


class _OutOfTime(Exception):
    pass


class _OutOfEvaluations(Exception):
    pass


def climb(
    start: Point,
    ladder: Ladder,
    evaluate: Callable[[Trial], Point | None],
    ranking: Callable[[Trial], Sequence[Ranked]],
    *,
    clock: Callable[[], float] = time.monotonic,
) -> Outcome:
    """Search from ``start``, the int8 file as planned.

    ``evaluate`` makes and measures a trial on all verification samples, None where it cannot be made. It
    trains first for one of the rung "qat", gives a point with the ranges of training in its scheme, and
    raises LeftOut where that cannot be or would take too long.
    ``ranking`` orders the layers of a trial's float file by what keeping them in float32 gains.
    """
    search = _Search(start, ladder, evaluate, clock)
    if start.passed:
        return search.outcome("the int8 file as planned holds every gate")
    rungs: list[tuple[str, Callable[[], str | None]]] = [
        ("calibration", search.calibration),
        ("equalization", search.equalization),
        ("mixed", lambda: search.mixed(ranking)),
        ("qat", search.qat),
        ("wider", search.wider),
    ]
    ended = "no rung of the ladder holds the gates"
    for name, rung in rungs:
        if name in ladder.left_out:
            search.left_out(name, ladder.left_out[name])
        try:
            reason = rung() if name in ladder.rungs else None
        except _OutOfEvaluations as out:
            ended = str(out)  # those that are reserved for wider precisions may be left
            continue
        except _OutOfTime as out:
            return search.outcome(str(out))
        if reason is not None:
            return search.outcome(reason)
    return search.outcome(ended)


def _count(runs: Sequence[Ranked]) -> int:
    return sum(len(r.layers) for r in runs)


class _Search:
    def __init__(
        self,
        start: Point,
        ladder: Ladder,
        evaluate: Callable[[Trial], Point | None],
        clock: Callable[[], float],
    ) -> None:
        self.points = [start]
        self.ranked: tuple[Ranked, ...] = ()
        self._start, self._ladder, self._evaluate, self._clock = start, ladder, evaluate, clock
        self._spent = 1
        self._note = ""
        self._wider = len(ladder.wider) if "wider" in ladder.rungs else 0
        self._reserved = self._wider + ("qat" in ladder.rungs)

    def outcome(self, reason: str) -> Outcome:
        passed = [p for p in self.points if p.passed]
        chosen = cheapest(passed) if passed else max(self.points, key=lambda p: p.quality)
        reason += self._note
        if not passed:
            reason += "; the best that was found is kept as a candidate"
        return Outcome(points=tuple(self.points), chosen=chosen, reason=reason, ranking=self.ranked)

    def calibration(self) -> str | None:
        """Every calibration method instead of the usual two."""
        base = self._base()
        if base.trial.scheme.calibration != "auto":
            return None
        scheme = replace(base.trial.scheme, calibration="all")
        note = "every calibration method"
        point = self._try(replace(base.trial, rung="calibration", scheme=scheme, note=note))
        return "another calibration holds the gates" if point and point.passed else None

    def equalization(self) -> str | None:
        """The same model with evened-out channel ranges."""
        for form in self._ladder.forms:
            trial = replace(self._base().trial, rung="equalization", form=form, note=f"{form} float model")
            point = self._try(trial)
            if point and point.passed:
                return f"the {form} model holds the gates in int8"
        return None

    def mixed(self, ranking: Callable[[Trial], Sequence[Ranked]]) -> str | None:
        """The fewest layers in float32: bisection on the ranking, then layers are given back."""
        base = self._base().trial
        self._check()
        ranked = self.ranked = tuple(ranking(base))
        useful = [r for r in ranked if r.gain > 0]
        most = min(len(useful), max(1, int(len(ranked) * _MOST_KEPT)))
        if not useful:
            self._note += "; keeping layers in float32 gains nothing"
            return None
        fails, holds = 0, None
        k = max(1, most // 4)
        try:
            while holds is None:
                if self._keeps(base, useful[:k]):
                    holds = k
                elif k == most:
                    return None
                else:
                    fails, k = k, min(most, 2 * k)
            while holds - fails > 1:
                k = min(holds - 1, max(fails + 1, round(sqrt(max(fails, 1) * holds))))
                if self._keeps(base, useful[:k]):
                    holds = k
                else:
                    fails = k
            kept = self._give_back(base, useful[:holds])
        except _OutOfEvaluations:
            if holds is None:
                raise
            kept = self._fewest(ranked)
        return f"{_count(kept)} of {_count(ranked)} layers in float32 hold the gates, all others are int8"

    def _give_back(self, base: Trial, kept: list[Ranked]) -> list[Ranked]:
        """Back to int8 what is not needed, in large pieces first, least useful layers first."""
        order = sorted(kept, key=lambda r: (r.gain, -r.macs))
        piece, i = len(order) // 2, 0
        while piece >= 1 and len(order) > 1 and i < len(order):
            rest = order[:i] + order[i + piece :]
            if rest and self._keeps(base, rest):
                order = rest
                piece = min(piece, len(order) // 2)
            elif piece > 1:
                piece //= 2
            else:
                i += 1
        return order

    def _fewest(self, ranked: Sequence[Ranked]) -> list[Ranked]:
        passed = [p for p in self.points if p.passed and p.trial.rung == "mixed"]
        units = set(min(passed, key=lambda p: len(p.trial.kept)).trial.kept)
        return [r for r in ranked if units.issuperset(r.units)]

    def _keeps(self, base: Trial, kept: Sequence[Ranked]) -> bool:
        units = [u for r in kept for u in r.units]
        point = self._try(keeping(base, "mixed", units, f"{_count(kept)} layers in float32"))
        return point is not None and point.passed

    def qat(self) -> str | None:
        """Training while int8 is played: weights and ranges of their own, all layers in int8."""
        self._reserved = self._wider
        try:
            point = self._try(replace(self._start.trial, rung="qat", form=TRAINED, note=_QAT))
        except LeftOut as why:
            self.left_out("qat", str(why))
            return None
        if point is not None and point.passed:
            kept = " but those that were to stay in float32" if point.trial.kept else ""
            return f"{_QAT} holds the gates, all layers in int8{kept}"
        return None

    def left_out(self, rung: str, why: str) -> None:
        """Note for the outcome's reason that a rung was not tried."""
        self._note += f"; {_QAT if rung == 'qat' else rung} was left out: {why}"

    def wider(self) -> str | None:
        """Whole files in a wider precision."""
        self._reserved = 0
        for precision in self._ladder.wider:
            scheme = replace(self._start.trial.scheme, precision=precision, overrides={}, io="float")
            point = self._try(Trial(rung="wider", scheme=scheme, note=f"{precision} throughout"))
            if point and point.passed:
                return f"only {precision} holds the gates: int8 costs too much accuracy here"
        return None

    def _base(self) -> Point:
        """The best so far of the files with no more layers in float32 than the user keeps there."""
        kept = self._start.trial.kept
        whole = [p for p in self.points if p.trial.kept == kept and p.trial.rung != "wider"]
        return max(whole, key=lambda p: p.quality)

    def _try(self, trial: Trial) -> Point | None:
        same = (trial.scheme, trial.form)
        known = next((p for p in self.points if (p.trial.scheme, p.trial.form) == same), None)
        if known is not None:
            return known
        self._check()
        self._spent += 1
        point = self._evaluate(trial)
        if point is not None:
            self.points.append(point)
        return point

    def _check(self) -> None:
        if self._spent >= self._ladder.evaluations - self._reserved:
            raise _OutOfEvaluations(f"all {self._ladder.evaluations} evaluations are used up")
        if self._ladder.deadline is not None and self._clock() >= self._ladder.deadline:
            raise _OutOfTime("the time budget is used up")
