"""The accuracy budget of one target: files that break a gate send the search up the ladder."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.backends.base import Simulating
from edgekit.build.costs import Costs, GateCosts
from edgekit.build.lowering import Lowering
from edgekit.build.scores import COSTS, MENDED, SEARCHED, gate_values
from edgekit.build.trained import Trained
from edgekit.errors import EdgekitError
from edgekit.tune import (
    Ladder,
    LeftOut,
    Outcome,
    Point,
    Ranked,
    Trial,
    climb,
    layers_of,
    margin_of,
    rank,
    rank_alone,
)
from edgekit.types import Artifact, Event, Gate, PlanStep, Precision, Unit
from edgekit.verify import reference

if TYPE_CHECKING:
    from edgekit.profiles.schema import Target
    from edgekit.types import Array

_RANK_CALIBRATION = 10
"""Calibration samples of a file that is only made to rank layers: orders need fewer than ranges."""
_RANK_SAMPLES = 8
"""Samples on which the noise of such a file is measured."""


class BudgetSearch:
    """Trials of one target. ``forms`` makes the float files by name, "original" among
    them, each when it is first asked for; ``train`` makes the model of the rung "qat" until a deadline.

    ``trained`` is what it gave, None before.
    """

    def __init__(
        self,
        lowering: Lowering,
        step: PlanStep,
        gates: Sequence[Gate],
        original: Sequence[Array],
        target: Target,
        forms: Mapping[str, Callable[[], Artifact]],
        train: Callable[[Mapping[str, Any], float | None], Trained],
        costs: Costs,
        gate_costs: GateCosts,
    ) -> None:
        self.lowering, self.step, self.original, self.target = lowering, step, original, target
        self.gates = [g for g in gates if g.name in SEARCHED]
        self._costs, self._gate_costs = costs, gate_costs
        self._makers, self._train = forms, train
        self._files: dict[str, Artifact] = {}
        self._deadline: float | None = None
        self.trained: Trained | None = None

    def hopeless(self, start: Point) -> str | None:
        """Why no rung can mend what the planned file breaks; None where one may.

        Every other file of the ladder is as large or larger, and costs as much or more, unless the profile's
        coefficients say that int8 costs more than float here.
        """
        broken = [g.name for g in self.gates if not _holds(g, start.values.get(g.name))]
        costly = [name for name in broken if name in COSTS]
        if not costly:
            return None
        unknown = [name for name in costly if start.values.get(name) is None]
        if unknown:
            return f"nothing tells the {unknown[0]} of this target's files here: no search can meet its limit"
        if "file_size" not in costly and self._float_is_cheaper(start):
            return None
        words = " and ".join(name.replace("_", " ") for name in costly)
        return (
            f"int8 as planned breaks the limit of {words}, and no other precision of the same network is "
            "smaller or cheaper: it cannot be met without narrowing the network"
        )

    def _float_is_cheaper(self, start: Point) -> bool:
        plain = self._costs.estimate(self.float_file("original"))
        return plain is not None and start.cost is not None and plain.ms < start.cost

    def run(self, start: Point, deadline: float | None) -> Outcome:
        """Search from the file as planned."""
        config = self.step.config
        accurate = all(_holds(g, start.values.get(g.name)) for g in self.gates if g.name in MENDED)
        ladder = Ladder(
            rungs=tuple(r for r in config["rungs"] if r == "wider" or not accurate),
            forms=tuple(n for n in self._makers if n != "original"),
            wider=tuple(config["wider"]),
            evaluations=int(config["evaluations"]),
            deadline=deadline,
            left_out={} if accurate else config.get("left_out", {}),
        )
        self._deadline = deadline
        self._say(f"{_figures(start)}: searching for a file that holds the gates")
        outcome = climb(start, ladder, self._evaluate, self._ranking, clock=time.monotonic)
        self._say(f"{outcome.reason} ({len(outcome.points)} evaluations)")
        return outcome

    def float_file(self, form: str) -> Artifact:
        """The float file of a form. Raises Unsupported for one that the model does not have."""
        if form not in self._files:
            self._files[form] = self._makers[form]()
        return self._files[form]

    def _evaluate(self, trial: Trial) -> Point | None:
        started = time.perf_counter()
        try:
            if trial.rung == "qat":
                trial = self._quantisation_aware(trial)
            file = self.float_file(trial.form)
            made, outputs = self.lowering.companion(file, trial.scheme, f"search: {trial.note}")
        except EdgekitError as exc:
            self._say(f"{trial.note}: cannot be made ({exc})")
            if trial.rung == "qat":
                raise LeftOut(str(exc)) from exc
            return None
        point = self.point(trial, made, outputs, time.perf_counter() - started)
        self._say(f"{trial.note}: {_figures(point)}, {'holds' if point.passed else 'breaks a gate'}")
        return point

    def _quantisation_aware(self, trial: Trial) -> Trial:
        """The trial with the ranges of training, whose float file is then known by its form."""
        config = self.step.config["qat"]
        self._say(f"{trial.note}: up to {config['epochs']} epochs")
        self.trained = self._train(config, self._deadline)
        self._files[trial.form] = self.trained.float_file
        epochs = f"{self.trained.epochs} epoch{'s' if self.trained.epochs > 1 else ''}"
        if self.trained.epochs < config["epochs"]:
            epochs += f" of {config['epochs']}, as many as the time budget allows"
        scheme = self.trained.compressed.scheme(trial.scheme)
        return replace(trial, scheme=scheme, note=f"{trial.note}, {epochs}")

    def point(self, trial: Trial, made: Artifact, outputs: Sequence[Array], seconds: float = 0.0) -> Point:
        """A trial's file and its outputs on all verification samples, held against the gates."""
        cost = self._costs.estimate(made)
        limits = [g for g in self.gates if g.name in MENDED]
        values, figures = gate_values(limits, self.lowering, self.original, outputs, {})
        # A count or a measurement takes time: not for a file that is out anyway.
        if trial.rung == "int8" or margin_of(limits, values) >= 0:
            names = [g.name for g in self.gates if g.name in COSTS]
            known = {"file_size": float(made.bytes), **self._gate_costs.of(made, names)}
            values |= {name: known[name] for name in names}
        return Point(
            trial=trial,
            bytes=made.bytes,
            values=values,
            margin=margin_of(self.gates, values),
            cost=None if cost is None else cost.ms,
            seconds=seconds,
            figures=figures,
        )

    def _ranking(self, trial: Trial) -> Sequence[Ranked]:
        """Layers by what each gains in float32, measured on calibration samples, from the cache if known."""
        file = self.float_file(trial.form)
        layers = layers_of(self._units(file))
        method = trial.scheme.calibration
        if method in ("auto", "all"):  # one method is enough for an order
            method = "minmax"
        scheme = replace(trial.scheme, calibration=method)
        samples = self.lowering.inputs.calibration()[:_RANK_CALIBRATION]
        heard = samples[:: max(1, len(samples) // _RANK_SAMPLES)][:_RANK_SAMPLES]
        played = isinstance(self.lowering.backend, Simulating) and scheme.precision == "int8"
        measurements = 2 * len(layers) if played else int(self.step.config["rankings"])
        calls = 0

        def counted() -> None:
            nonlocal calls
            calls += 1
            data = {"done": min(calls, measurements), "total": measurements}
            self.lowering.runner.emit(Event(kind="progress", step=self._name, data=data))

        def work() -> dict[str, Any]:
            backend, store = self.lowering.backend, self.lowering.runner.store
            want = _run(backend.session(file), heard)

            def noise(kept: frozenset[str]) -> float:
                counted()
                more: dict[str, Precision] = dict.fromkeys(sorted(kept), "float32")
                chosen = replace(scheme, overrides={**scheme.overrides, **more})
                try:
                    made = backend.quantize(
                        file, samples, chosen, refit=False, store=store, emit=lambda event: None
                    )
                    got = _run(backend.session(made), heard)
                except EdgekitError:
                    return float("inf")  # a file that cannot be made is no gain
                return _noise(want, got)

            if played:
                assert isinstance(backend, Simulating)
                plain = replace(scheme, overrides={})
                play = backend.simulator(file, samples, heard, plain)

                def played_noise(kept: frozenset[str]) -> float:
                    counted()
                    return _noise(want, play(kept))

                found = rank_alone(layers, played_noise)
            else:
                found = rank(layers, noise, measurements=measurements)
            place = {layer.units: i for i, layer in enumerate(layers)}
            rows = [{"layers": [place[x.units] for x in r.layers], "gain": r.gain} for r in found]
            return {"objects": [], "ranking": rows}

        calib = self.lowering.inputs.datas.get("calib")
        key = {
            "file": file.sha256,
            "scheme": scheme,
            "calib": calib.sha256 if calib is not None else None,
            "samples": [_RANK_CALIBRATION, _RANK_SAMPLES, measurements, played],
            "backend": self.lowering.backend.name,
            "tools": self.lowering.backend.tools(),
        }
        result = self.lowering.runner.run("search: ranking of layers", key, work)
        return [
            Ranked(layers=tuple(layers[i] for i in r["layers"]), gain=float(r["gain"]))
            for r in result["ranking"]
        ]

    def _units(self, file: Artifact) -> list[Unit]:
        return self.lowering.backend.units(file)

    @property
    def _name(self) -> str:
        return self.lowering.runner.shown("search")

    def _say(self, text: str) -> None:
        self.lowering.runner.emit(Event(kind="info", step=self._name, message=text))


def _holds(gate: Gate, measured: float | None) -> bool:
    return replace(gate, measured=measured).passed is True


def _run(session: Any, samples: Sequence[Sequence[Array]]) -> list[Array]:
    stacked = [np.concatenate(column) for column in zip(*samples, strict=True)]
    return reference.run_session(session, stacked)


def _noise(want: Sequence[Array], got: Sequence[Array]) -> float:
    """Noise power over signal power, summed over the outputs; infinite where a value is not finite."""
    total = 0.0
    for w, g in zip(want, got, strict=True):
        a, b = w.astype(np.float64), g.astype(np.float64)
        total += float(((a - b) ** 2).sum()) / max(float((a**2).sum()), 1e-30)
    return total if np.isfinite(total) else float("inf")


def _figures(point: Point) -> str:
    named = (("drop", "{:.2f} points lost"), ("agreement", "agreement {:.1f} %"), ("sqnr_db", "{:.1f} dB"))
    parts = [text.format(point.figures[k]) for k, text in named if point.figures.get(k) is not None]
    return ", ".join([*parts, f"{point.bytes / 1e3:,.1f} kB"])


def search_rows(outcome: Outcome, gates: Sequence[Gate], seconds: float) -> dict[str, Any]:
    """The report's "search" section."""
    return {
        "reason": outcome.reason,
        "evaluations": len(outcome.points),
        "seconds": round(seconds, 1),
        "limits": [{"name": g.name, "limit": g.limit, "unit": g.unit} for g in gates],
        "points": [
            {
                "rung": p.trial.rung,
                "note": p.trial.note,
                "form": p.trial.form,
                "precision": p.trial.scheme.precision,
                "calibration": p.trial.scheme.calibration,
                "kept": list(p.trial.kept),
                "bytes": p.bytes,
                "cost": p.cost,
                "cost_unit": p.cost_unit if p.cost is not None else None,
                "drop": p.figures.get("drop"),
                "agreement": p.figures.get("agreement"),
                "sqnr_db": p.figures.get("sqnr_db"),
                "passed": p.passed,
                "chosen": p is outcome.chosen,
                "seconds": round(p.seconds, 2),
            }
            for p in outcome.points
        ],
        "ranking": [
            {
                "first": r.layers[0].units[0],
                "last": r.layers[-1].units[0],
                "layers": len(r.layers),
                "gain": r.gain,
            }
            for r in outcome.ranking
        ],
    }
