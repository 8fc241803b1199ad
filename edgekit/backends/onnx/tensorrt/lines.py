"""The TensorRT versions that Jetson devices have, and how ``trtexec`` differs between them, as data.

A line is a range of versions with one set of flags, named after the version that JetPack ships. Flags are
those of samples/common/sampleOptions.cpp in NVIDIA/TensorRT at the respective release, opsets those of
docs/operators.md in onnx-tensorrt.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgekit.errors import Unsupported
from edgekit.types import Precision

DEFAULT_VERSION = "10.3"
"""Used where a profile does not say which TensorRT the device has: that of JetPack 6.1 and 6.2."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One range of TensorRT versions: ``since`` <= (major, minor) < ``before``."""

    name: str
    since: tuple[int, int]
    before: tuple[int, int]
    jetpack: str
    max_opset: int
    skip_inference: str
    """Flag that ends trtexec once the engine is written."""
    int8_flags: tuple[str, ...]
    fp16_flags: tuple[str, ...]
    float32_flags: tuple[str, ...] = ("--noTF32",)
    timing_flags: tuple[str, ...] = ("--useSpinWait",)
    """For steady times with the copies between host and GPU measured."""
    graph_flags: tuple[str, ...] = ("--useCudaGraph",)
    no_graph_flags: tuple[str, ...] = ()
    percentiles: str = "90,95,99"
    int64: bool = True
    """False where int64 tensors become int32: inputs must be given as int32 then."""
    int8_constants: bool = True
    """Whether weights may be stored in int8; otherwise they stay float with a Q/DQ pair of their own."""

    def flags(self, precision: Precision) -> tuple[str, ...]:
        """Build flags for an ONNX file in ``precision``. Raises Unsupported for one that has no engine."""
        match precision:
            case "int8":
                return self.int8_flags
            case "fp16":
                return self.fp16_flags
            case "float32":
                return self.float32_flags
            case _:
                raise Unsupported(
                    f"TensorRT builds no {precision} engines", hint="choose int8, fp16 or float32"
                )


# Weakly typed: int8 where the graph has Q/DQ pairs, and leave to run the other layers in fp16.
_INT8 = ("--int8", "--fp16")

LINES: tuple[Line, ...] = (
    Line(
        name="8.2",
        since=(8, 2),
        before=(8, 5),
        jetpack="4.6",
        max_opset=13,
        skip_inference="--buildOnly",
        int8_flags=_INT8,
        fp16_flags=("--fp16",),
        percentiles="90",
        int64=False,
        int8_constants=False,
    ),
    Line(
        name="8.5",
        since=(8, 5),
        before=(9, 0),
        jetpack="5",
        max_opset=17,
        skip_inference="--buildOnly",
        int8_flags=_INT8,
        fp16_flags=("--fp16",),
        percentiles="90",
        int64=False,
        int8_constants=False,
    ),
    Line(
        name="10.3",
        since=(10, 0),
        before=(10, 16),
        jetpack="6.1 and 6.2",
        max_opset=20,
        skip_inference="--skipInference",
        int8_flags=_INT8,
        # The file holds half precision already: with strong typing the device computes what was checked.
        fp16_flags=("--stronglyTyped",),
    ),
    Line(
        name="10.16",
        since=(10, 16),
        before=(11, 0),
        jetpack="7.2",
        max_opset=24,
        skip_inference="--skipInference",
        int8_flags=_INT8,  # deprecated, but strong typing would keep all layers without Q/DQ in float32
        fp16_flags=("--stronglyTyped",),
    ),
    Line(
        name="11",
        since=(11, 0),
        before=(12, 0),
        jetpack="",
        max_opset=24,
        skip_inference="--skipInference",
        int8_flags=(),  # removed: the types of the file are always kept
        fp16_flags=(),
        timing_flags=("--includeDataTransfers",),  # spin-wait and CUDA graphs became defaults, copies did not
        graph_flags=(),
        no_graph_flags=("--noCudaGraph",),
    ),
)


def line_of(version: str) -> Line:
    """The line that a version such as "10.3", "10.16.1" or "11" belongs to; "" means DEFAULT_VERSION.

    Raises Unsupported for a version that edgekit has no flags for.
    """
    parts = (version or DEFAULT_VERSION).split(".")
    try:
        major, minor = int(parts[0]), int(parts[1]) if len(parts) > 1 else 0
    except ValueError:
        major, minor = -1, -1
    for line in LINES:
        if line.since <= (major, minor) < line.before:
            return line
    raise Unsupported(
        f"edgekit has no trtexec flags for TensorRT {version}",
        hint=f"it knows {', '.join(known.name for known in LINES)} and the versions between them but 9; "
        "set version of the target in the profile",
    )
