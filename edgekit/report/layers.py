"""The view of a model layer by layer: where its size, its cost and its quantisation error lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from edgekit.report import charts, formats

_PRECISIONS = ("int8", "int16x8", "dynamic", "fp16", "float32")
_FLAGGED = 3


def layers_view(units: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Strips (one bar a layer), the legend, the layers with the lowest SQNR, and the rows of the table."""
    worst = lowest_sqnr(units)
    columns = [
        _Column("Size", "bytes", units, "B"),
        _Column("MACs", "macs", units, ""),
        _Column("Instructions", "instructions", units, ""),
    ]
    columns = [c for c in columns if c.measured]
    present = {u["precision"] for u in units}
    return {
        "strips": [c.strip() for c in columns],
        "sqnr": _sqnr_strip(units, worst),
        "columns": columns,
        "legend": [
            (p, _kind(p)) for p in (*_PRECISIONS, *sorted(present - set(_PRECISIONS))) if p in present
        ],
        "worst": [{**units[i], "sqnr": formats.decibel(units[i]["sqnr_db"])} for i in worst],
        "rows": [
            {
                "name": u["name"],
                "op": u["op"],
                "precision": u["precision"],
                "kind": _kind(u["precision"]),
                "cells": [c.cell(u) for c in columns],
                "sqnr": formats.NOT_MEASURED if u["sqnr_db"] is None else f"{u['sqnr_db']:.1f}",
                "flagged": i in worst,
            }
            for i, u in enumerate(units)
        ],
    }


def lowest_sqnr(units: Sequence[Mapping[str, Any]]) -> list[int]:
    """Indices of the layers with the lowest SQNR, lowest first; empty when fewer than four are measured."""
    measured = [i for i, u in enumerate(units) if u["sqnr_db"] is not None]
    if len(measured) <= _FLAGGED:
        return []
    return sorted(measured, key=lambda i: float(units[i]["sqnr_db"]))[:_FLAGGED]


class _Column:
    """One figure over all layers, in one unit."""

    def __init__(self, title: str, key: str, units: Sequence[Mapping[str, Any]], base: str) -> None:
        self.title, self._key, self._units = title, key, units
        values = [u.get(key) for u in units]
        self.measured = any(v is not None for v in values)
        self.scale = formats.scale_for(values, base)
        self._top = max((v for v in values if v), default=0)
        self._decimals = 0 if self.scale.factor == 1 else 2

    @property
    def heading(self) -> str:
        return f"{self.title}, {self.scale.unit}" if self.scale.unit else self.title

    def cell(self, unit: Mapping[str, Any]) -> dict[str, Any]:
        value = unit.get(self._key)
        return {
            "text": self.scale.number(value, self._decimals),
            "bar": charts.inline_bar(value, self._top, _kind(unit["precision"])),
        }

    def strip(self) -> dict[str, Any]:
        bars = [
            charts.Bar(
                value=u.get(self._key),
                kind=_kind(u["precision"]),
                title=f"{u['name']} ({u['op']}, {u['precision']}): {self.scale.text(u.get(self._key))}",
            )
            for u in self._units
        ]
        return {
            "title": self.title,
            "top": self.scale.text(self._top),
            "total": self.scale.text(sum(u.get(self._key) or 0 for u in self._units)),
            "svg": charts.strip(bars, label=f"{self.title} of each layer in the order of the model"),
        }


def _sqnr_strip(units: Sequence[Mapping[str, Any]], worst: Sequence[int]) -> dict[str, Any] | None:
    values = [u["sqnr_db"] for u in units if u["sqnr_db"] is not None]
    if not values:
        return None
    bars = [
        charts.Bar(
            value=u["sqnr_db"],
            kind="worst" if i in worst else "plain",
            title=f"{u['name']} ({u['op']}, {u['precision']}): {formats.decibel(u['sqnr_db'])}",
        )
        for i, u in enumerate(units)
    ]
    svg: Markup = charts.strip(
        bars, label="SQNR in dB of each layer in the order of the model; higher is better"
    )
    return {"top": formats.decibel(max(values)), "low": formats.decibel(min(values)), "svg": svg}


def _kind(precision: str) -> str:
    """A CSS class from a closed list: the text of a report never becomes one."""
    return f"p-{precision}" if precision in _PRECISIONS else "p-other"
