"""The operators of a TorchScript file: reading its graph, running it one by one, grouping them into units."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgekit.errors import Unsupported

if TYPE_CHECKING:
    import torch


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


VIEWS = words(
    """
    view reshape flatten unflatten permute transpose t squeeze unsqueeze expand expand_as slice
    select narrow chunk split split_with_sizes unbind contiguous clone detach alias size to
    type_as numpy_T _unsafe_view dropout feature_dropout alpha_dropout identity view_as
    reshape_as movedim swapaxes mT lift_fresh unsafe_chunk unsafe_split tensor_split clone_
    detach_ Int dequantize quantize_per_tensor quantize_per_tensor_dynamic resolve_conj
    resolve_neg
    """
)
"""Operators that compute nothing: they are no units. Conversions between precisions are among them."""

_SHAPES = {"aten::size", "prim::dtype", "prim::device", "aten::dim", "aten::numel", "aten::is_floating_point"}
_STRUCTURE: Mapping[str, Callable[..., Any]] = {
    "prim::ListConstruct": lambda *values: list(values),
    "prim::TupleConstruct": lambda *values: tuple(values),
    "prim::NumToTensor": lambda value: _tensor(value),
    "aten::Int": int,
    "aten::Float": float,
    "aten::Bool": bool,
    "aten::ScalarImplicit": lambda value: value.item() if hasattr(value, "item") else value,
    "aten::IntImplicit": int,
    "aten::FloatImplicit": float,
    "aten::size": lambda value, *dim: value.shape[dim[0]] if dim else list(value.shape),
    "aten::dim": lambda value: value.dim(),
    "prim::dtype": lambda value: value.dtype,
    "prim::device": lambda value: value.device,
    "aten::len": len,
    "aten::__getitem__": operator.getitem,
}


@dataclass(frozen=True, eq=False)
class Op:
    """One node of the graph.

    ``inputs`` and ``outputs`` are names of values. ``path`` is the attribute that holds its weights
    ("features.0.0"), "" where it has none; ``where`` the module that made it and ``line`` the user's line
    ("net.py:41"), known of a trace and lost in a file.
    """

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    function: Callable[..., Any]
    path: str
    line: str
    where: str = ""
    unpacks: bool = False
    random: bool = False

    @property
    def name(self) -> str:
        """The operator without its namespace; "relu_" as "relu"."""
        plain = self.kind.rpartition("::")[2]
        return plain.removesuffix("_") if not plain.startswith("_") and len(plain) > 1 else plain

    @property
    def in_place(self) -> bool:
        """Whether it writes its result into its first argument."""
        return self.kind.startswith("aten::") and self.kind.endswith("_") and not self.kind.endswith("__")


@dataclass(frozen=True, eq=False)
class FileGraph:
    """Operators in execution order; ``constants`` are values that depend on nothing."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    ops: tuple[Op, ...]
    constants: Mapping[str, Any] = field(default_factory=dict)

    def run(
        self,
        inputs: Sequence[torch.Tensor],
        seen: Callable[[Op, list[Any], Any], None] | None = None,
    ) -> list[torch.Tensor]:
        """Run operator by operator; ``seen`` gets each with its arguments and what it returned."""
        import torch

        values: dict[str, Any] = dict(self.constants)
        values.update(zip(self.inputs, inputs, strict=True))
        with torch.inference_mode():
            for op in self.ops:
                arguments = [values[name] for name in op.inputs]
                result = op.function(*arguments)
                if op.unpacks or len(op.outputs) > 1:
                    values.update(zip(op.outputs, result, strict=True))
                elif op.outputs:
                    values[op.outputs[0]] = result
                if seen is not None:
                    seen(op, arguments, result)
        return flatten([values[name] for name in self.outputs])

    def specialised(self, inputs: Sequence[torch.Tensor]) -> FileGraph:
        """The graph for inputs of these shapes: what depends on shapes alone is computed now."""
        constants = dict(self.constants)
        data = set(self.inputs)
        ops: list[Op] = []

        def see(op: Op, arguments: list[Any], result: Any) -> None:
            if op.kind not in _SHAPES and (data & set(op.inputs) or op.random or op.in_place):
                ops.append(op)
                data.update(op.outputs)
                return
            values = result if op.unpacks or len(op.outputs) > 1 else [result]
            constants.update(zip(op.outputs, values, strict=True))

        self.run(inputs, see)
        return FileGraph(self.inputs, self.outputs, tuple(_needed(ops, self.outputs)), constants)

    def consumers(self) -> dict[str, list[Op]]:
        """By value: operators that take it, itself or in a list."""
        found: dict[str, list[Op]] = {}
        for op in self.ops:
            for name in op.inputs:
                found.setdefault(name, []).append(op)
        return found


def flatten(value: Any) -> list[torch.Tensor]:
    """Tensors of nested lists, tuples and dicts, in order."""
    if isinstance(value, Mapping):
        return [tensor for part in value.values() for tensor in flatten(part)]
    if isinstance(value, (list, tuple)):
        return [tensor for part in value for tensor in flatten(part)]
    return [value]


def read(script: Any) -> FileGraph:
    """The graph of a loaded or traced module's forward. Unsupported for control flow in it."""
    graph = script.inlined_graph
    inputs = list(graph.inputs())
    reader = _Reader(script, inputs[0].debugName() if _takes_self(inputs) else "")
    names = [value.debugName() for value in inputs if value.debugName() != reader.self_name]
    for node in graph.nodes():
        reader.take(node)
    outputs = tuple(value.debugName() for value in graph.outputs())
    return FileGraph(tuple(names), outputs, tuple(_needed(reader.ops, outputs)), reader.constants)


