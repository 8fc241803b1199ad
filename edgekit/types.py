"""The frozen values that cross from one room of edgekit to another.

Nothing here imports a framework; arrays appear only in type annotations. Shapes are tuples of
ints, batch first. Sizes are bytes, times seconds unless the name says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

Precision = Literal["float32", "fp16", "dynamic", "int16x8", "int8"]
"""Of a whole file: "dynamic" is int8 weights with float activations, "int16x8" int16 activations with
int8 weights, "int8" both in int8; "fp16" halves the weights, and the arithmetic where a delegate can."""
Calibration = Literal["auto", "all", "minmax", "moving_average", "percentile", "mse", "entropy"]
"""How activation ranges are chosen: "auto" measures two methods, "all" every one, and keeps the best."""
Task = Literal["classification", "generic"]
MeasurementSource = Literal["device", "emulator", "host", "estimate", "stand-in"]
"""What a figure is worth. "stand-in": a program that says that it only plays the runtime printed it."""
Comparison = Literal[">=", "<="]


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """One input or output of a model or of an artifact.

    ``layout`` is "NCHW", "NHWC" or None where the tensor has no image axes. ``scale`` and
    ``zero_point`` are set for integer tensors: real = scale * (stored - zero_point).
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    layout: str | None = None
    scale: float | None = None
    zero_point: int | None = None

    def __post_init__(self) -> None:
        if any(not isinstance(d, int) or d < 1 for d in self.shape):
            raise ValueError(
                f"tensor {self.name!r}: every dimension must be a positive int, got {self.shape}"
            )


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How raw images become model inputs: pixel / ``scale``, then (x - mean) / std per channel.

    All None when the user's dataset delivers tensors that are already preprocessed: edgekit then
    records the observed range only, and the app must do what the user's own code does.
    """

    resize: tuple[int, int] | None = None
    scale: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    channel_order: Literal["RGB", "BGR", "GRAY"] | None = None


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """What is known of the user's model: its signature in the source's own layout."""

    name: str
    source: str
    sha256: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    task: Task = "generic"
    labels: tuple[str, ...] = ()
    preprocessing: Preprocessing = Preprocessing()
    params: int | None = None
    macs: int | None = None
    trainable: bool = True
    """False for a model that edgekit cannot change (.onnx, TorchScript): no compression in torch."""


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """How to write a file: one precision for all units, exceptions by unit name, and calibration."""

    precision: Precision = "float32"
    calibration: Calibration = "auto"
    per_channel: bool = True
    io: Literal["float", "int8"] = "float"
    keep_nchw: bool = False
    delegate: str = ""
    """Delegate that the file is for, as the profile's target names it; some have rules of their own."""
    delegate_version: str = ""
    """The delegate's version on the device, where files depend on it ("8.5" of TensorRT); "" if unknown."""
    overrides: Mapping[str, Precision] = field(default_factory=dict)
    float_ops: tuple[str, ...] = ()
    """Operators of the runtime by type ("HARD_SWISH") that stay in float32 in an int8 file, where no unit's
    own exception says otherwise: they have no fast int8 kernel on that device."""
    trained: tuple[tuple[float, float, float, float], ...] = ()
    """Activation ranges from quantisation-aware training in place of calibrated ones: smallest and largest
    value of the float model there on the calibration samples, then the range."""

    def exception(self, unit: str, op: str) -> Precision | None:
        """In what a unit is kept other than the file's precision: by its name, else by its operator."""
        if unit in self.overrides:
            return self.overrides[unit]
        return "float32" if self.precision == "int8" and op in self.float_ops else None


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A model file in the store. Immutable; ``sha256`` is the digest of the file's bytes."""

    sha256: str
    format: Literal["onnx", "tflite", "safetensors", "pte", "torchscript"]
    precision: Precision
    path: Path
    bytes: int
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    parent: str | None = None
    producer: str = ""
    tools: Mapping[str, str] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Unit:
    """One operator of an artifact that can be quantised or kept: the grain of every search."""

    name: str
    op: str
    index: int
    macs: int
    weight_bytes: int
    output_shape: tuple[int, ...]
    precision: str
    input_shapes: tuple[tuple[int, ...], ...] = ()
    """Of the activations that it reads, constants left out; () where the backend does not tell."""
    channels: int | None = None
    """Output channels of a convolution or a product with weights."""
    groups: int = 1
    """Of a convolution; as many as channels in a depthwise one."""


