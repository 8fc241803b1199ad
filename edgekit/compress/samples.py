"""Training samples as tensors, and the label-preserving changes of images that enlarge a data set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from edgekit.errors import UserError
from edgekit.sources.arrays import Data

if TYPE_CHECKING:
    import torch

Augment = Literal["none", "flip", "flip-shift"]
AUGMENTS: tuple[Augment, ...] = ("none", "flip", "flip-shift")
SHIFT = 8
"""Images are shifted by up to an eighth of their size: 4 pixels of 32, as for CIFAR in He et al. 2016."""


class Samples:
    """Data as tensors, and the teacher's answers to them once they are known.

    ``answers`` hold one list of output tensors per version of the data that training uses: as given, and
    mirrored.
    """

    def __init__(self, data: Data) -> None:
        import torch

        self.inputs = [torch.from_numpy(array) for array in data.inputs]
        self.labels = None if data.labels is None else torch.from_numpy(data.labels)
        self.answers: list[list[torch.Tensor]] | None = None

    def __len__(self) -> int:
        return len(self.inputs[0])

    def rows(self, rows: torch.Tensor) -> list[torch.Tensor]:
        """The inputs of the samples ``rows``."""
        return [x[rows] for x in self.inputs]

    def answers_of(self, rows: torch.Tensor, mirrored: torch.Tensor | None) -> list[torch.Tensor] | None:
        """The remembered answers to ``rows``, of which some may be mirrored; None when none are kept."""
        import torch

        if self.answers is None:
            return None
        plain = [a[rows] for a in self.answers[0]]
        if mirrored is None:
            return plain
        if len(self.answers) < 2:
            return None
        flipped = [a[rows] for a in self.answers[1]]
        return [
            torch.where(mirrored.view(-1, *([1] * (p.ndim - 1))), f, p)
            for p, f in zip(plain, flipped, strict=True)
        ]


def check_augment(augment: Augment, inputs: Sequence[torch.Tensor]) -> None:
    """Raise UserError when a model's inputs are not one image that can be mirrored."""
    if augment != "none" and (len(inputs) != 1 or inputs[0].ndim != 4):
        shapes = ", ".join(str(tuple(x.shape[1:])) for x in inputs)
        raise UserError(
            f"finetune.augment={augment} needs one image (c, h, w) as input, the model takes {shapes}",
            hint="augment in your own training data, or leave finetune.augment away",
        )


def mirror(images: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
    """``images`` (n, c, h, w) with those for which ``which`` (n,) is true mirrored left to right."""
    import torch

    return torch.where(which.view(-1, 1, 1, 1), images.flip(3), images)


def shift(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """``images`` (n, c, h, w) moved by one random offset for all of them, borders reflected."""
    import torch
    import torch.nn.functional as F

    height, width = images.shape[2:]
    down, right = max(1, height // SHIFT), max(1, width // SHIFT)
    if min(height, width) < 2:
        return images
    padded = F.pad(images, (right, right, down, down), mode="reflect")
    i = int(torch.randint(0, 2 * down + 1, (1,), generator=generator))
    j = int(torch.randint(0, 2 * right + 1, (1,), generator=generator))
    return padded[:, :, i : i + height, j : j + width]


def batches(n: int, size: int, shuffle: torch.Generator) -> Iterator[torch.Tensor]:
    """Row numbers of the batches of one epoch, shuffled; a last batch of one sample is left out."""
    import torch

    parts = torch.split(torch.randperm(n, generator=shuffle), size)
    for rows in parts:
        if len(rows) > 1 or len(parts) == 1:  # batch norm cannot train on one sample
            yield rows