def _takes_self(inputs: Sequence[Any]) -> bool:
    return bool(inputs) and str(inputs[0].type().kind()) == "ClassType"


def _needed(ops: Sequence[Op], outputs: Sequence[str]) -> list[Op]:
    """Operators that the outputs depend on."""
    wanted = set(outputs)
    kept = []
    for op in reversed(ops):
        if op.in_place or wanted & set(op.outputs):
            kept.append(op)
            wanted |= set(op.inputs)
    return kept[::-1]


class _Reader:
    """Turns nodes into operators; what depends on nothing is computed at once."""

    def __init__(self, script: Any, self_name: str) -> None:
        self.self_name = self_name
        self.constants: dict[str, Any] = {}
        self.ops: list[Op] = []
        self._objects: dict[str, Any] = {self_name: script}
        self._paths: dict[str, str] = {self_name: ""}

    def take(self, node: Any) -> None:
        kind = node.kind()
        outputs = tuple(value.debugName() for value in node.outputs())
        inputs = tuple(value.debugName() for value in node.inputs())
        if kind == "prim::Constant":
            self.constants[outputs[0]] = node.output().toIValue() if node.hasAttribute("value") else None
        elif kind == "prim::GetAttr":
            self._attribute(node.s("name"), inputs[0], outputs[0])
        elif kind in ("prim::If", "prim::Loop"):
            raise Unsupported(
                f"control flow in TorchScript ({kind}{_at(node)}) cannot be taken apart",
                hint="give the torch module itself, which is traced with fixed shapes, or trace it yourself",
            )
        elif kind not in ("aten::warn", "prim::Print", "prim::RaiseException"):
            self._operator(node, kind, inputs, outputs)

    def _attribute(self, name: str, owner: str, output: str) -> None:
        value = getattr(self._objects[owner], name)
        before = self._paths[owner]
        self._objects[output] = value
        self._paths[output] = f"{before}.{name}" if before else name
        self.constants[output] = value

    def _operator(self, node: Any, kind: str, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> None:
        function, unpacks = _function(node, kind, len(outputs))
        # Weights lie in "path.weight", packed ones in "path._packed_params".
        path = next((self._paths[i].rpartition(".")[0] for i in inputs if self._paths.get(i)), "")
        op = Op(kind, inputs, outputs, function, path, _line(node), _scope(node), unpacks, _is_random(node))
        if all(i in self.constants for i in inputs) and not op.in_place and not op.random:
            result = function(*(self.constants[i] for i in inputs))
            values = result if unpacks or len(outputs) > 1 else [result]
            self.constants.update(zip(outputs, values, strict=True))
            if any(self._paths.get(i) for i in inputs):
                weights = next(self._paths[i] for i in inputs if self._paths.get(i))
                self._paths.update(dict.fromkeys(outputs, weights))
        else:
            self.ops.append(op)


def _function(node: Any, kind: str, outputs: int) -> tuple[Callable[..., Any], bool]:
    """What computes a node, and whether it gives a sequence to be spread over the node's outputs."""
    if kind in ("prim::ListUnpack", "prim::TupleUnpack"):
        return (lambda values: values), True
    if kind == "prim::DictConstruct":
        return (lambda *values: dict(zip(values[::2], values[1::2], strict=True))), False
    if kind in _STRUCTURE:
        return _STRUCTURE[kind], False
    return aten_function(node, kind), outputs > 1


def aten_function(node: Any, kind: str) -> Callable[..., Any]:
    """The operator itself, to be called with all its arguments by position."""
    import torch

    namespace, _, name = kind.partition("::")
    schema = node.schema()
    signature = schema.partition("(")[0]
    overload = signature.partition(".")[2] or "default"
    try:
        found = getattr(getattr(getattr(torch.ops, namespace), name), overload)
    except AttributeError as exc:
        raise Unsupported(f"this version of torch has no operator {kind}{_at(node)}") from exc
    words = [a.name for a in found._schema.arguments if a.kwarg_only]
    if not words:
        call: Callable[..., Any] = found
        return call
    return Bound(found, len(found._schema.arguments) - len(words), tuple(words))


@dataclass(frozen=True)
class Bound:
    """An operator with arguments that are passed by keyword only, called by position."""

    function: Any
    positional: int
    words: tuple[str, ...]

    def __call__(self, *arguments: Any) -> Any:
        """Call it."""
        named = dict(zip(self.words, arguments[self.positional :], strict=False))
        return self.function(*arguments[: self.positional], **named)


def _tensor(value: Any) -> torch.Tensor:
    import torch

    return torch.as_tensor(value)


def _is_random(node: Any) -> bool:
    import torch

    schema = node.schema()
    name, _, overload = schema.partition("(")[0].partition(".")
    namespace, _, op = name.partition("::")
    found = getattr(getattr(torch.ops, namespace, None), op, None) if op else None
    function = getattr(found, overload or "default", None)
    return function is not None and torch.Tag.nondeterministic_seeded in getattr(function, "tags", ())


def _line(node: Any) -> str:
    """ "net.py:41", the innermost line outside torch that a trace recorded; "" for a file, which has none."""
    for text in node.sourceRange().splitlines():
        head, _, rest = text.strip().partition(".py(")
        if rest and "/torch/" not in head:
            return f"{head.rpartition('/')[2]}.py:{rest.partition(')')[0]}"
    return ""


def _scope(node: Any) -> str:
    """Path of the module that made a node: traces note "__module.layer1/__module.layer1.conv1"."""
    return str(node.scopeName().rpartition("/")[2].removeprefix("__module").lstrip("."))


def _at(node: Any) -> str:
    line = _line(node)
    return f" at {line}" if line else ""
