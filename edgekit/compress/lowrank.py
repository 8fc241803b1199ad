"""Low-rank factorisation: one layer becomes two or three thin ones.

- ``svd``: linear layers and 1x1 convolutions, W (m, n) = A (m, r) B (r, n) by the truncated singular value
  decomposition (Denton et al. 2014, arXiv:1404.0736)
- ``tucker2``: k x k convolutions as 1x1, k x k, 1x1 (Kim et al. 2016, arXiv:1511.06530, eq. 3 to 5, by
  higher-order SVD)
- ``spatial``: k x k convolutions as k x 1, 1 x k (Jaderberg et al. 2014, arXiv:1405.3866, scheme 2)

The rank is the least one that keeps a share of the weights' energy (squared Frobenius norm), or the energy
is sought for which the whole model costs a share of its MACs. A layer that would cost more MACs than it
does whole stays whole, with the reason. The result is compared with the model whose weights are the same
approximations in their old places: a layer that is used in another way than by being called is found so.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from edgekit.compress.factors import Factor, factor_layer, reconstruct, whole_macs
from edgekit.compress.protection import named_by_user
from edgekit.errors import StepFailed, Unsupported, UserError
from edgekit.types import Emit, Event, ignore_events

if TYPE_CHECKING:
    import torch
    from torch import nn

VERSION = 1
METHODS = ("auto", "tucker2", "spatial")
_SAME = 1e-3
_BISECTIONS = 30


@dataclass(frozen=True, kw_only=True)
class LowRank:
    """A factorised model, in eval mode, and how to make its structure again.

    ``record`` is JSON data for :func:`apply_lowrank`. ``layers`` are what was factorised, ``kept`` the
    convolution and linear layers that stay whole, with the reason. ``energy`` is the share that each
    factorised layer kept at least. MACs are for one example input, of the whole model.
    """

    module: nn.Module
    record: dict[str, Any]
    layers: tuple[Factor, ...]
    kept: Mapping[str, str]
    energy: float
    params_before: int
    params_after: int
    macs_before: int | None
    macs_after: int | None


def factorise(
    module: nn.Module,
    example_inputs: Sequence[torch.Tensor],
    *,
    energy: float | None = None,
    budget: float | None = None,
    method: str = "auto",
    round_to: int = 1,
    ignore: Sequence[str] = (),
    emit: Emit = ignore_events,
) -> LowRank:
    """Factorise a copy of ``module``, by ``energy`` in (0, 1) or to ``budget``, a share of its MACs.

    ``method`` is how k x k convolutions are factorised; "auto" takes what costs least for the energy.
    Ranks are rounded up to multiples of ``round_to`` where that is less than the full rank.

    Raises UserError unless exactly one of energy and budget is given, within (0, 1); Unsupported when
    nothing can be factorised with gain, or the budget cannot be met.
    """
    import torch

    from edgekit.sources.macs import count_macs

    if (energy is None) == (budget is None):
        raise UserError("give either lowrank.energy or lowrank.budget", hint="lowrank.energy=0.95")
    for name, value in (("energy", energy), ("budget", budget)):
        if value is not None and not 0 < value < 1:
            raise UserError(f"lowrank.{name} {value} is outside (0, 1)", hint="0.9 or 0.95 is usual")
    if method not in METHODS:
        raise UserError(f"lowrank.method {method!r} is not known", hint=f"one of {', '.join(METHODS)}")
    original = copy.deepcopy(module).eval()
    kept = named_by_user(original, ignore, "lowrank.ignore")
    sizes = _called_with(original, example_inputs)
    candidates = _candidates(original, sizes, kept)
    macs = count_macs(original, example_inputs)

    def at(share: float) -> tuple[list[Factor], dict[str, str]]:
        found, whole = [], {}
        for name, layer in candidates.items():
            outcome = factor_layer(name, layer, sizes[name], share, method, round_to)
            if isinstance(outcome, str):
                whole[name] = outcome
            else:
                found.append(outcome)
        return found, whole

    if energy is None:
        assert budget is not None
        energy = _for_budget(at, budget, candidates, sizes, macs)
    factors, whole = at(energy)
    kept |= whole
    if not factors:
        text = "; ".join(f"{layer}: {reason}" for layer, reason in list(kept.items())[:5])
        raise Unsupported(
            f"no layer gains by a low rank ({text or 'there is no convolution or linear layer'})",
            hint="lower lowrank.energy, or leave low-rank factorisation away",
        )
    record = {
        "version": VERSION,
        "layers": [{"layer": f.layer, "kind": f.kind, "ranks": list(f.ranks)} for f in factors],
    }
    result = apply_lowrank(original, record)
    wanted = copy.deepcopy(original)
    parts, old = dict[str, Any](result.named_modules()), dict[str, Any](wanted.named_modules())
    with torch.no_grad():
        for factor in factors:
            tensors, whole_weight = reconstruct(factor, candidates[factor.layer])
            for i, tensor in enumerate(tensors):
                parts[f"{factor.layer}.{i}"].weight.copy_(tensor)
            old[factor.layer].weight.copy_(whole_weight)
    _prove(result, wanted, example_inputs)
    for factor in factors:
        emit(
            Event(kind="info", step="lowrank", message=f"{factor.layer}: {factor.kind}, ranks {factor.ranks}")
        )
    return LowRank(
        module=result,
        record=record,
        layers=tuple(factors),
        kept=kept,
        energy=energy,
        params_before=sum(p.numel() for p in module.parameters()),
        params_after=sum(p.numel() for p in result.parameters()),
        macs_before=macs,
        macs_after=count_macs(result, example_inputs),
    )


def apply_lowrank(module: nn.Module, record: Mapping[str, Any]) -> nn.Module:
    """A copy of ``module`` with the structure of ``record``; biases are copied, new weights are zero.

    Raises StepFailed when the record does not belong to the module.
    """
    from edgekit.compress.factors import empty_factors

    if record.get("version") != VERSION:
        raise StepFailed(f"low-rank record has version {record.get('version')}, not {VERSION}")
    result = copy.deepcopy(module).eval()
    for row in record["layers"]:
        name = str(row["layer"])
        parts = dict(result.named_modules())
        if name not in parts:
            raise StepFailed(f"the low-rank record factorises {name}, which the model does not have")
        new = empty_factors(parts[name], str(row["kind"]), [int(r) for r in row["ranks"]])
        old = parts[name]
        for parent in parts.values():
            for key, child in parent._modules.items():
                if child is old:  # a layer may be called from several places
                    parent._modules[key] = new
    return result


def to_json(made: LowRank) -> dict[str, Any]:
    """What the report tells of it."""
    return {
        "energy": made.energy,
        "layers": [{**asdict(f), "ranks": list(f.ranks)} for f in made.layers],
        "kept": dict(made.kept),
    }


def _called_with(
    module: nn.Module, inputs: Sequence[torch.Tensor]
) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Shapes of input and output of each layer that is called, from one forward pass."""
    import torch

    seen: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}

    def hook(name: str) -> Any:
        def look(_layer: nn.Module, given: Any, output: Any) -> None:
            if given and isinstance(given[0], torch.Tensor) and isinstance(output, torch.Tensor):
                seen[name] = (tuple(given[0].shape), tuple(output.shape))

        return look

    handles = [m.register_forward_hook(hook(n)) for n, m in module.named_modules() if n]
    try:
        with torch.no_grad():
            module(*(t.clone() for t in inputs))
    except Exception as exc:
        raise StepFailed(f"the model does not run: {type(exc).__name__}: {str(exc)[:200]}") from exc
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _candidates(module: nn.Module, sizes: Mapping[str, Any], kept: dict[str, str]) -> dict[str, nn.Module]:
    """Layers that can be factorised; the others get their reason into ``kept``."""
    from torch import nn

    users: dict[int, int] = {}
    for part in module.modules():
        for parameter in part._parameters.values():
            if parameter is not None:
                users[id(parameter)] = users.get(id(parameter), 0) + 1
    found: dict[str, nn.Module] = {}
    for name, layer in module.named_modules():
        if not isinstance(layer, (nn.Linear, nn.modules.conv._ConvNd)):
            continue
        inside = next((k for k in kept if name == k or name.startswith(k + ".")), None)
        if inside is not None:
            if inside != name:
                kept[name] = kept[inside]
        elif type(layer) not in (nn.Linear, nn.Conv2d):
            kept[name] = f"{type(layer).__name__} layers are not factorised"
        elif name not in sizes:
            kept[name] = "it is not called in the forward pass"
        elif users[id(layer.weight)] > 1:
            kept[name] = "its weight is shared with another layer"
        elif isinstance(layer, nn.Linear):
            found[name] = layer
        elif layer.groups != 1:
            kept[name] = "grouped and depthwise convolutions have nothing to factorise between channels"
        elif isinstance(layer, nn.Conv2d) and (
            layer.padding_mode != "zeros" or isinstance(layer.padding, str)
        ):
            kept[name] = "its padding is not a number of zeros on each side"
        else:
            found[name] = layer
    return found


