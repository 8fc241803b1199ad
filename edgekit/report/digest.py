"""The digest of a report: equal for two builds of the same inputs, whatever the clock and the folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekit.store import digest_json

# Left out wherever they stand: clocks, memory of this process, cache hits, places in the file system.
_VOLATILE_KEYS = frozenset({"seconds", "peak_rss_bytes", "cached", "path"})
_VOLATILE_TOP = frozenset({"digest", "environment", "created_at", "command"})
_TIME_UNITS = frozenset({"s", "ms", "us", "ns"})
_DIGITS = 6
"""Significant digits of a float that count. The last bits of a sum depend on the number of threads."""


def report_digest(report: Mapping[str, Any]) -> str:
    """Hex sha256 over the canonical report without what changes from run to run.

    Left out: the digest itself, environment, date, command line, seconds, peak memory, cache hits, paths
    (``source`` of model and data too: their sha256 stays), and the figures of measurements that are not
    exactly repeatable, with the gates on them and the times by operator. Counts from an emulator stay,
    modelled cache misses go: they depend on where the process happens to lie in memory.
    """
    kept = {k: v for k, v in report.items() if k not in _VOLATILE_TOP}
    kept["model"] = _without(kept.get("model"), "source")
    kept["data"] = {k: _without(v, "source") for k, v in (kept.get("data") or {}).items()}
    kept["measurements"] = [_stable_measurement(m) for m in kept.get("measurements", ())]
    if "targets" in kept:
        kept["targets"] = [_stable_target(row) for row in kept["targets"]]
    if kept.get("by_operator"):
        counted = [p for p in kept["by_operator"]["places"] if p["unit"] not in _TIME_UNITS]
        kept["by_operator"] = {"places": counted}  # what is missing depends on this machine
    kept["gates"] = [_stable_gate(g) for g in kept.get("gates", ())]
    return digest_json(_canonical(kept))


def _stable_measurement(m: Mapping[str, Any]) -> dict[str, Any]:
    if m["source"] == "emulator" and not _is_volatile(m["metric"], m["unit"], m.get("detail") or {}):
        return _without(m, "device")
    return {k: m.get(k) for k in ("metric", "unit", "source", "subject")}


def _stable_gate(gate: Mapping[str, Any]) -> dict[str, Any]:
    if _is_volatile(gate["name"], gate["unit"], {}):
        return _without(gate, "measured", "passed")
    return dict(gate)


def _stable_target(row: Mapping[str, Any]) -> dict[str, Any]:
    counted = row["cost_basis"] == "instructions per inference"
    return _without(row, "latency_ms", *(() if counted else ("cost",)))


def _is_volatile(name: str, unit: str, detail: Mapping[str, Any]) -> bool:
    memory = "memory" in name or "rss" in name
    return unit in _TIME_UNITS or memory or bool(detail.get("modelled"))


def _without(value: Mapping[str, Any] | None, *keys: str) -> dict[str, Any]:
    return {k: v for k, v in (value or {}).items() if k not in keys}


def _canonical(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _canonical(v) for k, v in value.items() if k not in _VOLATILE_KEYS}
    if isinstance(value, (list, tuple)):
        return [_canonical(v) for v in value]
    if isinstance(value, float):
        rounded = float(f"{value:.{_DIGITS}g}")
        return int(rounded) if rounded.is_integer() else rounded  # 3.0 and 3 are one figure
    return value