@dataclass(frozen=True, kw_only=True)
class OpCoverage:
    """Whether a delegate takes an operator; ``reason`` says why not."""

    index: int
    op: str
    accelerated: bool
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """An operator that a backend cannot take, found before any conversion.

    ``where`` is the module's path in the user's model ("features.3.conv"), or the node's name in a file;
    ``op`` the operator as the user's framework names it; ``hint`` says what to change in the model.
    """

    op: str
    where: str
    reason: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.op} at {self.where or 'the top of the model'}: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class Support:
    """Answer of a backend to "can you do this for this device?"."""

    ok: bool
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RunProtocol:
    """How a measurement is taken: warm-up runs are thrown away, ``runs`` are kept."""

    warmup: int = 2
    runs: int = 5
    threads: int = 1


@dataclass(frozen=True, kw_only=True)
class DeviceCommand:
    """What a link must run: files to push (name on the device -> local path) and an argument vector.

    ``argv[0]`` and any argument equal to a key of ``files`` are names relative to the run's own
    directory on the device. ``outputs`` are files that the link brings back. With ``python`` the
    program argv[0] is a Python file, run by the Python of the device, which must have those packages
    ("torch==2.9.1", "onnxruntime>=1.20"; one of two: "ai-edge-litert | tflite-runtime").
    """

    argv: tuple[str, ...]
    files: Mapping[str, Path]
    python: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    cpus: tuple[int, ...] = ()
    """Cores that the program may use; all when empty."""
    fallback: str = ""
    """Why this is not edgekit's own runner, where there could be one; empty for what is no fallback."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One measured figure. ``median`` is None when the source cannot know it (latency of an emulator)."""

    metric: str
    unit: str
    source: MeasurementSource
    median: float | None
    samples: tuple[float, ...] = ()
    warmup: int = 0
    p90: float | None = None
    ci95: tuple[float, float] | None = None
    n: int = 0
    subject: str = "final"
    """"final" for the built file, "baseline" for the float32 file of the original model."""
    threads: int = 1
    device: Mapping[str, Any] = field(default_factory=dict)
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Gate:
    """A limit and what was measured against it. ``measured`` None never passes."""

    name: str
    limit: float
    comparison: Comparison
    unit: str
    measured: float | None = None
    reason: str = ""

    @property
    def passed(self) -> bool | None:
        """True or False once measured; None before."""
        if self.measured is None:
            return None
        return self.measured >= self.limit if self.comparison == ">=" else self.measured <= self.limit


@dataclass(frozen=True, kw_only=True)
class PlanStep:
    """One step of a plan. ``config`` is plain JSON data and enters the step's cache key."""

    name: str
    config: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Rejected:
    """An alternative that the planner did not choose."""

    alternative: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What `edgekit build` will do. A pure function of its inputs; equal inputs give equal plans."""

    profile: str
    target: str
    backend: str
    delegate: str
    scheme: Scheme
    steps: tuple[PlanStep, ...]
    gates: tuple[Gate, ...]
    rejected: tuple[Rejected, ...]
    warnings: tuple[str, ...] = ()
    companions: tuple[Scheme, ...] = ()
    """Further precisions of the model in the same bundle."""

    def step(self, name: str) -> PlanStep | None:
        """The step of that name, or None when the plan has none."""
        return next((s for s in self.steps if s.name == name), None)


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that the library wants to say while it works. Only cli/ prints.

    kind: "step_started", "step_finished", "progress", "warning", "info".
    ``data`` holds JSON scalars: seconds, cached, done, total, metrics.
    """

    kind: Literal["step_started", "step_finished", "progress", "warning", "info"]
    step: str
    message: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)


Emit = Callable[[Event], None]


def ignore_events(event: Event) -> None:
    """An ``Emit`` for callers that do not listen."""


class Session(Protocol):
    """A loaded artifact on the host.

    ``run`` and ``taps`` take arrays in the layout and dtype of the *source* model (NCHW), whatever the
    artifact stores; ``run`` returns such arrays. ``taps`` returns real (dequantised) values of units'
    outputs in the artifact's own layout. ``encode`` gives the artifact's own arrays, which ``run_raw``
    takes and returns.
    """

    def run(self, inputs: Sequence[Array]) -> list[Array]: ...

    def taps(self, inputs: Sequence[Array], units: Sequence[str]) -> dict[str, Array]: ...

    def encode(self, inputs: Sequence[Array]) -> list[Array]: ...

    def run_raw(self, inputs: Sequence[Array]) -> list[Array]: ...


def to_json(value: Any) -> Any:
    """Plain JSON data from the values above: dataclasses, tuples, paths and mappings, recursively."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [to_json(v) for v in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item") and not isinstance(value, (str, bytes)):
        return value.item()
    return value
