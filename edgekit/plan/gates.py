"""The limits that a built file must keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from edgekit.errors import UserError
from edgekit.plan.request import DataFacts, Request
from edgekit.types import Gate, ModelSpec, Scheme

DEFAULT_MAX_DROP = 1.0
"""Percentage points of accuracy that may be lost when the user names no limit."""


def plan_gates(
    model: ModelSpec,
    data: DataFacts,
    request: Request,
    settings: Mapping[str, Any],
    scheme: Scheme,
    *,
    pruned: bool,
) -> tuple[Gate, ...]:
    gates = []
    labelled = data.eval > 0 and data.eval_labelled and model.task == "classification"
    if request.max_drop is not None and not labelled:
        raise UserError(
            "--max-drop needs labelled evaluation data of a classifier",
            hint="give --eval with (x, y) samples",
        )
    if labelled:
        gates.append(
            Gate(
                name="accuracy_drop",
                limit=DEFAULT_MAX_DROP if request.max_drop is None else request.max_drop,
                comparison="<=",
                unit="points",
                reason="top-1 of the original minus top-1 of the file, on the evaluation data",
            )
        )
    elif data.any:
        if model.task == "classification":
            gates.append(
                Gate(
                    name="agreement",
                    limit=settings["gate.min_agreement"],
                    comparison=">=",
                    unit="%",
                    reason=f"same top-1 as the original, {_seen(data)}",
                )
            )
        if not pruned:
            gates.append(
                Gate(
                    name="output_sqnr",
                    limit=settings["gate.min_sqnr"],
                    comparison=">=",
                    unit="dB",
                    reason=f"outputs against the original's, {_seen(data)}",
                )
            )
    if scheme.precision == "int8":
        gates.append(
            Gate(
                name="int8_share",
                limit=90.0,
                comparison=">=",
                unit="%",
                reason="share of the file's arithmetic operators that compute in int8",
            )
        )
    if request.max_size_bytes is not None:
        gates.append(
            Gate(
                name="file_size",
                limit=request.max_size_bytes,
                comparison="<=",
                unit="bytes",
                reason="--max-size",
            )
        )
    return tuple(gates)


def gates_for(gates: Sequence[Gate], scheme: Scheme, units: Sequence[Mapping[str, Any]]) -> tuple[Gate, ...]:
    """The gates of a file that a search made in another scheme than the plan's.

    Layers that it keeps in float32 on purpose are left out of the share that has to compute in int8, and
    operators that the target keeps there; for a file in another precision that gate means nothing.
    """
    kept = sum(bool(u["macs"]) for u in units if scheme.overrides.get(u["name"]) == "float32")
    arithmetic = sum(bool(u["macs"]) for u in units)
    slow = sum(u["op"] in scheme.float_ops and u["name"] not in scheme.overrides for u in units)
    adapted = []
    for gate in gates:
        if gate.name != "int8_share":
            adapted.append(gate)
        elif scheme.precision == "int8" and (kept or slow):
            share = (1 - kept / arithmetic if kept else 1.0) * (1 - slow / len(units))
            less = [f"{kept} layers that the search keeps in float32"] if kept else []
            less += (
                [f"{slow} operators ({', '.join(scheme.float_ops)}) that are faster there"] if slow else []
            )
            reason = f"{gate.reason}, less {' and '.join(less)}"
            adapted.append(replace(gate, limit=round(gate.limit * share, 1), reason=reason))
        elif scheme.precision == "int8":
            adapted.append(gate)
    return tuple(adapted)


def _seen(data: DataFacts) -> str:
    """Which samples a gate is measured on."""
    if data.eval > 0:
        return "on the evaluation data"
    if data.held_back:
        return "on samples that calibration has not seen"
    return "on the calibration samples themselves: there are too few to hold some back"
