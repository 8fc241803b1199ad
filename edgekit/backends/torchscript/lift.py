"""From the operators of a TorchScript graph to a module that torch's FX quantiser knows how to quantise.

FX quantises modules and Python functions, which a trace no longer has: here convolutions, linear layers and
activations become modules again, with batch norms and paddings folded into them. FX's own symbolic tracing
is not used on the user's code, so that control flow on shapes does not matter.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from edgekit.backends.torchscript.filegraph import Bound, FileGraph, Op, flatten, words
from edgekit.backends.torchscript.units import Group, groups, sole_consumer
from edgekit.errors import Unsupported

if TYPE_CHECKING:
    import torch
    from torch import fx

Mode = Literal["float", "int8", "dynamic"]

_SAME = words(
    """
    contiguous clone detach alias dropout feature_dropout alpha_dropout lift_fresh
    """
)
_RESHAPES = words(
    """
    view reshape _unsafe_view flatten unflatten squeeze unsqueeze view_as reshape_as
    """
)
_SPLITS = words(
    """
    chunk split split_with_sizes unsafe_chunk unsafe_split tensor_split
    """
)


@dataclass(frozen=True)
class Lifted:
    """A module of the graph; ``values`` tells for nodes of its FX graph which value of the file each makes.

    ``limits`` are upper limits of values whose ReLU6 is written as ReLU: their range must end there.
    """

    module: Any
    values: Mapping[str, str]
    limits: Mapping[str, float]
    quantized: frozenset[str]
    floats: tuple[tuple[Any, int], ...]
    """Calls that stay in float: the function, and which of its calls."""
    kept: tuple[str, ...]
    """Names of the nodes of these calls."""
    names: tuple[str, ...]
    """Units in order, without paddings that became a convolution's own."""


def lift(
    graph: FileGraph,
    samples: Sequence[torch.Tensor],
    *,
    names: Sequence[str] = (),
    mode: Mode = "float",
    keep: frozenset[str] = frozenset(),
) -> Lifted:
    """The module. ``samples`` are inputs of the shapes that ``graph`` is specialised for; units in ``keep``
    are written so that no quantiser touches them. Unsupported for writes into a part of a tensor.
    """
    return _Lifter(graph, groups(graph, names), mode, keep).build(samples)


