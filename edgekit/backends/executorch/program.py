"""The user's module as one normalised torch.export program: what units, quantiser and lowering share.

Batch norms are folded into the layer before them, operators that do nothing in evaluation are gone, and
each operator carries its unit's name in ``node.meta["custom"]``, which torch.export, PT2E and ExecuTorch's
own passes hand on to whatever they make of it.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.backends.executorch.toolchain import quiet, require_executorch
from edgekit.backends.torch_graph import tensors
from edgekit.errors import ConversionError, Unsupported

if TYPE_CHECKING:
    import torch

    from edgekit.types import Array

UNIT = "edgekit_unit"

_NOTHING = ("dropout", "dropout_", "alpha_dropout", "feature_dropout", "detach", "detach_", "contiguous")
"""Operators without effect once training is over; contiguous only when memory is laid out plainly."""


def capture(module: torch.nn.Module, sample: Sequence[Array]) -> torch.export.ExportedProgram:
    """Export ``module`` (eval mode, static shapes) on one sample and normalise its graph.

    Raises Unsupported with torch.export's own reason when it refuses the module.
    """
    import torch

    require_executorch()
    inputs = tensors(sample)
    with quiet(), torch.no_grad():
        try:
            program = torch.export.export(module, inputs, strict=False)
        except Exception as exc:  # torch.export raises whatever the user's forward meets
            line = next((text.strip() for text in str(exc).splitlines() if text.strip()), "")
            raise Unsupported(
                f"torch.export refuses the model: {type(exc).__name__}: {line}"[:400],
                hint="ExecuTorch needs a model that torch.export takes: static control flow, tensor inputs",
            ) from exc
        if any(_mutates(n) for n in program.graph.nodes):
            program = program.run_decompositions({})
        graph = program.module(check_guards=False)
        paths = {n.name: _module_path(n) for n in graph.graph.nodes}
        _normalise(graph)
        _name_units(graph, paths)
        again = torch.export.export(graph, inputs, strict=False)
    return _without_traces(again)


def reexport(graph: Any, sample: Sequence[Array]) -> torch.export.ExportedProgram:
    """A changed graph module as a program again, static shapes of ``sample``."""
    import torch

    inputs = tensors(sample)
    with quiet(), torch.no_grad():
        return _without_traces(torch.export.export(graph, inputs, strict=False))


def save(program: torch.export.ExportedProgram) -> bytes:
    """Bytes of a program, for the store."""
    import torch

    buffer = io.BytesIO()
    with quiet():
        torch.export.save(program, buffer)
    return buffer.getvalue()


def load(path: Path) -> torch.export.ExportedProgram:
    """A program that :func:`save` wrote."""
    import torch

    require_executorch()
    import torch.ao.quantization.fx._decomposed  # registers the quantized_decomposed operators

    with quiet():
        return torch.export.load(str(path))


def unit_nodes(graph: Any) -> list[Any]:
    """Nodes that are units, in execution order. ``graph`` is a torch.fx graph."""
    return [n for n in graph.nodes if n.op == "call_function" and unit_of(n) and not _is_getitem(n)]


def unit_of(node: Any) -> str:
    """Name of the unit that a node belongs to, "" for none."""
    return str((node.meta.get("custom") or {}).get(UNIT, ""))


def first_tensor(value: Any) -> Any:
    """The first tensor of a node's value, None when it has none."""
    found = value if isinstance(value, (list, tuple)) else [value]
    return next((t for t in found if hasattr(t, "dtype") and hasattr(t, "shape")), None)


def op_name(node: Any) -> str:
    """ "conv2d" for aten.conv2d.default, "my::op" for an operator of another library, "" for no operator."""
    if node.op != "call_function":
        return ""
    schema = getattr(node.target, "_schema", None)
    name = schema.name if schema is not None else str(node.target)
    return str(name).removeprefix("aten::")


def _mutates(node: Any) -> bool:
    schema = getattr(node.target, "_schema", None)
    return bool(schema is not None and schema.is_mutable)


def _is_getitem(node: Any) -> bool:
    return getattr(node.target, "__name__", "") == "getitem"


