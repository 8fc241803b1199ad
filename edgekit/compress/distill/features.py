"""Features of two models: which layers' outputs are compared, how they are read, how widths are matched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from edgekit.errors import StepFailed, UserError

if TYPE_CHECKING:
    import torch
    from torch import nn

Pair = tuple[str, str]
"""Names of a layer of the student and of the layer of the teacher that it is compared with."""


class Tap:
    """The outputs of some modules during the latest forward pass, by name."""

    def __init__(self, module: nn.Module, names: Sequence[str]) -> None:
        parts = dict(module.named_modules())
        self.values: dict[str, torch.Tensor] = {}
        self._handles = [parts[name].register_forward_hook(self._keeper(name)) for name in names]

    def _keeper(self, name: str) -> Any:
        import torch

        def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, torch.Tensor):
                self.values[name] = output

        return keep

    def close(self) -> None:
        """Take the hooks away again."""
        for handle in self._handles:
            handle.remove()


def named_pairs(text: Sequence[str], student: nn.Module, teacher: nn.Module) -> list[Pair]:
    """Pairs from "layer" (of that name in both) or "student_layer:teacher_layer".

    Raises UserError for a layer that a model does not have, naming the nearest ones.
    """
    pairs = []
    for entry in text:
        ours, _, theirs = entry.partition(":")
        pair = (ours, theirs or ours)
        for name, module, whose in ((pair[0], student, "student"), (pair[1], teacher, "teacher")):
            names = [n for n, _ in module.named_modules() if n]
            if name not in names:
                near = get_close_matches(name, names, n=3) or names[:5]
                raise UserError(
                    f"distill.layers: the {whose} has no layer {name!r}", hint=f"near: {', '.join(near)}"
                )
        pairs.append(pair)
    return pairs


def matching_pairs(student: nn.Module, teacher: nn.Module, inputs: Sequence[torch.Tensor]) -> list[Pair]:
    """The last layer of each stage in both models, where a stage is a spatial size of feature maps.

    Models without feature maps are matched at the last (n, c) tensor before the output. Found by running
    ``inputs`` through both models; empty when nothing corresponds.
    """
    ours, theirs = _stages(student, inputs), _stages(teacher, inputs)
    return [(name, theirs[size]) for size, name in ours.items() if size in theirs]


def _stages(module: nn.Module, inputs: Sequence[torch.Tensor]) -> dict[tuple[int, ...], str]:
    """Name of the module that gives the last tensor of each spatial size, outputs of the model left out."""
    import torch

    from edgekit.sources.inspection import flatten_outputs

    seen: list[tuple[str, torch.Tensor]] = []

    def keeper(name: str) -> Any:
        def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, torch.Tensor) and output.ndim >= 2 and output.is_floating_point():
                seen.append((name, output))

        return keep

    handles = [m.register_forward_hook(keeper(n)) for n, m in module.named_modules() if n]
    try:
        with torch.no_grad():
            outputs = [t for _, t in flatten_outputs(module(*inputs))]
    finally:
        for handle in handles:
            handle.remove()
    shapes = {tuple(t.shape) for t in outputs}
    memory = {t.untyped_storage().data_ptr() for t in outputs}
    stages: dict[tuple[int, ...], str] = {}
    for name, tensor in seen:
        # A head's tensor reaches the outputs by a view, which its memory tells, or by an activation.
        if tuple(tensor.shape) not in shapes and tensor.untyped_storage().data_ptr() not in memory:
            stages[tuple(tensor.shape[2:]) if tensor.ndim != 3 else (0, tensor.shape[1])] = name
    return stages


def adapter_for(student: torch.Tensor, teacher: torch.Tensor, pair: Pair) -> nn.Module:
    """A learned 1x1 map from the student's channels to the teacher's; the identity when they are equal.

    (n, c, ...) maps with equal spatial sizes, or (n, T, c) sequences of equal length. Raises StepFailed
    when the tensors correspond in neither way.
    """
    from torch import nn

    a, b = tuple(student.shape), tuple(teacher.shape)
    if a == b:
        return nn.Identity()
    if len(a) == len(b) == 3 and a[1] == b[1]:
        return nn.Linear(a[2], b[2])
    if len(a) == len(b) and a[2:] == b[2:]:
        kinds: Mapping[int, Any] = {2: nn.Linear, 3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}
        if len(a) in kinds:
            kind = kinds[len(a)]
            layer: nn.Module = kind(a[1], b[1]) if len(a) == 2 else kind(a[1], b[1], 1)
            return layer
    raise StepFailed(
        f"{pair[0]} of the student gives {a}, {pair[1]} of the teacher {b}: they cannot be compared",
        hint="name layers of equal spatial size with --set distill.layers=student_layer:teacher_layer",
    )


def hint_loss(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Mean squared error of adapted features, divided by the teacher's mean square.

    Romero et al. 2015, "FitNets" (arXiv:1412.6550), eq. 3; the division makes layers count alike.
    """
    wanted = teacher.float()
    return (student.float() - wanted).square().mean() / wanted.square().mean().clamp_min(1e-12)


def embedding(feature: torch.Tensor) -> torch.Tensor:
    """(n, c, ...) feature maps averaged over their positions, as (n, c); (n, T, c) over T."""
    if feature.ndim == 2:
        return feature.float()
    return feature.float().mean(1) if feature.ndim == 3 else feature.float().flatten(2).mean(2)
