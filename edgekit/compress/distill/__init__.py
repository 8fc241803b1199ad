"""Distillation: losses that pull a student towards its teacher, by outputs, features or relations."""

from edgekit.compress.distill.objective import KINDS, Distillation
from edgekit.compress.distill.response import classification_loss, response_loss

__all__ = ["KINDS", "Distillation", "classification_loss", "response_loss"]
