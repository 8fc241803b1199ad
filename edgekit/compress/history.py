"""What pruning changed, as JSON data, and the same change made again on a fresh model.

A pruned model differs from its original in parameter shapes and in a few integers that layers keep
about themselves (``out_channels``, ``num_features``, ``groups``, ...). Both are written down, so that a
stored model needs the user's code, this data and a safetensors file: no pickle, no second tracing.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgekit.errors import StepFailed

if TYPE_CHECKING:
    import torch
    from torch import nn

VERSION = 1
_SKIPPED = {"training"}


def describe_changes(
    before: nn.Module, after: nn.Module, removed: Sequence[tuple[str, list[int]]]
) -> dict[str, Any]:
    """JSON data: ``removed`` channels by root layer, changed ``attributes`` by module, ``shapes``."""
    new = dict(after.named_modules())
    attributes = {}
    for name, module in before.named_modules():
        changed = {k: v for k, v in _plain(new[name]).items() if _plain(module).get(k) != v}
        if changed:
            attributes[name] = changed
    old_state = before.state_dict()
    shapes = {k: list(t.shape) for k, t in after.state_dict().items() if t.shape != old_state[k].shape}
    return {
        "version": VERSION,
        "removed": [{"layer": name, "channels": indices} for name, indices in removed],
        "attributes": attributes,
        "shapes": shapes,
    }


def apply_history(
    module: nn.Module, history: Mapping[str, Any], state_dict: Mapping[str, torch.Tensor]
) -> nn.Module:
    """The pruned model again: a copy of the original ``module``, reshaped, with ``state_dict`` loaded.

    Raises StepFailed when history, tensors and module do not belong together.
    """
    return load_weights(reshape(module, history), state_dict)


def load_weights(module: nn.Module, state_dict: Mapping[str, torch.Tensor]) -> nn.Module:
    """``module`` itself with the stored weights in it. Raises StepFailed when they do not fit."""
    try:
        module.load_state_dict(dict(state_dict), strict=True)
    except RuntimeError as exc:
        raise StepFailed(
            f"the pruned weights do not fit the pruned model: {str(exc).splitlines()[-1]}"
        ) from exc
    return module


def reshape(module: nn.Module, history: Mapping[str, Any]) -> nn.Module:
    """A copy of ``module`` in eval mode with the shapes of ``history``; changed tensors hold no values.

    Raises StepFailed when the history does not belong to the module.
    """
    import torch
    from torch import nn

    if history.get("version") != VERSION:
        raise StepFailed(f"pruning history has version {history.get('version')}, not {VERSION}")
    result = copy.deepcopy(module).eval()
    parts = dict(result.named_modules())
    for name, changed in history["attributes"].items():
        for key, value in changed.items():
            if name not in parts or key not in vars(parts[name]):
                raise StepFailed(f"the pruning history changes {name}.{key}, which the model does not have")
            setattr(parts[name], key, tuple(value) if isinstance(value, list) else value)
    for key, shape in history["shapes"].items():
        owner_name, _, leaf = key.rpartition(".")
        owner = parts.get(owner_name)
        old = getattr(owner, leaf, None)
        if owner is None or not isinstance(old, torch.Tensor):
            raise StepFailed(f"the pruning history reshapes {key}, which the model does not have")
        empty = torch.empty(shape, dtype=old.dtype)
        if isinstance(old, nn.Parameter):
            setattr(owner, leaf, nn.Parameter(empty, requires_grad=old.requires_grad))
        else:
            setattr(owner, leaf, empty)
    return result


def _plain(module: nn.Module) -> dict[str, Any]:
    """Integer and integer-tuple attributes of a module, as JSON keeps them."""
    found: dict[str, Any] = {}
    for key, value in vars(module).items():
        if key.startswith("_") or key in _SKIPPED or isinstance(value, bool):
            continue
        if isinstance(value, int):
            found[key] = value
        elif isinstance(value, (tuple, list)) and value and all(type(v) is int for v in value):
            found[key] = list(value)
    return found