def _module_path(node: Any) -> str:
    """Path of the innermost module that a node comes from: nn_module_stack maps keys to (path, class)."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return str(stack[-1][0]).removeprefix("L['self']").lstrip(".") if stack else ""


def _normalise(graph: Any) -> None:
    """Fold batch norms, drop what does nothing, and bring operators into the form XNNPACK takes."""
    from torchao.quantization.pt2e.utils import _fuse_conv_bn_, _fuse_linear_bn_

    _fuse_conv_bn_(graph)
    _fuse_linear_bn_(graph)
    for node in list(graph.graph.nodes):
        if node.op != "call_function":
            continue
        name = op_name(node)
        if name in _NOTHING and _same_layout(node):
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)
        elif name == "relu6":
            _replace(graph, node, "hardtanh", (node.args[0], 0.0, 6.0))
        elif name in ("mean", "adaptive_avg_pool2d"):
            _keep_dimensions(graph, node)
    from edgekit.backends.executorch.shortcuts import replace_shortcuts

    replace_shortcuts(graph)
    graph.graph.eliminate_dead_code()
    _drop_unused_tensors(graph)
    graph.recompile()


def _same_layout(node: Any) -> bool:
    given, made = node.args[0].meta.get("val"), node.meta.get("val")
    return given is not None and made is not None and given.stride() == made.stride()


def _replace(graph: Any, node: Any, operator: str, arguments: tuple[Any, ...]) -> Any:
    """Put another ATen operator, same result, in a node's place."""
    import torch

    target = getattr(torch.ops.aten, operator)
    with graph.graph.inserting_before(node):
        made = graph.graph.call_function(getattr(target, target.overloads()[0]), arguments)
    made.meta = dict(node.meta)
    node.replace_all_uses_with(made)
    graph.graph.erase_node(node)
    return made


def _keep_dimensions(graph: Any, node: Any) -> None:
    """Global average pooling as a mean that keeps its dimensions, with a reshape behind it.

    XNNPACK takes the mean over the image axes of a 4-D tensor in that form only.
    """
    import torch

    given, made = node.args[0].meta["val"], node.meta["val"]
    if given.dim() != 4 or node.kwargs.get("dtype") is not None:
        return
    if op_name(node) == "mean":
        axes = node.args[1] if len(node.args) > 1 else None
        if not axes or sorted(a % 4 for a in axes) != [2, 3] or given.dtype != torch.float32:
            return
        if made.dim() == 4:
            return
    elif tuple(made.shape[2:]) != (1, 1):
        return
    with graph.graph.inserting_before(node):
        mean = graph.graph.call_function(torch.ops.aten.mean.dim, (node.args[0], [2, 3], True))
        mean.meta = dict(node.meta)
        mean.meta["val"] = given.new_empty((*given.shape[:2], 1, 1))
        last = mean
        if made.dim() != 4:
            last = graph.graph.call_function(torch.ops.aten.reshape.default, (mean, list(made.shape)))
            last.meta = dict(node.meta)
    mean.name = node.name + "_mean"
    node.replace_all_uses_with(last)
    graph.graph.erase_node(node)


def _drop_unused_tensors(graph: Any) -> None:
    """Delete parameters and buffers that folding has left behind."""
    used = {n.target for n in graph.graph.nodes if n.op == "get_attr"}
    for name, _ in [*graph.named_parameters(), *graph.named_buffers()]:
        if name not in used:
            owner, _, leaf = name.rpartition(".")
            delattr(graph.get_submodule(owner), leaf)


def _name_units(graph: Any, paths: dict[str, str]) -> None:
    """Name each operator "module.path/node", "node" alone where torch recorded no module."""
    for node in graph.graph.nodes:
        if node.op != "call_function" or _is_getitem(node):
            continue
        if first_tensor(node.meta.get("val")) is None:
            continue
        path = paths.get(node.name) or _module_path(node)
        node.meta["custom"] = {UNIT: f"{path}/{node.name}" if path else node.name}


def _without_traces(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Forget source lines: they hold paths of this machine, and passes copy them at every step."""
    for node in program.graph.nodes:
        for key in ("stack_trace", "from_node", "nn_module_stack", "source_fn_stack", "torch_fn"):
            node.meta.pop(key, None)
    if not any(n.op == "call_function" for n in program.graph.nodes):
        raise ConversionError(
            "the model computes nothing: its graph has no operators", hint="check what forward returns"
        )
    return program
