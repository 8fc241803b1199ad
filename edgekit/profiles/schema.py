"""What a device profile may say: frozen values, unknown keys forbidden, figures optional.

A figure that nobody could source is left out (None), never guessed. ``sources`` maps a key path
("cores", "caches.l2", "memory.copy_gb_s") to where the figures at or below it come from.
Units are in the names: GHz, KiB, MiB, GB/s (10^9 bytes), microseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from edgekit.errors import ProfileError
from edgekit.types import Precision

Runtime = Literal["tflite", "executorch", "onnx", "torchscript"]
Delegate = Literal["xnnpack", "gpu", "nnapi", "qnnpack", "tensorrt", "openvino", "cpu"]
Abi = Literal["aarch64", "armv7l", "arm64-v8a", "armeabi-v7a", "x86_64"]
Isa = Literal[
    "neon",
    "crc32",
    "aes",
    "sha2",
    "lse",
    "rdm",
    "fp16",
    "dotprod",
    "i8mm",
    "bf16",
    "sve",
    "avx2",
    "avx512vnni",
]
EmulatedCpu = Literal["cortex-a35", "cortex-a53", "cortex-a57", "cortex-a72", "cortex-a76", "neoverse-n1"]
"""What ``qemu-aarch64 -cpu`` takes in QEMU 7.2, less "max" (wrong int8 results) and a64fx (SVE)."""

DELEGATES: dict[Runtime, tuple[Delegate, ...]] = {
    "tflite": ("xnnpack", "gpu", "nnapi", "cpu"),
    "executorch": ("xnnpack", "cpu"),
    "onnx": ("tensorrt", "openvino", "cpu"),
    "torchscript": ("qnnpack", "cpu"),
}
"""Which delegates each runtime has."""

# Strict: "4" is not 4 and 4.5 is not an int. TOML lists become tuples, so that the profile is frozen.
_CONFIG = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
_Positive = Annotated[float, Field(gt=0)]
_Count = Annotated[int, Field(ge=1)]
_COEFFICIENTS = 6


class _Section(BaseModel):
    model_config = _CONFIG


class Os(_Section):
    """The operating system that the targets run on."""

    name: str
    bits: Literal[32, 64]
    abi: Abi


class CoreCluster(_Section):
    """Cores of one kind. ``isa`` lists what int8 and fp16 kernels are chosen by.

    The ``midr_*`` figures are those of the Main ID Register as /proc/cpuinfo prints them
    (CPU implementer, part, variant, revision); 0x41 is Arm.
    """

    microarchitecture: str
    count: _Count
    ghz: _Positive | None = None
    min_ghz: _Positive | None = None
    isa: tuple[Isa, ...] = Field(default=(), strict=False)
    midr_implementer: int = Field(default=0x41, ge=0, le=0xFF)
    midr_part: int | None = Field(default=None, ge=0, le=0xFFF)
    midr_variant: int | None = Field(default=None, ge=0, le=0xF)
    midr_revision: int | None = Field(default=None, ge=0, le=0xF)


class Cache(_Section):
    """One cache: size, associativity where known, and how many cores share it."""

    kib: _Count
    ways: _Count | None = None
    shared_by: _Count = 1
    line_bytes: _Count = 64


class Caches(_Section):
    """The cache hierarchy as one core sees it."""

    l1d: Cache | None = None
    l1i: Cache | None = None
    l2: Cache | None = None
    l3: Cache | None = None


class Memory(_Section):
    """Main memory. ``copy_gb_s`` is tinymembench's "C copy", ``peak_gb_s`` the data sheet's bandwidth."""

    mib: _Count | None = None
    copy_gb_s: _Positive | None = None
    peak_gb_s: _Positive | None = None
    kind: str | None = None


class Accelerator(_Section):
    """A GPU or NPU beside the CPU, as its vendor states it."""

    name: str
    kind: Literal["gpu", "npu"]
    int8: bool
    """Whether it has int8 kernels that are worth building for."""
    cores: _Count | None = None
    tensor_cores: _Count | None = None
    ghz: _Positive | None = None
    gflops_fp16: _Positive | None = None
    tops_int8: _Positive | None = None


class Target(_Section):
    """One way to run a model on the device. ``precisions`` are in order of preference."""

    runtime: Runtime
    delegate: Delegate
    precisions: tuple[Precision, ...] = Field(min_length=1, strict=False)
    min_version: str = ""
    """Oldest runtime (for tensorrt: TensorRT) that takes what edgekit writes; "" if unknown."""
    version: str = Field(default="", pattern=r"^(\d+(\.\d+)*)?$")
    """The runtime's version on the device where files and scripts depend on it: "10.3" for tensorrt of
    JetPack 6.2; "" if unknown."""
    float_ops: tuple[str, ...] = Field(default=(), strict=False)
    """Operators of .tflite files ("HARD_SWISH") that stay in float32 in an int8 file: faster so there."""
    warnings: tuple[str, ...] = Field(default=(), strict=False)

    @field_validator("precisions")
    @classmethod
    def _no_repeats(cls, value: tuple[Precision, ...]) -> tuple[Precision, ...]:
        if len(set(value)) != len(value):
            raise ValueError(f"a precision is listed twice in {list(value)}")
        return value

    @model_validator(mode="after")
    def _delegate_of_runtime(self) -> Self:
        known = DELEGATES[self.runtime]
        if self.delegate not in known:
            raise ValueError(
                f"runtime {self.runtime} has no delegate {self.delegate!r}; it has {', '.join(known)}"
            )
        if self.float_ops and self.runtime != "tflite":
            raise ValueError(f"float_ops are operators of .tflite files, not of {self.runtime}")
        return self


class Constraints(_Section):
    """What a model must keep to on this device."""

    channel_multiple: _Count = 1
    """Round channel counts to this when pruning; 1 for no preference."""
    static_shapes: bool = True
    max_model_bytes: _Count | None = None
    threads: _Count = 1


class Protocol(_Section):
    """How latency is measured here. ``warmup_ms`` is for tools that warm up by time (trtexec)."""

    warmup: int = Field(default=10, ge=0)
    runs: _Count = 50
    warmup_ms: int | None = Field(default=None, ge=0)


class ThermalZone(_Section):
    """A thermal zone that the persona shows; ``celsius`` is an idle reading of the real board."""

    zone: str
    celsius: Annotated[float, Field(ge=-40, le=125)]


class Emulator(_Section):
    """How to emulate the CPU: QEMU's ``-cpu`` and what /proc and /sys must show beside the figures above."""

    cpu: EmulatedCpu
    features: str
    """The Features line of the board's /proc/cpuinfo: the runtime picks its kernels by it."""
    bogomips: _Positive
    hardware: str | None = None
    model: str | None = None
    revision: str | None = None
    thermal: tuple[ThermalZone, ...] = Field(default=(), strict=False)


