"""A torch.export program as a module. Imported only when one is loaded: it needs torch at import."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class ExportedModel(nn.Module):
    """Wraps ``ExportedProgram.module()``, whose ``train`` and ``eval`` raise.

    The mode of an exported program was fixed when it was exported: here both are accepted and change
    nothing but the flag.
    """

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.program = program

    def train(self, mode: bool = True) -> ExportedModel:
        self.training = mode
        return self

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.program(*inputs)
