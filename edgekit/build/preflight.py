"""What would go wrong with a model on each target, found before any conversion.

The module is traced once; each backend looks at the graph for operators that it cannot take. Planning
refuses a target by it, and `edgekit inspect MODEL` prints it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.backends import get_backend
from edgekit.backends.torch_graph import TorchGraph, trace
from edgekit.build.inputs import Sources, check_batch, load_role, samples_of
from edgekit.build.linting import lint
from edgekit.errors import EdgekitError
from edgekit.types import Emit, Event, ModelSpec, Problem, Scheme, ignore_events
from edgekit.verify.lint import SAMPLES

if TYPE_CHECKING:
    from edgekit.profiles.schema import DeviceProfile
    from edgekit.sources.models import LoadedModel
    from edgekit.types import Array
    from edgekit.verify.lint import Finding

_STEP = "preflight"
_ALL = "every operator"
"""``Problem.op`` of a backend that cannot work here at all."""


@dataclass(frozen=True, kw_only=True)
class Preflight:
    """A model that loads and runs, and per target ("runtime/delegate") what stands in its way.

    ``operators`` counts the operators of the exported graph, None where there is no graph to count.
    ``lines`` has the place in the user's code ("net.py:41") of operators by name and module path.
    ``export_error`` says why torch.export refused the module and where: some backends can do without.
    """

    spec: ModelSpec
    operators: int | None
    schemes: Mapping[str, Scheme]
    problems: Mapping[str, tuple[Problem, ...]]
    lines: Mapping[tuple[str, str], str]
    export_error: str | None = None
    lints: tuple[Finding, ...] = ()
    """What may suffer in int8; with calibration data each says whether it does."""

    @property
    def buildable(self) -> tuple[str, ...]:
        """The targets without a problem."""
        return tuple(target for target, found in self.problems.items() if not found)

    def line_of(self, problem: Problem) -> str:
        """Where in the user's code the operator is called first, "" when that is not known."""
        return self.lines.get((problem.op, problem.where), "")

    def grouped(self) -> list[tuple[Problem, tuple[str, ...]]]:
        """Each problem once, with the targets that it stops."""
        stopped: dict[Problem, list[str]] = {}
        for target, found in self.problems.items():
            for problem in dict.fromkeys(found):
                stopped.setdefault(problem, []).append(target)
        return [(problem, tuple(targets)) for problem, targets in stopped.items()]


def check_targets(
    model: LoadedModel,
    sample: Sequence[Array] | None,
    schemes: Mapping[str, Scheme],
    emit: Emit = ignore_events,
) -> dict[str, tuple[Problem, ...]]:
    """The problems of ``model`` with each target of ``schemes``, both keyed by "runtime/delegate".

    ``sample`` holds one array per input of the model, in source layout with a batch of 1; None takes the
    model's own example inputs. A backend that is not installed or does not exist is a problem of its
    target. A backend whose check itself breaks is a warning and no problem: the build will tell.
    """
    return _check(model, _graph(model, sample), schemes, emit)


def inspect_model(
    source: str | None,
    profiles: Iterable[DeviceProfile],
    *,
    weights: Path | None = None,
    input_shapes: tuple[tuple[int, ...], ...] | None = None,
    input_dtypes: tuple[str | None, ...] | None = None,
    calib: str | None = None,
    emit: Emit = ignore_events,
) -> Preflight:
    """Load the model as a build would and check it for every target of ``profiles``.

    Each target is checked for the precision that the first profile with it prefers. With ``calib`` what may
    suffer in int8 is measured. Raises what loading raises: SourceError, DataError, UserError.
    """
    from edgekit.sources.models import load_model

    sources = Sources(model=source, weights=weights, input_shapes=input_shapes, calib=calib)
    data = None if calib is None else load_role("calib", calib, sources, limit=SAMPLES)
    model = load_model(
        source, weights=weights, input_shapes=input_shapes, input_dtypes=input_dtypes, calib=data
    )
    check_batch(model.spec)
    schemes = preferred_schemes(profiles)
    graph = _graph(model, None)
    known = None if graph is None or graph.error is not None else graph
    return Preflight(
        spec=model.spec,
        operators=None if known is None else len(known.ops),
        schemes=schemes,
        problems=_check(model, graph, schemes, emit),
        lines={} if known is None else {(op.op, op.where): op.line for op in reversed(known.ops)},
        export_error=_export_error(graph),
        lints=() if known is None else lint(known, () if data is None else samples_of(data.inputs), emit),
    )


def preferred_schemes(profiles: Iterable[DeviceProfile]) -> dict[str, Scheme]:
    """Every target of the profiles with its preferred precision; the first profile that has it decides."""
    schemes: dict[str, Scheme] = {}
    for profile in profiles:
        for target in profile.targets:
            scheme = Scheme(precision=target.precisions[0], delegate=target.delegate)
            schemes.setdefault(f"{target.runtime}/{target.delegate}", scheme)
    return schemes


def _graph(model: LoadedModel, sample: Sequence[Array] | None) -> TorchGraph | None:
    if model.module is None:
        return None
    if sample is None:
        sample = [np.asarray(t) for t in model.example_inputs]
    return trace(model.module, sample)


def _export_error(graph: TorchGraph | None) -> str | None:
    if graph is None or graph.error is None:
        return None
    return f"{graph.error} ({graph.error_line})" if graph.error_line else graph.error


def _check(
    model: LoadedModel, graph: TorchGraph | None, schemes: Mapping[str, Scheme], emit: Emit
) -> dict[str, tuple[Problem, ...]]:
    emit(Event(kind="step_started", step=_STEP))
    source: Any = model.onnx_path if model.module is None else model.module
    found = {
        target: _check_one(target, source, model.spec, graph, scheme, emit)
        for target, scheme in schemes.items()
    }
    emit(Event(kind="step_finished", step=_STEP, data={"cached": False}))
    return found


def _check_one(
    target: str, source: Any, spec: ModelSpec, graph: TorchGraph | None, scheme: Scheme, emit: Emit
) -> tuple[Problem, ...]:
    runtime, _, delegate = target.partition("/")
    try:
        backend = get_backend(runtime)
        found = backend.preflight(source, spec, graph, scheme=replace(scheme, delegate=delegate))
    except EdgekitError as exc:
        return (Problem(op=_ALL, where=spec.name, reason=str(exc), hint=exc.hint or ""),)
    except ImportError as exc:
        reason = f"the {runtime} backend does not load: {exc}"
        return (Problem(op=_ALL, where=spec.name, reason=reason, hint="see `edgekit doctor`"),)
    except Exception as exc:  # a check looks at whatever users write: it must not end the build
        emit(
            Event(
                kind="warning",
                step=_STEP,
                message=f"the model could not be checked for {target} ({type(exc).__name__}: {exc}); "
                "what does not fit there shows only when it is built",
            )
        )
        return ()
    return tuple(found)
