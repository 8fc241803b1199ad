"""How far one file may compute otherwise on two machines."""

from __future__ import annotations

from dataclasses import replace

from edgekit.backends import Backend
from edgekit.types import Artifact, Scheme

MIXED = (0.05, 0.05)
"""Share of the output's largest value and of each value, for files that are int8 but for some layers. These
compute in float, which machines round differently; a value near a border then falls on the next of 256 steps
behind them, and what int8 alone computes bit for bit moves by some steps. Judged from one case, MobileNetV2
with 4 layers of 53 in float32: ONNX Runtime on x86-64 and on an emulated Cortex-A72 differ by more than 2 %
and less than 5 %."""

_MARK = "mixed"


def marked(artifact: Artifact, scheme: Scheme, backend: Backend) -> Artifact:
    """The artifact, with a mark in its meta when some of its units stay in float32 by choice."""
    kept = any(p == "float32" for p in scheme.overrides.values()) or (
        bool(scheme.float_ops)
        and any(scheme.exception(u.name, u.op) == "float32" for u in backend.units(artifact))
    )
    if not kept or scheme.precision not in ("int8", "int16x8"):
        return artifact
    return replace(artifact, meta={**artifact.meta, _MARK: True})


def tolerance_of(backend: Backend, artifact: Artifact) -> tuple[float, float]:
    """See :meth:`edgekit.backends.base.Backend.tolerance`; wider for mixed precision."""
    share, relative = backend.tolerance(artifact.precision)
    if artifact.meta.get(_MARK):
        return max(share, MIXED[0]), max(relative, MIXED[1])
    return share, relative
