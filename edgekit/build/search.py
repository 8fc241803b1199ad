"""The accuracy budget of one target: files that break a gate send the search up the ladder."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.backends.base import Simulating
from edgekit.build.lowering import Lowering
from edgekit.build.scores import SEARCHED, gate_values
from edgekit.errors import EdgekitError
from edgekit.measure.estimate import estimate_latency
from edgekit.tune import Ladder, Outcome, Point, Ranked, Trial, climb, layers_of, margin_of, rank, rank_alone
from edgekit.types import Artifact, Event, Gate, PlanStep, Unit, to_json
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
    them, each when it is first asked for."""

    def __init__(
        self,
        lowering: Lowering,
        step: PlanStep,
        gates: Sequence[Gate],
        original: Sequence[Array],
        target: Target,
        forms: Mapping[str, Callable[[], Artifact | None]],
    ) -> None:
        self.lowering, self.step, self.original, self.target = lowering, step, original, target
        self.gates = [g for g in gates if g.name in SEARCHED or (g.name == "latency" and self._estimated)]
        self._makers = forms
        self._files: dict[str, Artifact | None] = {}

    def run(self, start: Point, deadline: float | None) -> Outcome:
        """Search from the file as planned."""
        config = self.step.config
        ladder = Ladder(
            rungs=tuple(config["rungs"]),
            forms=tuple(n for n in self._makers if n != "original"),
            wider=tuple(config["wider"]),
            evaluations=int(config["evaluations"]),
            deadline=deadline,
        )
        self._say(f"{_figures(start)}: searching for a file that holds the gates")
        outcome = climb(start, ladder, self._evaluate, self._ranking, clock=time.monotonic)
        self._say(f"{outcome.reason} ({len(outcome.points)} evaluations)")
        return outcome

    def float_file(self, form: str) -> Artifact:
        """The float file of a form that a point was made from."""
        found = self._form(form)
        assert found is not None
        return found

    def _form(self, name: str) -> Artifact | None:
        if name not in self._files:
            self._files[name] = self._makers[name]()
        return self._files[name]

    def _evaluate(self, trial: Trial) -> Point | None:
        started = time.perf_counter()
        try:
            file = self._form(trial.form)
            if file is None:
                self._say(f"{trial.note}: left out, it has no such layers or torch.export refuses it")
                return None
            made, outputs = self.lowering.companion(file, trial.scheme, f"search: {trial.note}")
        except EdgekitError as exc:
            self._say(f"{trial.note}: cannot be made ({exc})")
            return None
        point = self.point(trial, made, outputs, time.perf_counter() - started)
        self._say(f"{trial.note}: {_figures(point)}, {'holds' if point.passed else 'breaks a gate'}")
        return point

    def point(self, trial: Trial, made: Artifact, outputs: Sequence[Array], seconds: float = 0.0) -> Point:
        """A trial's file and its outputs on all verification samples, held against the gates."""
        cost = self._cost(made)
        values, figures = gate_values(self.gates, self.lowering, self.original, outputs, made.bytes, cost)
        return Point(
            trial=trial,
            bytes=made.bytes,
            values=values,
            margin=margin_of(self.gates, values),
            cost=cost,
            seconds=seconds,
            figures=figures,
        )

    @property
    def _estimated(self) -> bool:
        """Whether the latency of the build is an estimate: then each file of the search has one too."""
        step = self.lowering.plan.step("measure")
        return step is None or str(step.config["device"]).startswith("emulator")

    def _cost(self, made: Artifact) -> float | None:
        backend = self.lowering.backend
        rows = [to_json(u) for u in backend.units(made)]
        covered = [to_json(c) for c in backend.coverage(made, self.target)]
        found = estimate_latency(self.lowering.inputs.profile, self.target, rows, coverage=covered)
        return None if found is None else found.ms

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
                chosen = replace(scheme, overrides=dict.fromkeys(sorted(kept), "float32"))
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
        "limits": [{"name": g.name, "limit": g.limit, "unit": g.unit} for g in gates if g.name in SEARCHED],
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
