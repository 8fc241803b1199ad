"""Fine-tune a compressed model, with the original or any other model as its teacher.

Unless asked, the data are taken as they are (the user's preprocessing is not known); the teacher's
answers are then computed once and kept where they fit in memory.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from edgekit.compress.samples import Samples
from edgekit.compress.training import Run
from edgekit.compress.tuning import EpochRecord, FineTuned, Settings
from edgekit.errors import UserError
from edgekit.sources.arrays import Data
from edgekit.sources.splits import hold_back
from edgekit.types import Emit, Task, ignore_events

if TYPE_CHECKING:
    from torch import nn

__all__ = ["EpochRecord", "FineTuned", "Settings", "finetune"]

VALIDATION_SHARE = 0.1


def finetune(
    student: nn.Module,
    teacher: nn.Module | None,
    train: Data,
    *,
    task: Task,
    settings: Settings | None = None,
    val: Data | None = None,
    emit: Emit = ignore_events,
) -> FineTuned:
    """Train a copy of ``student``; its weights after the best validation epoch are returned.

    Validation is ``val``, or a tenth of ``train`` held back (seeded, class by class). Classification
    with labels is judged by top-1, ties by loss; everything else by the loss against the teacher.
    Same inputs, seed, machine and thread count give the same weights. The global random state is put
    back afterwards, and neither module is changed.

    Raises StepFailed when the loss is not finite, nothing can be trained, or the model does not run
    in batches; UserError when there is neither a teacher nor a label to learn from.
    """
    import torch

    chosen = settings or Settings()
    if teacher is None and (task != "classification" or train.labels is None):
        raise UserError(
            "fine-tuning has neither labels nor a teacher",
            hint="give training data as (x, y) with y the class",
        )
    if val is None:
        train, val = hold_back(train, max(1, round(VALIDATION_SHARE * len(train))), seed=chosen.seed)
    if len(train) < 2:
        raise UserError(f"{len(train)} training samples are too few", hint="give more training data")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(chosen.seed)
        run = Run(copy.deepcopy(student), teacher, task, chosen, emit)
        try:
            return run.fit(Samples(train), Samples(val))
        finally:
            run.close()
