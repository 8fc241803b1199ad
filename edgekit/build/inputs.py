"""Everything that a build starts from: profile, model and data, loaded and checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.errors import UserError
from edgekit.plan import DataFacts, Request
from edgekit.plan.request import HELD_BACK_FROM
from edgekit.settings import resolved
from edgekit.types import Emit, Event, ModelSpec, Preprocessing, Task, TensorSpec, ignore_events

if TYPE_CHECKING:
    from edgekit.profiles.schema import DeviceProfile
    from edgekit.sources.arrays import Data
    from edgekit.sources.models import LoadedModel
    from edgekit.types import Array


_RANDOM_SAMPLES = 8


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What the user named. Without ``model`` the built-in demo, with its own data."""

    model: str | None = None
    weights: Path | None = None
    input_shapes: tuple[tuple[int, ...], ...] | None = None
    input_dtypes: tuple[str | None, ...] | None = None
    """Types of the inputs by numpy names, None where the data or the file says it, or for float32."""
    calib: str | None = None
    eval: str | None = None
    train: str | None = None
    task: Task | None = None
    input_range: tuple[float, float] | None = None
    preprocessing: Preprocessing | None = None
    """For image folders, the only raw images; other data is taken as already preprocessed."""
    allow_overlap: bool = False


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Loaded and checked. ``datas`` holds the roles that there are; they share no sample."""

    profile: DeviceProfile
    model: LoadedModel
    datas: Mapping[str, Data]
    warnings: tuple[str, ...] = ()
    sources: Sources = field(default_factory=Sources)
    teacher: LoadedModel | None = None
    """What the compressed model learns from, where that is not the original."""
    student: LoadedModel | None = None
    """What is compressed and shipped in place of the original."""

    def facts(self) -> DataFacts:
        """What the planner needs to know of the data."""
        evaluation, train = self.datas.get("eval"), self.datas.get("train")
        return DataFacts(
            calib=len(self.datas["calib"]) if "calib" in self.datas else 0,
            eval=len(evaluation) if evaluation is not None else 0,
            eval_labelled=evaluation is not None and evaluation.labels is not None,
            train=len(train) if train is not None else 0,
            train_labelled=train is not None and train.labels is not None,
        )

    def calibration(self) -> list[list[Array]]:
        """Calibration samples, each a list of (1, ...) arrays."""
        return samples_of(self.datas["calib"].inputs) if "calib" in self.datas else []

    def verification(self, *, seed: int) -> tuple[tuple[Array, ...], Array | None, str]:
        """The samples that stages are compared on, their labels, and where they come from.

        Evaluation data where there is any, else the calibration samples that are held back from
        calibration, else seeded random values, which verify the conversion but nothing about accuracy.
        """
        if "eval" in self.datas:
            data = self.datas["eval"]
            return data.inputs, data.labels, "eval"
        if "calib" in self.datas:
            data = self.datas["calib"]
            held = np.arange(len(data))[4::5] if len(data) >= HELD_BACK_FROM else np.arange(len(data))
            return tuple(x[held] for x in data.inputs), None, "held-back calibration"
        rng = np.random.default_rng(seed)
        return tuple(_random(rng, t) for t in self.model.spec.inputs), None, "random"


def _random(rng: np.random.Generator, tensor: TensorSpec) -> Array:
    """Seeded samples of an input: standard normal, or indices that every table has."""
    from edgekit.sources.inspection import INDEX_LIMIT

    shape = (_RANDOM_SAMPLES, *tensor.shape[1:])
    if np.dtype(tensor.dtype).kind in "iu":
        return rng.integers(0, INDEX_LIMIT, shape).astype(tensor.dtype)
    return rng.standard_normal(shape).astype(tensor.dtype)


def samples_of(inputs: tuple[Array, ...]) -> list[list[Array]]:
    """(n, ...) arrays as n samples of (1, ...) arrays."""
    return [[x[i : i + 1] for x in inputs] for i in range(len(inputs[0]))]


def load_inputs(
    sources: Sources, profile_name: str, request: Request, *, seed: int = 0, emit: Emit = ignore_events
) -> Inputs:
    """Load profile, data and model, in the order in which mistakes are cheapest to find."""
    from edgekit.profiles.loader import load_profile
    from edgekit.sources.arrays import with_dtypes
    from edgekit.sources.checks import check_data
    from edgekit.sources.models import load_model
    from edgekit.sources.splits import check_disjoint, check_sources, split_calibration

    profile = load_profile(profile_name)
    profile.require_concrete()
    if sources.model is None and not (sources.calib or sources.eval or sources.train):
        sources = Sources(calib="digits", eval="digits", train="digits", weights=sources.weights)
    specs: dict[Any, str] = {
        role: spec
        for role, spec in (("calib", sources.calib), ("eval", sources.eval), ("train", sources.train))
        if spec is not None
    }
    if set(specs.values()) != {"digits"}:  # the built-in set has a fixed split for each role
        check_sources(specs, allow_overlap=sources.allow_overlap)
    limit = resolved(request.settings)["calib.samples"]
    datas: dict[Any, Data] = {}
    warnings: list[str] = []
    emit(Event(kind="step_started", step="load"))
    for role in specs:
        datas[role] = load_role(role, specs[role], sources, limit if role == "calib" else None)
    datas, notes = check_disjoint(datas, allow_overlap=sources.allow_overlap)
    warnings += notes
    if "train" in datas and "calib" not in datas:
        count = min(limit, max(1, len(datas["train"]) // 5))
        datas["train"], datas["calib"] = split_calibration(datas["train"], count, seed=seed)
        warnings.append(f"no --calib was given: {count} training samples were set aside for calibration")
    example = datas.get("calib") or datas.get("eval") or datas.get("train")
    model = load_model(
        sources.model,
        weights=sources.weights,
        input_shapes=sources.input_shapes,
        input_dtypes=sources.input_dtypes,
        calib=example,
        task=sources.task,
    )
    check_batch(model.spec)
    model = _described(model, datas.values())
    datas = {role: with_dtypes(d, [t.dtype for t in model.spec.inputs]) for role, d in datas.items()}
    indices = [t.name for t in model.spec.inputs if np.dtype(t.dtype).kind in "iu"]
    if indices and not datas:
        warnings.append(
            f"no data says which integers {', '.join(indices)} takes: the files are checked with 0 and 1 only"
        )
    reference = datas.get("eval") or datas.get("train")
    for role, data in datas.items():
        other = reference if role == "calib" else None
        warnings += check_data(data, model.spec, reference=other, input_range=sources.input_range)
        warnings += list(data.notes)
    teacher, student = (
        _companion(role, named, sources, example, model.spec)
        for role, named in (("teacher", request.teacher), ("student", request.student))
    )
    if student is not None and (student.module is None or not student.spec.trainable):
        raise UserError(
            f"the student {request.student} cannot be trained: its source is fixed",
            hint="give it as file.py:callable or package.module:callable",
        )
    emit(Event(kind="step_finished", step="load", data={"cached": False}))
    return Inputs(
        profile=profile,
        model=model,
        datas={str(r): d for r, d in datas.items()},
        warnings=tuple(dict.fromkeys(warnings)),
        sources=sources,
        teacher=teacher,
        student=student,
    )


def _companion(
    role: str, named: str | None, sources: Sources, example: Data | None, spec: ModelSpec
) -> LoadedModel | None:
    """A teacher or a student; None when none is named. Raises UserError when it does not fit the model."""
    from edgekit.sources.models import load_model

    if named is None:
        return None
    loaded = load_model(
        named,
        input_shapes=tuple(t.shape for t in spec.inputs),
        input_dtypes=sources.input_dtypes,
        calib=example,
        task=spec.task,
    )
    ours = [t.shape for t in loaded.spec.outputs]
    theirs = [t.shape for t in spec.outputs]
    if ours != theirs:
        raise UserError(
            f"the {role} {named} gives outputs of shape {ours}, the model {theirs}",
            hint="both must answer the same question",
        )
    if loaded.module is None:
        raise UserError(
            f"the {role} {named} is an ONNX file, which torch cannot run", hint="give a torch model"
        )
    return loaded


def check_batch(spec: ModelSpec) -> None:
    """Raise UserError when an input of the model takes more than one sample, or none, at a time."""
    for tensor in spec.inputs:
        if tensor.shape[:1] != (1,):
            one = ",".join(map(str, (1, *tensor.shape[1:])))
            raise UserError(
                f"input {tensor.name!r} of {spec.source} has the shape {tensor.shape}, "
                "but the files that edgekit builds take one sample at a time",
                hint=f"give --input-shape {one}, or export the model with a batch of 1",
            )


def load_role(role: Any, spec: str, sources: Sources, limit: int | None) -> Data:
    """One data set of ``sources``, at most ``limit`` samples. Raises DataError."""
    from edgekit.sources.data import load_data

    shapes = sources.input_shapes
    size = (shapes[0][2], shapes[0][3]) if shapes and len(shapes[0]) == 4 else None
    return load_data(
        spec,
        role=role,
        limit=limit,
        input_count=len(shapes) if shapes else 1,
        preprocessing=sources.preprocessing,
        image_size=size,
    )


def _described(model: LoadedModel, datas: Iterable[Data]) -> LoadedModel:
    """The model with what the data tells about it: class names, and how images become inputs."""
    spec = model.spec
    for data in datas:
        if data.classes and not spec.labels:
            spec = replace(spec, labels=data.classes)
        if data.preprocessing != Preprocessing() and spec.preprocessing == Preprocessing():
            spec = replace(spec, preprocessing=data.preprocessing)
    return replace(model, spec=spec)