class _Lifter:
    def __init__(self, graph: FileGraph, found: Sequence[Group], mode: Mode, keep: frozenset[str]) -> None:
        import torch
        from torch import fx

        self._torch: Any = torch
        self.graph = graph
        self.consumers = graph.consumers()
        self.makers = {name: op for op in graph.ops for name in op.outputs}
        self.mode = mode
        self.keep = keep
        self.heads = {group.ops[0]: group for group in found}
        self.members = {op: group for group in found for op in group.ops}
        self.root = torch.nn.Module()
        self.fx: fx.Graph = fx.Graph()
        self.env: dict[str, Any] = {}
        self.examples: dict[str, Any] = dict(graph.constants)
        self.values: dict[str, str] = {}
        self.limits: dict[str, float] = {}
        self.quantized: set[str] = set()
        self.kept: list[Any] = []
        self.paddings: dict[str, list[int]] = {}
        self._parameters: dict[int, str] = {}

    def build(self, samples: Sequence[torch.Tensor]) -> Lifted:
        from torch import fx

        for i, (name, sample) in enumerate(zip(self.graph.inputs, samples, strict=True)):
            self.env[name] = self.fx.placeholder(f"input_{i}")
            self.values[self.env[name].name] = name
            self.examples[name] = sample

        def see(op: Op, arguments: list[Any], result: Any) -> None:
            outputs = result if op.unpacks or len(op.outputs) > 1 else [result]
            self.examples.update(zip(op.outputs, outputs, strict=True))

        self.graph.run(samples, see)
        done: set[Op] = set()
        for op in self.graph.ops:
            if op not in done:
                done.update(self._emit(op))
        results = flatten([self._argument(name) for name in self.graph.outputs])
        self.fx.output(results[0] if len(results) == 1 else tuple(results))
        self.fx.lint()
        module = fx.GraphModule(self.root, self.fx, class_name="Network").eval()
        kept = [g.name for op, g in self.heads.items() if op.outputs[0] not in self.paddings]
        return Lifted(
            module=module,
            values=self.values,
            limits=self.limits,
            quantized=frozenset(self.quantized),
            floats=self._float_calls(),
            kept=tuple(node.name for node in self.kept),
            names=tuple(kept),
        )

    def _float_calls(self) -> tuple[tuple[Any, int], ...]:
        calls: dict[Any, int] = {}
        found = []
        for node in self.fx.nodes:
            if node.op == "call_function":
                if node in self.kept:
                    found.append((node.target, calls.get(node.target, 0)))
                calls[node.target] = calls.get(node.target, 0) + 1
        return tuple(found)

    # -- values

    def _argument(self, name: str) -> Any:
        """What stands for a value in the FX graph: a node, a number, or a list of them."""
        if name in self.env:
            return self.env[name]
        return self._constant(self.graph.constants[name], name)

    def _constant(self, value: Any, name: str) -> Any:
        if isinstance(value, self._torch.Tensor):
            return self._parameter(value)
        if isinstance(value, (list, tuple)):
            return type(value)(self._constant(part, name) for part in value)
        return value

    def _parameter(self, value: torch.Tensor) -> Any:
        target = self._parameters.get(id(value))
        if target is None:
            target = f"constant_{len(self._parameters)}"
            self._parameters[id(value)] = target
            self.root.register_buffer(target, value.detach().clone())
        return self.fx.get_attr(target)

    def _set(self, op: Op, node: Any, output: int = 0) -> None:
        self.env[op.outputs[output]] = node
        if hasattr(node, "name"):
            self.values[node.name] = op.outputs[output]

    def constant(self, name: str) -> Any:
        """The value itself where it depends on nothing, else None."""
        return self.graph.constants.get(name)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        return tuple(self.examples[name].shape)

    def dtype(self, name: str) -> str:
        """Data type of a tensor, "" of anything else."""
        return str(getattr(self.examples.get(name), "dtype", ""))

    # -- operators

    def _emit(self, op: Op) -> Sequence[Op]:
        """Write an operator and those that are written with it; returns them."""
        if self._structure(op) or self._view(op):
            return (op,)
        if op.name in ("pad", "constant_pad_nd") and self._folds_into_convolution(op):
            return (op,)
        group = self.heads.get(op)
        if group is not None:
            writer = self._writer(group)
            if writer is not None:
                writer(group)
                return group.ops
        self._plain(op)
        return (op,)

    def _writer(self, group: Group) -> Callable[[Group], None] | None:
        from edgekit.backends.torchscript import layers

        if self.mode == "float":
            return layers.float_writer(self, group)
        if group.name in self.keep:
            return None
        return (
            layers.dynamic_writer(self, group) if self.mode == "dynamic" else layers.int8_writer(self, group)
        )

    def _structure(self, op: Op) -> bool:
        """Lists, tuples and their parts: they are Python's own."""
        kind = op.kind
        if kind in ("prim::ListConstruct", "prim::TupleConstruct"):
            parts = [self._argument(name) for name in op.inputs]
            self.env[op.outputs[0]] = parts if kind == "prim::ListConstruct" else tuple(parts)
            return True
        if kind == "prim::DictConstruct":
            self.env[op.outputs[0]] = [self._argument(name) for name in op.inputs[1::2]]
            return True
        if kind in ("prim::ListUnpack", "prim::TupleUnpack"):
            source = self._argument(op.inputs[0])
            for i in range(len(op.outputs)):
                self._set(op, self._part(source, i), i)
            return True
        if kind == "aten::__getitem__":
            source, place = (self._argument(name) for name in op.inputs)
            self._set(op, self._part(source, place))
            return True
        return False

    def _part(self, source: Any, place: int) -> Any:
        if isinstance(source, (list, tuple)):
            return source[place]
        return self.fx.call_function(operator.getitem, (source, place))

    def _view(self, op: Op) -> bool:
        """Renaming and cutting, with shapes as they are."""
        aten = self._torch.ops.aten
        if not op.inputs or op.inputs[0] not in self.env or op.in_place:
            return False
        source = self.env[op.inputs[0]]
        same = op.name in _SAME or (op.name in ("to", "type_as") and self._keeps_type(op))
        if same:
            self.env[op.outputs[0]] = source
            return True
        if op.name in _RESHAPES:
            shape = list(self.shape(op.outputs[0]))
            self._set(op, self.fx.call_function(aten.reshape.default, (source, shape)))
            return True
        if op.name in _SPLITS:
            self._split(op, source)
            return True
        if op.name == "unbind":
            dim = int(self.constant(op.inputs[1]) or 0)
            count = len(self.examples[op.outputs[0]])
            parts = [self.fx.call_function(aten.select.int, (source, dim, i)) for i in range(count)]
            self.env[op.outputs[0]] = parts
            return True
        return False

    def _keeps_type(self, op: Op) -> bool:
        return self.dtype(op.inputs[0]) == self.dtype(op.outputs[0])

    def _split(self, op: Op, source: Any) -> None:
        """Cuts at fixed places: one slice for each part."""
        parts = self.examples[op.outputs[0]]
        whole = self.shape(op.inputs[0])
        last = self.constant(op.inputs[-1])
        dim = int(last) % len(whole) if isinstance(last, int) else 0
        start, nodes = 0, []
        for part in parts:
            end = start + int(part.shape[dim])
            nodes.append(
                self.fx.call_function(self._torch.ops.aten.slice.Tensor, (source, dim, start, end, 1))
            )
            start = end
        self.env[op.outputs[0]] = nodes

    def _folds_into_convolution(self, op: Op) -> bool:
        """Whether zeros around an image can be the padding of the convolution behind; it is noted then."""
        user = sole_consumer(op.outputs[0], self.graph, self.consumers)
        amounts = self.constant(op.inputs[1])
        mode = self.constant(op.inputs[2]) if op.name == "pad" else "constant"
        value = self.constant(op.inputs[3] if op.name == "pad" else op.inputs[2])
        if user is None or user.name not in ("_convolution", "conv1d", "conv2d") or not amounts:
            return False
        dims = len(self.shape(op.inputs[0])) - 2
        per_dim = [tuple(amounts[2 * i : 2 * i + 2]) for i in range(len(amounts) // 2)][::-1]
        if mode != "constant" or value not in (None, 0, 0.0) or len(per_dim) != dims:
            return False
        if any(a != b or a < 0 for a, b in per_dim) or self.is_transposed(user):
            return False
        if user.inputs[0] != op.outputs[0] or isinstance(self.convolution_padding(user), str):
            return False
        self.paddings[op.outputs[0]] = [a for a, _ in per_dim]
        self.env[op.outputs[0]] = self._argument(op.inputs[0])
        return True

    def is_transposed(self, op: Op) -> bool:
        """Whether a convolution is a transposed one."""
        if op.name == "_convolution":
            return bool(self.constant(op.inputs[6]))
        return op.name.startswith("conv_transpose")

    def convolution_padding(self, op: Op) -> Any:
        """Padding argument of a convolution: a list, or "same" and "valid"."""
        return self.constant(op.inputs[4])

    def _plain(self, op: Op) -> Any:
        """The operator itself, in float. In-place ones as their functional form."""
        function = op.function.function if isinstance(op.function, Bound) else op.function
        if op.in_place:
            function = self._functional(op, function)
        arguments = [self._argument(name) for name in op.inputs]
        schema = getattr(function, "_schema", None)
        words = [a.name for a in schema.arguments if a.kwarg_only] if schema is not None else []
        count = len(schema.arguments) - len(words) if schema is not None else len(arguments)
        named = dict(zip(words, arguments[count:], strict=False))
        node = self.fx.call_function(function, tuple(arguments[:count]), named)
        if op in self.members and self.members[op].name in self.keep:
            self.kept.append(node)
        if len(op.outputs) > 1:
            for i in range(len(op.outputs)):
                self._set(op, self.fx.call_function(operator.getitem, (node, i)), i)
        else:
            self._set(op, node)
        if op.in_place:
            self.env[op.inputs[0]] = node
        return node

    def _functional(self, op: Op, function: Any) -> Any:
        """The form of an in-place operator that returns its result. Unsupported for one on a view."""
        made_by = next((o for o in self.graph.ops if op.inputs[0] in o.outputs), None)
        packet = getattr(self._torch.ops.aten, op.name, None)
        overload = str(function).rpartition(".")[2]
        found = getattr(packet, overload, None) if packet is not None else None
        is_part = made_by is not None and made_by.name in ("slice", "select", "narrow", "view", "transpose")
        if found is None or is_part:
            raise Unsupported(
                f"{op.kind} at {op.line or op.where or 'the model'} writes into a part of a tensor in place",
                hint="write it without in-place assignment (torch.cat, torch.where)",
            )
        return found

    # -- for the writers of layers

    def module(self, group: Group, module: Any, inputs: Sequence[Any], last: Op) -> Any:
        """Call a module under the unit's name; its result is that of ``last``."""
        path = self._free_path(group.name)
        module.eval()
        _add(self.root, path, module)
        node = self.fx.call_module(path, tuple(inputs))
        self._set(last, node)
        return node

    def function(self, function: Any, arguments: Sequence[Any], last: Op) -> Any:
        """Call a function; its result is that of ``last``."""
        node = self.fx.call_function(function, tuple(arguments))
        self._set(last, node)
        return node

    def submodule(self, name: str, module: Any, arguments: Sequence[Any]) -> Any:
        """Call a module that makes no value of the file."""
        path = self._free_path(name)
        _add(self.root, path, module.eval())
        return self.fx.call_module(path, tuple(arguments))

    def follow(self, op: Op) -> Any:
        """What stands for the first input of an operator."""
        return self._argument(op.inputs[0])

    def _free_path(self, name: str) -> str:
        path = "".join(c if c.isalnum() or c in "._" else "_" for c in name).strip(".") or "unit"
        taken = dict(self.root.named_modules())
        while path in taken or hasattr(self.root, path):
            path += "_"
        return path


def _add(root: Any, path: str, module: Any) -> None:
    """Put a module at a dotted path, with plain modules on the way."""
    import torch

    *parents, last = path.split(".")
    at = root
    for part in parents:
        if not hasattr(at, part):
            at.add_module(part, torch.nn.Module())
        at = getattr(at, part)
    at.add_module(last, module)