def _for_budget(at: Any, budget: float, candidates: Any, sizes: Any, macs: int | None) -> float:
    """The greatest energy at which the model costs at most ``budget`` of its MACs, by bisection."""
    layers = {name: whole_macs(layer, sizes[name]) for name, layer in candidates.items()}
    total = max(macs or 0, sum(layers.values()))

    def cost(energy: float) -> float:
        factors, _ = at(energy)
        saved = sum(layers[f.layer] - f.macs for f in factors)
        return (total - saved) / total if total else 1.0

    low, high = 1e-6, 1 - 1e-9
    if cost(low) > budget:
        raise Unsupported(
            f"low ranks reach {100 * cost(low):.1f} % of the model's MACs at best, not {100 * budget:g} %",
            hint="raise lowrank.budget, or prune as well",
        )
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if cost(middle) <= budget else (low, middle)
    return low


def _prove(made: nn.Module, wanted: nn.Module, inputs: Sequence[torch.Tensor]) -> None:
    """Raise StepFailed unless both modules compute the same."""
    import torch

    from edgekit.sources.inspection import flatten_outputs

    with torch.no_grad():
        try:
            ours, theirs = (
                [t.float() for _, t in flatten_outputs(m(*(x.clone() for x in inputs)))]
                for m in (made, wanted)
            )
        except Exception as exc:
            raise StepFailed(
                f"the model does not run with factorised layers: {type(exc).__name__}: {str(exc)[:200]}",
                hint="name the layer that the message is about in lowrank.ignore",
            ) from exc
    for a, b in zip(ours, theirs, strict=True):
        scale = max(float(b.abs().max()), 1e-6)
        if a.shape != b.shape or not math.isfinite(scale) or float((a - b).abs().max()) > _SAME * scale:
            raise StepFailed(
                "the factorised model does not compute what its weights say: a layer is used in another way "
                "than by being called",
                hint="name it in lowrank.ignore",
            )
