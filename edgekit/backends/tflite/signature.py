"""What a file takes and returns: names in the source's order, shapes, and layouts found by values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.backends.tflite import convert, flatbuffer
from edgekit.backends.tflite.session import TFLiteSession, make_interpreter
from edgekit.errors import ConversionError, EdgekitError, StepFailed, Unsupported, UserError
from edgekit.store import digest_file
from edgekit.types import Artifact, ModelSpec, TensorSpec

if TYPE_CHECKING:
    from edgekit.types import Array

_ANOTHER_FILE = "copy or build the file again"

_CHANNELS = frozenset(
    {
        "Conv",
        "ConvTranspose",
        "MaxPool",
        "AveragePool",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "BatchNormalization",
        "InstanceNormalization",
        "GroupNormalization",
        "Resize",
    }
)
"""ONNX operators whose input has its channels behind the batch."""

_SAME_AXES = frozenset(
    {
        "Add",
        "Sub",
        "Mul",
        "Div",
        "Pow",
        "Sqrt",
        "Abs",
        "Neg",
        "Exp",
        "Log",
        "Relu",
        "LeakyRelu",
        "Sigmoid",
        "Tanh",
        "Clip",
        "Cast",
        "Identity",
        "Pad",
    }
)
"""ONNX operators whose output has the axes of their input."""


def describe(
    path: Path, sha: str, names: Sequence[str], spec: ModelSpec, kept: Sequence[bool], producer: str
) -> Artifact:
    """Artifact of a converted file. Layouts of its outputs are not known yet: :func:`with_output_layouts`.

    ``names`` are the inputs' names in its signature, in the source's order; ``kept`` says which of them
    must have the source's axes. Raises ConversionError for a file with another signature.
    """
    graph = flatbuffer.read_graph(path)
    if not graph.ops:
        raise ConversionError(
            "the model computes nothing: its file has no operators", hint="check what forward returns"
        )
    interpreter = make_interpreter(path)
    runner = interpreter.get_signature_runner(next(iter(interpreter.get_signature_list())))
    ins, outs = runner.get_input_details(), runner.get_output_details()
    if sorted(ins) != sorted(names):
        raise ConversionError(f"the converted file has the inputs {sorted(ins)} instead of {sorted(names)}")
    inputs = []
    for source, name, keep in zip(spec.inputs, names, kept, strict=True):
        stored = tuple(int(d) for d in ins[name]["shape"])
        layout = convert.input_layout(source.shape, stored, kept=keep)
        dtype = flatbuffer.tensor_specs(graph, (ins[name]["index"],), (None,))[0].dtype
        inputs.append(TensorSpec(name=str(ins[name]["name"]), shape=stored, dtype=dtype, layout=layout))
    out_names = sorted(outs, key=_number)
    if len(out_names) != len(spec.outputs):
        raise ConversionError(
            f"the converted file has {len(out_names)} outputs, the model {len(spec.outputs)}"
        )
    out_index = tuple(outs[n]["index"] for n in out_names)
    return Artifact(
        sha256=sha,
        format="tflite",
        precision="float32",
        path=path,
        bytes=path.stat().st_size,
        inputs=tuple(inputs),
        outputs=flatbuffer.tensor_specs(graph, out_index, (None,) * len(out_index)),
        producer=producer,
        meta={"input_names": list(names), "output_names": out_names},
    )


def with_output_layouts(artifact: Artifact, expected: Sequence[Array], sample: Sequence[Array]) -> Artifact:
    """The layout of each output, found by its values on a real sample whose source outputs are known."""
    got = TFLiteSession(artifact).run(sample)
    outputs = tuple(
        replace(spec, layout=convert.output_layout(e, g))
        for spec, e, g in zip(artifact.outputs, expected, got, strict=True)
    )
    return replace(artifact, outputs=outputs)


def sequence_inputs(onnx_path: Path) -> tuple[str, ...]:
    """Names of rank 3 inputs of an ONNX file that no operator with a channel axis reads.

    onnx2tf takes every input of rank 3 for (N, C, W) and moves C to the end; in (N, time, features)
    that would only cost transposes.
    """
    import onnx

    graph = onnx.load(str(onnx_path), load_external_data=False).graph
    constants = {i.name for i in graph.initializer}
    found = []
    for value in graph.input:
        rank = len(value.type.tensor_type.shape.dim)
        if rank == 3 and value.name not in constants and not _has_channels(graph, value.name):
            found.append(value.name)
    return tuple(found)


def _has_channels(graph: Any, tensor: str) -> bool:
    """Whether ``tensor``, through operators that keep its axes, reaches one with a channel axis."""
    reached, queue = {tensor}, [tensor]
    while queue:
        name = queue.pop()
        for node in graph.node:
            if name not in node.input:
                continue
            if node.op_type in _CHANNELS and node.input[0] == name:
                return True
            if node.op_type in _SAME_AXES:
                new = [o for o in node.output if o not in reached]
                reached.update(new)
                queue += new
    return False


def open_file(path: Path) -> Artifact:
    """An artifact for a .tflite file of any origin: for `inspect`, `verify` and `bench`.

    Layouts are unknown, so its session takes and returns arrays as the file stores them. Raises UserError
    for a file that is not TFLite or damaged, Unsupported for one without a signature.
    """
    try:
        return _open(path)
    except (EdgekitError, OSError) as exc:
        if isinstance(exc, StepFailed):
            raise UserError(str(exc), hint=_ANOTHER_FILE) from exc
        raise
    except Exception as exc:  # a damaged file may break its reader anywhere
        raise UserError(f"{path.name} is damaged: {exc}", hint=_ANOTHER_FILE) from exc


def _open(path: Path) -> Artifact:
    graph = flatbuffer.read_graph(path)
    flatbuffer.units(graph)
    interpreter = make_interpreter(path)
    signatures = interpreter.get_signature_list()
    if not signatures:
        raise Unsupported(f"{path.name} has no signature", hint="convert it again with a signature")
    runner = interpreter.get_signature_runner(next(iter(signatures)))
    ins, outs = runner.get_input_details(), runner.get_output_details()
    share, _ = flatbuffer.int8_share(graph)
    none: tuple[str | None, ...] = (None,)
    return Artifact(
        sha256=digest_file(path),
        format="tflite",
        precision="int8" if share > 0.5 else "float32",
        path=path,
        bytes=path.stat().st_size,
        inputs=flatbuffer.tensor_specs(graph, tuple(d["index"] for d in ins.values()), none * len(ins)),
        outputs=flatbuffer.tensor_specs(graph, tuple(d["index"] for d in outs.values()), none * len(outs)),
        meta={"input_names": list(ins), "output_names": list(outs)},
    )


def _number(name: str) -> int:
    """Signatures name outputs "output_0", "output_1", ..., and list them in any order."""
    digits = name.rsplit("_", 1)[-1]
    return int(digits) if digits.isdigit() else 0