class MacsPerCycle(_Section):
    """Peak multiply-accumulates per core and cycle of the runtime's kernels."""

    fp32: _Positive
    int8: _Positive
    fp16: _Positive | None = None


class DepthwiseShare(_Section):
    """Rate of depthwise kernels as a share of that of dense ones, which is smaller where dense int8 kernels
    have a dot product and depthwise ones have not."""

    fp32: _Positive = 1.0
    int8: _Positive = 1.0


class Tile(_Section):
    """Output channels that the runtime's kernels compute at once; 1 where that is unknown."""

    fp32: _Count = 1
    int8: _Count = 1


class ResidualSigma(_Section):
    """Standard deviations of log(measured / predicted): networks of families like those that the
    coefficients were checked on, any other, and int8. The defaults are those of a Pi 4 (docs/estimate.md)."""

    known: _Positive = 0.20
    unseen: _Positive = 0.27
    int8: _Positive = 0.27


class Estimate(_Section):
    """Coefficients of an additive model of latency, memory traffic not divided by threads:

    t = MACs / (threads * GHz * macs_per_cycle * efficiency) + bytes / copy_gb_s + ops * op_us
        + scores * post_process_ns.
    """

    macs_per_cycle: MacsPerCycle
    efficiency: float = Field(gt=0, le=1)
    depthwise: DepthwiseShare = DepthwiseShare()
    op_us: _Positive
    copy_gb_s: _Positive
    post_process_ns: _Positive | None = None
    """TFLite's detection post-processing, per anchor and class, which runs on one thread."""
    tile: Tile = Tile()
    sigma: ResidualSigma = ResidualSigma()
    runtime: str
    """The runtime and version that the coefficients describe: they hold for no other."""
    targets: tuple[str, ...] = Field(default=("tflite/xnnpack", "executorch/xnnpack"), strict=False)
    """Targets that they are used for; the first is the one that they come from."""
    calibration: Literal["spec", "public", "measured"]
    """spec: data-sheet figures; public: fitted on published runs of this device; measured: on own runs."""
    conditions: str = ""
    """Of measured coefficients: clock, governor, runtime version, machine."""
    validated_on: str = ""
    """What predictions were compared with, and how they did."""
    macs_range: tuple[_Positive, _Positive] | None = Field(default=None, strict=False)
    bytes_range: tuple[_Positive, _Positive] | None = Field(default=None, strict=False)
    """Smallest and largest network (MACs, bytes moved) that predictions were compared on."""
    n_points: int = Field(default=0, ge=0)
    """Own runs that the coefficients were fitted to."""
    interval_log: _Positive | None = None
    """Half width of the 90 % interval of log latency: a conformal quantile of left-out runs (10 or more)."""
    covariance: tuple[Annotated[tuple[float, ...], Field(strict=False)], ...] = Field(
        default=(), strict=False
    )
    """Of the logs of macs_per_cycle.fp32, .int8, copy_gb_s, op_us, depthwise.fp32 and .int8."""

    @field_validator("covariance")
    @classmethod
    def _square(cls, value: tuple[tuple[float, ...], ...]) -> tuple[tuple[float, ...], ...]:
        if value and [len(row) for row in value] != [_COEFFICIENTS] * _COEFFICIENTS:
            raise ValueError(f"covariance must have {_COEFFICIENTS} rows of {_COEFFICIENTS} numbers")
        return value


