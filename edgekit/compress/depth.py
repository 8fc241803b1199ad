"""Whole residual blocks go: a network with fewer layers, which saves time also where thin layers do not.

A block that maps one tensor to one of the same shape can be left out: its input goes on in the place of its
output. Where blocks are residual, x + f(x), the others still understand what they get (Veit et al. 2016,
arXiv:1605.06431). Which one goes is measured: the block whose absence changes the model's outputs least on
some samples, then the next one of the smaller model, and so on (greedy, as in Elkerdawy et al. 2020, "To
Filter Prune, or to Layer Prune", arXiv:2007.05667, with the output in the place of an imprinted classifier).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.errors import StepFailed, Unsupported, UserError
from edgekit.types import Emit, Event, ignore_events

if TYPE_CHECKING:
    import torch
    from torch import nn

    from edgekit.sources.arrays import Data

VERSION = 1
_SAMPLES = 256
_BATCH = 64
_ALIKE = 0.6
"""Cosine of a block's input and what it passes on: 1, or 0.71 for values around 0 behind a ReLU."""


@dataclass(frozen=True, kw_only=True)
class Removed:
    """One block that went: the change of the outputs since the one before, as noise over signal power,
    None where the user named the block."""

    block: str
    noise: float | None
    params: int


@dataclass(frozen=True, kw_only=True)
class Shallower:
    """A model with fewer blocks, in eval mode; ``record`` is JSON data for :func:`apply_depth`.

    ``removed`` in the order in which they went. MACs are for one example input.
    """

    module: nn.Module
    record: dict[str, Any]
    removed: tuple[Removed, ...]
    params_before: int
    params_after: int
    macs_before: int | None
    macs_after: int | None


def remove_blocks(
    module: nn.Module,
    example_inputs: Sequence[torch.Tensor],
    *,
    blocks: int | Mapping[str, int] = 0,
    remove: Sequence[str] = (),
    ignore: Sequence[str] = (),
    probe: Data | None = None,
    emit: Emit = ignore_events,
) -> Shallower:
    """Leave blocks out of a copy of ``module``: those of ``remove``, then ``blocks`` more by measurement.

    ``blocks`` is their number, or the number of each part of the model by its name ({"layer1": 2}), part
    after part. ``probe`` are the samples on which outputs are compared (at most 256 of them), needed for
    ``blocks``; ``ignore`` names blocks to keep.

    Raises UserError for names that are no blocks, Unsupported where there are fewer blocks than asked for,
    StepFailed where the model does not run without one.
    """
    from edgekit.sources.macs import count_macs

    original = copy.deepcopy(module).eval()
    candidates = removable_blocks(original, example_inputs)
    for key, names in (("depth.remove", remove), ("depth.ignore", ignore)):
        for name in names:
            if name not in candidates:
                near = get_close_matches(name, candidates, n=3) or candidates[:5]
                raise UserError(
                    f"{key}: {name!r} is no block that can be left out",
                    hint=f"blocks that can: {', '.join(near)}" if near else "the model has no such block",
                )
    both = set(remove) & set(ignore)
    if both:
        raise UserError(f"{min(both)!r} is in depth.remove and in depth.ignore", hint="name it in one")
    parts = {"": blocks} if isinstance(blocks, int) else dict(blocks)
    result = original
    removed: list[Removed] = []

    def take(name: str, noise: float | None) -> None:
        nonlocal result
        params = _params(result)
        result = apply_depth(result, {"version": VERSION, "removed": [name]})
        removed.append(Removed(block=name, noise=noise, params=params - _params(result)))
        data = {"done": len(removed), "total": len(remove) + sum(parts.values())}
        text = f"{name} goes" + ("" if noise is None else f": outputs change by {100 * noise:.2g} % in power")
        emit(Event(kind="progress", step="depth", message=text, data=data))

    for name in dict.fromkeys(remove):
        take(name, None)
    if sum(parts.values()) > 0:
        if probe is None or len(probe) == 0:
            raise UserError("depth.blocks needs samples to measure blocks on", hint="give --train")
        samples = _samples(probe)
    for part, count in parts.items():
        gone = {r.block for r in removed}
        left = [n for n in candidates if n not in gone and n not in ignore and _inside(n, part)]
        if count > len(left):
            where = f" of {part!r}" if part else ""
            raise Unsupported(
                f"{count} blocks{where} were to go, but only {len(left)} can: {', '.join(left) or 'none'}",
                hint="lower depth.blocks; a block is residual and maps one tensor to one of the same shape",
            )
        for _ in range(count):
            want = _outputs(result, samples)
            effects = {}
            for name in left:
                without = apply_depth(result, {"version": VERSION, "removed": [name]})
                effects[name] = _noise(want, _outputs(without, samples))
            best = min(left, key=lambda n: effects[n])
            take(best, effects[best])
            left.remove(best)
    _outputs(result, [[x.clone() for x in example_inputs]])
    return Shallower(
        module=result,
        record={"version": VERSION, "removed": [r.block for r in removed]},
        removed=tuple(removed),
        params_before=_params(original),
        params_after=_params(result),
        macs_before=count_macs(original, example_inputs),
        macs_after=count_macs(result, example_inputs),
    )


