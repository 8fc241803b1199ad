"""The rung of quantisation-aware training: what it makes, and how much of it the time budget allows."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekit.build.compression import Compressed
from edgekit.build.lowering import Lowering, check_finite
from edgekit.errors import StepFailed
from edgekit.tune import LeftOut
from edgekit.types import Artifact, Emit, Event

if TYPE_CHECKING:
    from edgekit.types import Array

_SHARE = 0.9
"""Of the time that is left, for training; the rest makes and measures the file."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """The module after training while int8 was played, its outputs on the verification samples, and its
    float file with the parity of that."""

    compressed: Compressed
    outputs: Sequence[Array]
    float_file: Artifact
    parity: Mapping[str, Any]

    @property
    def epochs(self) -> int:
        """That training was asked for; it may have stopped earlier by itself."""
        config = self.compressed.qat_config
        assert config is not None
        return int(config["epochs"])


def train_for_search(
    lowering: Lowering, compressed: Compressed, config: Mapping[str, Any], deadline: float | None
) -> Trained:
    """Train ``compressed`` as ``config`` says, with as many epochs as there is time for.

    ``deadline`` is on the clock of ``time.monotonic``. Fewer epochs are another training, with a schedule of
    its own, so that a recipe with their number repeats it. Raises LeftOut where not one epoch fits, or
    where training takes longer than expected and the deadline comes: then nothing of it is kept.
    """
    emit = None
    if deadline is not None and not compressed.training_known(config):
        config = {**config, "epochs": _epochs(compressed, config, deadline)}
        emit = _ending(lowering.runner.emit, deadline)
    made = compressed.trained(config, emit)
    outputs = lowering.source_outputs("trained outputs", made.module, made.sha256)
    check_finite(outputs, "the trained model", hint="lower the learning rate (--set qat.lr=...)")
    file, parity = lowering.convert("convert trained", made.module, made.sha256, outputs)
    return Trained(compressed=made, outputs=outputs, float_file=file, parity=parity)


def _epochs(compressed: Compressed, config: Mapping[str, Any], deadline: float) -> int:
    asked = int(config["epochs"])
    each = compressed.training_seconds(config)
    left = deadline - time.monotonic()
    fit = int(_SHARE * left / max(each, 1e-9))
    if fit < 1:
        raise LeftOut(
            f"an epoch takes about {each:,.0f} s, and {max(left, 0.0):,.0f} s of the time budget are left"
        )
    return min(asked, fit)


def _ending(emit: Emit, deadline: float) -> Emit:
    def listen(event: Event) -> None:
        emit(event)
        if time.monotonic() >= deadline:
            raise StepFailed("the time budget ended before the training did")

    return listen