class DeviceProfile(_Section):
    """A device, or a class of devices. Equal profiles are equal values; nothing changes one."""

    id: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    title: str
    description: str = ""
    abstract: bool = False
    """True for a base that is only there to be extended."""
    extends: str | None = None
    """What the file extended, kept for display; it is already merged in."""
    soc: str | None = None
    os: Os
    cores: tuple[CoreCluster, ...] = Field(default=(), strict=False)
    caches: Caches = Caches()
    memory: Memory = Memory()
    accelerator: Accelerator | None = None
    targets: tuple[Target, ...] = Field(default=(), strict=False)
    constraints: Constraints = Constraints()
    protocol: Protocol = Protocol()
    emulator: Emulator | None = None
    estimate: Estimate | None = None
    sources: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _emulator_has_facts(self) -> Self:
        """The persona is made from the figures; without these the runtime crashes under qemu-user."""
        if self.emulator is None:
            return self
        needed: dict[str, Any] = {"cores": self.cores or None, "memory.mib": self.memory.mib}
        needed |= {f"caches.{name}": getattr(self.caches, name) for name in ("l1d", "l1i", "l2")}
        for i, cluster in enumerate(self.cores):
            for name in ("midr_part", "midr_variant", "midr_revision"):
                needed[f"cores[{i}].{name}"] = getattr(cluster, name)
        missing = [key for key, value in needed.items() if value is None]
        if missing:
            raise ValueError(f"the emulator section needs {', '.join(missing)}")
        return self

    @property
    def core_count(self) -> int:
        """All cores of all clusters; 0 when the profile describes a class without stated cores."""
        return sum(cluster.count for cluster in self.cores)

    @property
    def isa(self) -> frozenset[str]:
        """Instruction-set extensions that every core has."""
        sets = [frozenset[str](cluster.isa) for cluster in self.cores]
        return frozenset.intersection(*sets) if sets else frozenset()

    def slice(self, *names: str) -> dict[str, Any]:
        """JSON data of some top-level attributes, for cache keys.

        Raises ValueError for a name that is no attribute, so that a key never silently misses one.
        """
        unknown = [name for name in names if name not in type(self).model_fields]
        if unknown:
            raise ValueError(f"a profile has no attribute {', '.join(unknown)}")
        return self.model_dump(mode="json", include=set(names))

    def target(self, runtime: str, delegate: str | None = None) -> Target | None:
        """The first target with that runtime (and delegate), or None."""
        return next(
            (t for t in self.targets if t.runtime == runtime and delegate in (None, t.delegate)),
            None,
        )

    def source_of(self, path: str | Sequence[str]) -> str | None:
        """The source that covers a key path: its own entry or the nearest one above it."""
        parts = path.split(".") if isinstance(path, str) else list(path)
        for end in range(len(parts), 0, -1):
            found = self.sources.get(".".join(parts[:end]))
            if found:
                return found
        return None

    def require_concrete(self) -> Self:
        """Self, or ProfileError when this is a base that describes no device."""
        if self.abstract:
            raise ProfileError(
                f"profile {self.id!r} is a base for other profiles and describes no device",
                hint="choose one of `edgekit profiles list`, or extend it in a file of your own",
            )
        return self
