"""What a student is trained on: labels, and what it takes from its teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgekit.compress.distill import features, relation
from edgekit.compress.distill.response import classification_loss, response_loss
from edgekit.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import nn

KINDS = ("response", "hint", "rkd-distance", "rkd-angle", "similarity")
"""Outputs; features through adapters; pairwise distances; angles of triples; similarity of samples."""

_WEIGHTS = {"hint": 1.0, "rkd-distance": 25.0, "rkd-angle": 50.0, "similarity": 3000.0}
"""Against a cross-entropy of weight 1: of RKD and similarity as their authors chose for classification
(Park et al. 2019, section 4.3; Tung & Mori 2019, section 4.1); hints are relative errors already."""


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """What to take from the teacher. JSON data.

    ``kinds`` are names of :data:`KINDS`; ``weight`` multiplies every kind but "response". ``layers``
    are pairs "student_layer:teacher_layer", or one name for both; empty to match stages by shape.
    """

    kinds: tuple[str, ...] = ("response",)
    weight: float = 1.0
    layers: tuple[str, ...] = ()
    temperature: float = 4.0
    alpha: float = 0.7

    @property
    def reads_features(self) -> bool:
        """Whether the teacher's inner tensors are needed, which are not kept: it runs for each batch."""
        return any(k != "response" for k in self.kinds)


class Objective:
    """The loss of one batch. Hooks are on both models until :meth:`close`.

    ``adapters`` hold the parameters that are trained beside the student's and then thrown away.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | None,
        chosen: Distillation,
        *,
        classify: bool,
        example: Sequence[torch.Tensor],
    ) -> None:
        """Raises UserError for kinds that need a teacher, or features where no layers correspond."""
        from torch import nn

        self._chosen, self._classify = chosen, classify
        self.pairs: list[features.Pair] = []
        self.adapters = nn.ModuleList()
        self._taps: tuple[features.Tap, features.Tap] | None = None
        if not chosen.reads_features or teacher is None:
            return
        self.pairs = (
            features.named_pairs(chosen.layers, student, teacher)
            if chosen.layers
            else features.matching_pairs(student, teacher, example)
        )
        if not self.pairs:
            raise UserError(
                f"distill.kinds={','.join(chosen.kinds)}: no layers of student and teacher correspond",
                hint="name them with --set distill.layers=student_layer:teacher_layer",
            )
        self._taps = (
            features.Tap(student, [p[0] for p in self.pairs]),
            features.Tap(teacher, [p[1] for p in self.pairs]),
        )
        self._fit_adapters(student, teacher, example)

    def _fit_adapters(self, student: nn.Module, teacher: nn.Module, example: Sequence[torch.Tensor]) -> None:
        import torch

        if "hint" not in self._chosen.kinds:
            return
        with torch.no_grad():
            student(*example)
            teacher(*example)
        for (ours, theirs), pair in zip(self._tapped(), self.pairs, strict=True):
            self.adapters.append(features.adapter_for(ours, theirs, pair))

    def _tapped(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        assert self._taps is not None
        ours, theirs = self._taps
        for tap, side in ((ours, 0), (theirs, 1)):
            for pair in self.pairs:
                if pair[side] not in tap.values:
                    raise UserError(
                        f"distill.layers: {pair[side]} gives no tensor in the forward pass",
                        hint="name a layer that the forward pass calls and that returns one tensor",
                    )
        return [(ours.values[a], theirs.values[b]) for a, b in self.pairs]

    def loss(
        self,
        outputs: Sequence[torch.Tensor],
        answers: Sequence[torch.Tensor] | None,
        labels: torch.Tensor | None,
    ) -> torch.Tensor:
        """The loss of the batch that both models have just seen; float32 scalar.

        ``outputs`` and ``answers`` are the student's and the teacher's, ``labels`` (n,) or None.
        """
        chosen = self._chosen
        ours = [t.float() for t in outputs]
        theirs = None if answers is None else [t.float() for t in answers]
        soft = theirs if "response" in chosen.kinds else None
        terms = []
        if self._classify and (soft is not None or labels is not None):
            first = None if soft is None else soft[0]
            terms.append(
                classification_loss(
                    ours[0], first, labels, temperature=chosen.temperature, alpha=chosen.alpha
                )
            )
        elif soft is not None:
            terms.append(response_loss(ours, soft))
        if self._taps is not None:
            pairs = self._tapped()
            terms += [
                chosen.weight * _WEIGHTS[k] * self._feature_term(k, pairs)
                for k in chosen.kinds
                if k != "response"
            ]
        return sum(terms[1:], terms[0])

    def _feature_term(self, kind: str, pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
        import torch

        if kind == "hint":
            parts = [
                features.hint_loss(adapter(a.float()), b)
                for adapter, (a, b) in zip(self.adapters, pairs, strict=True)
            ]
            return torch.stack(parts).mean()
        # Relations are taken where the whole network's judgement is: at the last pair.
        ours, theirs = pairs[-1]
        if len(ours) < 3:  # a last batch in which samples have no others to be compared with
            return ours.float().sum() * 0.0
        if kind == "similarity":
            return relation.similarity_loss(ours.float(), theirs.float())
        measure = relation.distance_loss if kind == "rkd-distance" else relation.angle_loss
        return measure(features.embedding(ours), features.embedding(theirs))

    def close(self) -> None:
        """Take the hooks from both models."""
        for tap in self._taps or ():
            tap.close()
        self._taps = None
