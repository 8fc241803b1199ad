"""What a file's outputs say about the gates that a search can move."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from edgekit.verify.numerics import closeness

if TYPE_CHECKING:
    from edgekit.build.lowering import Lowering
    from edgekit.types import Array, Gate

MENDED = ("accuracy_drop", "agreement", "output_sqnr")
"""Gates that another recipe for the same model may mend."""
COSTS = ("file_size", "latency", "speedup")
"""Gates that another recipe may break: int8 throughout is the smallest file there is."""
SEARCHED = (*MENDED, *COSTS)
"""Gates that a search looks at."""

_EQUAL_DB = 200.0
"""Stands for the infinite SQNR of equal outputs, which JSON cannot hold."""


def worst_sqnr(reference: Sequence[Array], got: Sequence[Array]) -> float | None:
    """SQNR of the worst output in dB; None when one of them has none (see :class:`Closeness`).

    Not over all outputs together: there, large values of one would hide that another is wrong.
    """
    closes = [closeness([r], [g]) for r, g in zip(reference, got, strict=True)]
    values = [_EQUAL_DB if c.max_abs == 0 else c.sqnr_db for c in closes]
    known = [v for v in values if v is not None]
    return min(known) if len(known) == len(values) else None


def gate_values(
    gates: Sequence[Gate],
    lowering: Lowering,
    original: Sequence[Array],
    outputs: Sequence[Array],
    costs: Mapping[str, float | None],
) -> tuple[dict[str, float | None], Mapping[str, float | None]]:
    """(value by gate, "drop" / "agreement" / "sqnr_db") of one file's outputs; ``costs`` are those of its
    cost gates that are known."""
    scores = lowering.scores(original, outputs)
    accuracy, agreement = scores["accuracy"], scores["agreement"]
    sqnr = None if lowering.samples_from == "random" else worst_sqnr(original, outputs)
    figures = {
        "drop": float(accuracy["drop"]) if accuracy else None,
        "agreement": float(agreement["top1"]) if agreement else None,
        "sqnr_db": sqnr,
    }
    known = {
        "accuracy_drop": figures["drop"],
        "agreement": figures["agreement"],
        "output_sqnr": sqnr,
        **costs,
    }
    return {g.name: known[g.name] for g in gates if g.name in known}, figures