def removable_blocks(module: nn.Module, example_inputs: Sequence[torch.Tensor]) -> list[str]:
    """Names of the blocks that can be left out, in the model's order.

    A block has layers with weights inside, is called once with one tensor, gives one of the same shape and
    type, and is residual: with all its weights at zero it still passes its input on. Of blocks within blocks
    the innermost count.
    """
    import torch

    calls: dict[str, list[torch.Tensor | None]] = {}
    modules = {n: m for n, m in module.named_modules() if n and next(m.children(), None) is not None}

    def hook(name: str) -> Any:
        def look(_module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            same = (
                len(args) == 1
                and not kwargs
                and isinstance(args[0], torch.Tensor)
                and isinstance(output, torch.Tensor)
                and args[0].shape == output.shape
                and args[0].dtype == output.dtype
            )
            calls.setdefault(name, []).append(args[0].clone() if same else None)

        return look

    handles = [m.register_forward_hook(hook(n), with_kwargs=True) for n, m in modules.items()]
    try:
        _outputs(module, [[x.clone() for x in example_inputs]])
    finally:
        for handle in handles:
            handle.remove()
    found = []
    for name, part in modules.items():
        given = calls.get(name, [])
        if len(given) == 1 and given[0] is not None and _params(part) > 0 and _passes_on(part, given[0]):
            found.append(name)
    return [n for n in found if not any(other.startswith(n + ".") for other in found)]


def _passes_on(block: nn.Module, given: torch.Tensor) -> bool:
    """Whether the input is still there in the output, or its positive half, when all weights are zero."""
    import torch

    empty = copy.deepcopy(block)
    with torch.no_grad():
        for parameter in empty.parameters():
            parameter.zero_()
        out = empty(given.clone()).double().flatten()
    into = given.double().flatten()
    size = float(out.norm() * into.norm())
    return size > 0 and float(out @ into) / size > _ALIKE


def apply_depth(module: nn.Module, record: Mapping[str, Any]) -> nn.Module:
    """A copy of ``module`` without the blocks of ``record``. Raises StepFailed for one that is not there."""
    from torch import nn

    if record.get("version") != VERSION:
        raise StepFailed(f"the record of removed blocks has version {record.get('version')}, not {VERSION}")
    result = copy.deepcopy(module).eval()
    for name in record["removed"]:
        parts = dict(result.named_modules())
        parent, _, leaf = str(name).rpartition(".")
        if name not in parts:
            raise StepFailed(f"the block {name} was to be left out, which the model does not have")
        parts[parent]._modules[leaf] = nn.Identity()
    return result


def _inside(name: str, part: str) -> bool:
    return not part or name == part or name.startswith(part + ".")


def _params(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _samples(probe: Data) -> list[list[torch.Tensor]]:
    import torch

    rows = np.linspace(0, len(probe) - 1, min(_SAMPLES, len(probe))).round().astype(int)
    inputs = [torch.from_numpy(np.ascontiguousarray(x[rows])) for x in probe.inputs]
    return [list(batch) for batch in zip(*(torch.split(x, _BATCH) for x in inputs), strict=True)]


def _outputs(module: nn.Module, samples: Sequence[Sequence[torch.Tensor]]) -> list[torch.Tensor]:
    """Outputs over all batches of samples, in float64."""
    import torch

    from edgekit.sources.inspection import flatten_outputs

    try:
        with torch.no_grad():
            parts = [[t.double() for _, t in flatten_outputs(module(*batch))] for batch in samples]
    except Exception as exc:
        raise StepFailed(
            f"the model does not run without its removed blocks: {type(exc).__name__}: {str(exc)[:200]}",
            hint="name the block that the message is about in depth.ignore",
        ) from exc
    return [torch.cat(column) if column[0].ndim else column[0] for column in zip(*parts, strict=True)]


def _noise(want: Sequence[torch.Tensor], got: Sequence[torch.Tensor]) -> float:
    """Power of the change over power of the outputs, mean over the outputs."""
    parts = [
        float((w - g).square().sum() / w.square().sum().clamp_min(1e-30))
        for w, g in zip(want, got, strict=True)
    ]
    return float(np.mean(parts))
