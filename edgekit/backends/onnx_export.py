"""torch to ONNX, for every backend that starts from an ONNX file."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.errors import ConversionError

if TYPE_CHECKING:
    import torch

OPSET = 20
"""The first with Gelu as one operator: before, it is an Erf, for which TFLite has no kernel."""

_RENAMED_AT_20 = frozenset({"GridSample"})
_BEFORE_20 = 18
"""Operators whose attributes opset 20 renamed; onnx2tf knows the old names only."""

_TORCHSCRIPT_OPSET = 17


@dataclass(frozen=True)
class OnnxFile:
    """An exported file, its input and output names in order, and how it was made."""

    path: Path
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    exporter: str
    notes: tuple[str, ...] = ()


def export_onnx(
    module: torch.nn.Module, example_inputs: tuple[torch.Tensor, ...], path: Path, *, max_opset: int = OPSET
) -> OnnxFile:
    """Export, simplify and check. Tries the torch.export based exporter, then the TorchScript one.

    The batch is that of ``example_inputs``; shapes are static; the opset is at most ``max_opset``. Raises
    ConversionError with the reasons of both exporters when neither takes the model.
    """
    import onnx

    problems: list[str] = []
    for exporter, dynamo in (("torch.export", True), ("torchscript", False)):
        try:
            with _quiet():
                proto = _export(module, example_inputs, max_opset, dynamo=dynamo, scratch=path.parent)
            proto = simplify(_lowered(proto, max_opset))
        except Exception as exc:  # the exporters raise whatever they meet
            problems.append(f"{exporter}: {_first_line(exc)}")
            continue
        onnx.save(proto, str(path))
        return describe(proto, path, exporter, tuple(problems))
    raise ConversionError(
        "torch cannot export the model to ONNX: " + "; ".join(problems),
        hint="the first named operation has to be written with standard torch operations and static shapes",
    )


def import_onnx(
    source: Path, shapes: tuple[tuple[int, ...], ...], path: Path, *, max_opset: int | None = None
) -> OnnxFile:
    """A user's .onnx file with its input shapes fixed, simplified and checked.

    With ``max_opset`` a newer file is converted down to it. Raises ConversionError.
    """
    import onnx

    proto = onnx.load(str(source))
    initialised = {i.name for i in proto.graph.initializer}
    inputs = [i for i in proto.graph.input if i.name not in initialised]
    try:
        proto = simplify(proto, {i.name: list(s) for i, s in zip(inputs, shapes, strict=True)})
    except Exception as exc:
        raise ConversionError(f"{source.name} is not a valid ONNX model: {_first_line(exc)}") from exc
    if max_opset is not None:
        try:
            proto = simplify(_lowered(proto, max_opset))
        except Exception as exc:
            raise ConversionError(
                f"{source.name} cannot be converted down to opset {max_opset}, the newest that the target "
                f"takes: {_first_line(exc)}",
                hint=f"export it with opset {max_opset}",
            ) from exc
    onnx.save(proto, str(path))
    return describe(proto, path, "onnx file", ())


def simplify(proto: Any, shapes: dict[str, list[int]] | None = None) -> Any:
    """onnxsim, the ONNX checker, and removal of everything that depends on where the export ran."""
    import onnx
    import onnxsim

    simplified, same = onnxsim.simplify(proto, overwrite_input_shapes=shapes)
    if not same:
        raise ConversionError("onnxsim changed what the model computes")
    onnx.checker.check_model(simplified)
    for node in simplified.graph.node:  # stack traces with paths of this machine
        del node.metadata_props[:]
        node.doc_string = ""
    del simplified.graph.metadata_props[:], simplified.metadata_props[:], simplified.graph.value_info[:]
    for value in (*simplified.graph.input, *simplified.graph.output):
        del value.metadata_props[:]
    return onnx.shape_inference.infer_shapes(simplified)


def describe(proto: Any, path: Path, exporter: str, notes: tuple[str, ...]) -> OnnxFile:
    initialised = {i.name for i in proto.graph.initializer}
    inputs = tuple(i.name for i in proto.graph.input if i.name not in initialised)
    return OnnxFile(path, inputs, tuple(o.name for o in proto.graph.output), exporter, notes)


def tool_versions(*names: str) -> dict[str, str]:
    """Installed versions of the named distributions, for cache keys and reports."""
    from importlib.metadata import version

    return {name: version(name) for name in names}


def _lowered(proto: Any, max_opset: int) -> Any:
    """The model in ``max_opset`` if its own is newer; ONNX's converter raises where it has no older form."""
    from onnx import version_converter

    own = next((i.version for i in proto.opset_import if i.domain in ("", "ai.onnx")), 0)
    return version_converter.convert_version(proto, max_opset) if own > max_opset else proto


def _export(
    module: torch.nn.Module,
    inputs: tuple[torch.Tensor, ...],
    max_opset: int,
    *,
    dynamo: bool,
    scratch: Path,
) -> Any:
    import onnx
    import torch

    with torch.no_grad():
        if dynamo:
            proto = _by_torch_export(module, inputs, OPSET if max_opset >= OPSET else _BEFORE_20)
            if any(node.op_type in _RENAMED_AT_20 for node in proto.graph.node):
                proto = _by_torch_export(module, inputs, _BEFORE_20)
            return proto
        raw = scratch / "torchscript.onnx"
        torch.onnx.export(
            module, inputs, str(raw), dynamo=False, opset_version=min(_TORCHSCRIPT_OPSET, max_opset)
        )
        return onnx.load(str(raw))


def _by_torch_export(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], opset: int) -> Any:
    import torch

    program = torch.onnx.export(module, inputs, dynamo=True, opset_version=opset, verbose=False)
    if program is None:
        raise ConversionError("the exporter returned nothing")
    return program.model_proto


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Exporters warn about packages and deprecations that the user cannot act on, and print the whole graph
    before they raise: torch.export on standard error, the TorchScript exporter from C++."""
    import torch

    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    switch = torch._C._jit_set_onnx_log_enabled
    try:
        # setup_onnx_logging of torch 2.13 turns that log on whatever "verbose" says: it asks a function for
        # its truth instead of calling it.
        torch._C._jit_set_onnx_log_enabled = lambda enabled: None
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        torch._C._jit_set_onnx_log_enabled = switch
        logger.setLevel(level)


def _first_line(exc: BaseException) -> str:
    text = next((line.strip() for line in str(exc).splitlines() if line.strip()), "")
    cause = exc.__cause__
    if cause is not None and str(cause):
        text = str(cause).splitlines()[0]
    return f"{type(exc).__name__}: {text}"[:400]
