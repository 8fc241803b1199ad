"""The view of what was measured: each figure with its source, baseline beside final, never a bare number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgekit.report import charts, formats

_SHOWN_APART = frozenset({"classes", "ops", "modelled", "interval90"})
_COUNTS = frozenset({"instructions", "misses", "accesses"})
_TIME_UNITS = frozenset({"s", "ms", "us", "ns"})


def measurements_view(measurements: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rows (metric × source), instructions by class and by operator, and the devices that were used."""
    groups: dict[tuple[str, str, str], dict[str, Mapping[str, Any]]] = {}
    for m in measurements:
        groups.setdefault((m["metric"], m["unit"], m["source"]), {}).setdefault(m["subject"], m)
    devices: list[Mapping[str, Any]] = []
    for m in measurements:
        if m["device"] and m["device"] not in devices:
            devices.append(m["device"])
    counted = [m for m in measurements if m["metric"] == "instructions"]
    return {
        "rows": [_row(pair) for pair in groups.values()],
        "classes": _classes({m["subject"]: m for m in reversed(counted)}),
        "ops": [_operators(m) for m in counted if (m.get("detail") or {}).get("ops")],
        "devices": [pairs(d) for d in devices],
    }


def pairs(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested data as (dotted key, text)."""
    found: list[tuple[str, str]] = []
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, Mapping):
            found += pairs(item, f"{name}.")
        else:
            found.append((name, plain(item)))
    return found


def plain(value: Any) -> str:
    """A JSON value as text: yes/no for booleans, "not known" for null, lists with commas."""
    if value is None:
        return "not known"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return formats.significant(value, 6)
    if isinstance(value, (list, tuple)):
        return ", ".join(plain(v) for v in value)
    return str(value)


def _row(pair: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    any_of = pair.get("final") or pair["baseline"]
    unit = any_of["unit"]
    values = {s: (pair[s]["median"] if s in pair else None) for s in ("baseline", "final")}
    base = {"bytes": "B", **dict.fromkeys(_COUNTS, "")}.get(unit, unit)  # a count is named by its metric
    countable = unit in ("bytes", "B") or unit in _COUNTS
    scale = (
        formats.pair_scale(values["baseline"], values["final"], base)
        if countable
        else formats.Scale(factor=1.0, unit=unit)
    )
    words = ("fewer", "more") if unit in _COUNTS else ("lower", "higher")
    detail = any_of.get("detail") or {}
    return {
        "title": formats.words(any_of["metric"]),
        "source": any_of["source"],
        "modelled": bool(detail.get("modelled")),
        "baseline": _cell(pair.get("baseline"), scale, countable),
        "final": _cell(pair.get("final"), scale, countable),
        "change": formats.change(values["baseline"], values["final"], less=words[0], more=words[1]),
        "threads": any_of["threads"],
        "notes": [
            f"{formats.words(k)}: {v}"
            for k, v in pairs({k: v for k, v in detail.items() if k not in _SHOWN_APART})
        ],
    }


def _cell(m: Mapping[str, Any] | None, scale: formats.Scale, countable: bool) -> dict[str, str]:
    if m is None:
        return {"text": "–", "sub": ""}
    if m["median"] is None:
        why = "an emulator cannot know it" if m["source"] == "emulator" and m["unit"] in _TIME_UNITS else ""
        return {"text": formats.NOT_MEASURED, "sub": why}

    predicted = m["source"] == "estimate"

    def show(x: float) -> str:
        if predicted:
            return f"{x:g}"  # it has no more digits than are known
        return scale.number(x) if countable else formats.significant(x)

    interval90 = (m.get("detail") or {}).get("interval90")
    parts = []
    if interval90 is not None:
        parts.append(f"90 % interval {show(interval90[0])} to {show(interval90[1])}")
    if m["p90"] is not None:
        parts.append(f"p90 {show(m['p90'])}")
    if m["ci95"] is not None:
        kind = "interval" if m["source"] == "estimate" else "95 % CI"
        parts.append(f"{kind} {show(m['ci95'][0])} to {show(m['ci95'][1])}")
    if m["n"] > 1:
        parts.append(f"n = {m['n']}")
    return {"text": f"{show(m['median'])} {scale.unit}".strip(), "sub": ", ".join(parts)}


def _classes(counted: Mapping[str, Mapping[str, Any]]) -> dict[str, Any] | None:
    """Instructions by class, the largest first, for the baseline and the final file."""
    tables = {s: (m.get("detail") or {}).get("classes") or {} for s, m in counted.items()}
    final, baseline = tables.get("final", {}), tables.get("baseline", {})
    names = sorted({*final, *baseline}, key=lambda n: -(final.get(n, 0) + baseline.get(n, 0)))
    if not names:
        return None
    every = [*final.values(), *baseline.values()]
    scale = formats.scale_for([max(every)], "")
    return {
        "unit": scale.unit or "count",
        "rows": [
            {
                "name": formats.words(n),
                "baseline": scale.number(baseline.get(n, 0), 2) if baseline else None,
                "final": scale.number(final.get(n, 0), 2) if final else None,
                "difference": formats.minus(f"{(final.get(n, 0) - baseline.get(n, 0)) / scale.factor:+,.2f}")
                if final and baseline
                else None,
                "bar": charts.inline_bar(final.get(n, 0) if final else baseline[n], max(every), "plain"),
            }
            for n in names
        ],
    }


def _operators(m: Mapping[str, Any]) -> dict[str, Any]:
    ops = sorted(m["detail"]["ops"], key=lambda o: -float(o["instructions"]))
    top = ops[0]["instructions"]
    total = sum(o["instructions"] for o in ops) or 1
    scale = formats.scale_for([top], "")
    return {
        "subject": m["subject"],
        "unit": scale.unit or "count",
        "rows": [
            {
                "name": o["name"],
                "op": o.get("op") or "",
                "number": scale.number(o["instructions"], 2),
                "share": f"{100 * o['instructions'] / total:.1f}",
                "bar": charts.inline_bar(o["instructions"], top, "plain"),
            }
            for o in ops
        ],
    }
