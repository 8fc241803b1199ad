"""Layers that pruning leaves whole by rule, and those that the user names."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING

from edgekit.errors import UserError

if TYPE_CHECKING:
    from torch import nn

RULES = ("first", "embeddings")
PROTECTED = ("embeddings",)
"""The first convolution (or linear layer), which sees the input; embeddings, whose width is the width of
the whole model, are protected unless asked. Layers that give the model's outputs (classifiers, detection
heads) are always whole."""


def protected_layers(module: nn.Module, rules: Sequence[str]) -> dict[str, str]:
    """Names of the layers that ``rules`` protect, with the reason. Raises UserError for an unknown rule."""
    from torch import nn

    for rule in rules:
        if rule not in RULES:
            raise UserError(f"prune.protect: no rule {rule!r}", hint=f"one of {', '.join(RULES)}")
    found: dict[str, str] = {}
    for name, layer in module.named_modules():
        first = "first" in rules and "the first layer" not in found.values()
        if first and isinstance(layer, (nn.Linear, nn.modules.conv._ConvNd)):
            found[name] = "the first layer"
        if "embeddings" in rules and isinstance(layer, (nn.Embedding, nn.EmbeddingBag)):
            found[name] = "an embedding"
    return found


def named_by_user(module: nn.Module, ignore: Sequence[str], key: str = "prune.ignore") -> dict[str, str]:
    """The layers that the setting ``key`` names. Raises UserError for one that the model does not have."""
    names = [name for name, _ in module.named_modules() if name]
    for name in ignore:
        if name not in names:
            near = get_close_matches(name, names, n=3) or names[:5]
            raise UserError(f"{key}: the model has no layer {name!r}", hint=f"near: {', '.join(near)}")
    return dict.fromkeys(ignore, f"named in {key}")
