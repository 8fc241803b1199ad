"""What a person wants to know first: did it work, what was gained and lost. For HTML and terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgekit.report import formats

Report = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Card:
    """One figure of the summary. ``before`` and ``after`` are drawn as bars when both are there."""

    label: str
    value: str
    was: str | None = None
    change: str | None = None
    notes: tuple[str, ...] = ()
    before: float | None = None
    after: float | None = None


@dataclass(frozen=True, kw_only=True)
class Status:
    """``kind`` is the report's status; ``word`` and ``text`` say it to a person."""

    kind: str
    word: str
    text: str
    hint: str | None = None


def status_of(report: Report) -> Status:
    """The status in words, naming the gates that are broken or the stage that failed."""
    kind = report["status"]
    if kind == "failed":
        error = report.get("error") or {}
        where = f"in {error['stage']}: " if error.get("stage") else ""
        return Status(
            kind=kind,
            word="Failed",
            text=f"{where}{error.get('message', 'no cause recorded')}",
            hint=error.get("hint"),
        )
    gates = report["gates"]
    broken = [formats.words(g["name"]) for g in gates if g["passed"] is not True]
    if kind == "gate_failed":
        return Status(
            kind=kind,
            word="Gate failed",
            text=f"{len(broken)} of {len(gates)} gates not passed: {', '.join(broken)}",
        )
    text = f"{_count(len(gates), 'gate')} passed" if gates else "no gate was set"
    return Status(kind=kind, word="OK", text=text)


def cards(report: Report) -> list[Card]:
    """Quality, size, MACs, parameters, instructions: in this order, always five."""
    return [
        _quality(report),
        _pair(
            "Size",
            report["size"]["baseline_bytes"],
            report["size"]["final_bytes"],
            "B",
            ("smaller", "larger"),
            notes=("model file",),
        ),
        _pair(
            "MACs",
            report["macs"]["baseline"],
            report["macs"]["final"],
            "",
            ("fewer", "more"),
            notes=("per inference",),
        ),
        _pair("Parameters", report["params"]["baseline"], report["params"]["final"], "", ("fewer", "more")),
        _instructions(report),
    ]


def find_measurement(report: Report, metric: str, subject: str) -> Mapping[str, Any] | None:
    """The first measurement of ``metric`` for "baseline" or "final" that has a figure."""
    return next(
        (
            m
            for m in report["measurements"]
            if m["metric"] == metric and m["subject"] == subject and m["median"] is not None
        ),
        None,
    )


def gate_text(gate: Mapping[str, Any]) -> str:
    """ "accuracy drop 0.20 points (limit ≤ 0.60 points)"."""
    sign = {"<=": "≤", ">=": "≥"}[gate["comparison"]]
    measured = formats.with_unit(gate["measured"], gate["unit"])
    limit = formats.with_unit(gate["limit"], gate["unit"])
    return f"{formats.words(gate['name'])} {measured} (limit {sign} {limit})"


def precision_of(report: Report) -> str | None:
    """Precision of the last file that was written, None when there is none."""
    files: Sequence[Any] = [s["artifact"] for s in report["stages"] if s["artifact"]]
    return str(files[-1]["precision"]) if files else None


def _quality(report: Report) -> Card:
    accuracy, agreement, sqnr = report["accuracy"], report["agreement"], _final_sqnr(report)
    fidelity = []
    if agreement and agreement["top1"] is not None:
        fidelity.append(f"agreement {formats.percent(agreement['top1'])} (n = {agreement['n']:,})")
    if sqnr is not None:
        fidelity.append(f"output SQNR {formats.decibel(sqnr)}")
    if accuracy:
        return Card(
            label=f"Accuracy ({accuracy['metric']})",
            value=formats.percent(accuracy["final"]),
            was=formats.percent(accuracy["baseline"]),
            change=_drop_text(accuracy["drop"]),
            notes=(*_interval_texts(accuracy), *fidelity),
        )
    if agreement and agreement["top1"] is not None:
        return Card(
            label="Agreement with the original",
            value=formats.percent(agreement["top1"]),
            notes=(f"same top-1, n = {agreement['n']:,}; accuracy not measured: no labels", *fidelity[1:]),
        )
    if sqnr is not None:
        return Card(label="Output SQNR", value=formats.decibel(sqnr), notes=("accuracy not measured",))
    return Card(label="Accuracy", value=formats.NOT_MEASURED)


def _pair(
    label: str,
    before: float | None,
    after: float | None,
    unit: str,
    words: tuple[str, str],
    notes: tuple[str, ...] = (),
) -> Card:
    if before is None and after is None:
        return Card(label=label, value=formats.NOT_MEASURED)
    scale = formats.pair_scale(before, after, unit)
    return Card(
        label=label,
        value=scale.text(after),
        was=None if before is None else scale.text(before),
        change=formats.change(before, after, less=words[0], more=words[1]),
        notes=notes,
        before=before,
        after=after,
    )


def _instructions(report: Report) -> Card:
    final = find_measurement(report, "instructions", "final")
    baseline = find_measurement(report, "instructions", "baseline")
    either = final or baseline
    if either is None:
        return Card(label="Instructions", value=formats.NOT_MEASURED)
    device = either["device"]
    arch = {"aarch64": "arm64"}.get(str(device.get("arch")), device.get("arch"))
    where = device.get("cpu") or device.get("name")
    how = {"emulator": "emulated", "device": "on the device", "host": "on this host"}.get(
        either["source"], ""
    )
    return _pair(
        f"{arch} instructions" if arch else "Instructions",
        baseline["median"] if baseline else None,
        final["median"] if final else None,
        "",
        ("fewer", "more"),
        notes=("per inference, " + " ".join(str(x) for x in (where, how) if x),),
    )


def _final_sqnr(report: Report) -> float | None:
    """SQNR of the last stage that was compared with the original, which the first row names."""
    rows = report["numerics"]
    against_original = [n for n in rows if n["reference"] == rows[0]["reference"]]
    return against_original[-1]["sqnr_db"] if against_original else None


def _drop_text(drop: float | None) -> str | None:
    if drop is None:
        return None
    if abs(drop) < 0.005:
        return "no drop"
    return f"{abs(drop):.2f} points {'lower' if drop > 0 else 'higher'}"


def _interval_texts(accuracy: Mapping[str, Any]) -> list[str]:
    n = f"n = {accuracy['n']:,}"
    texts = [n]
    if accuracy["ci95"] is not None:
        low, high = accuracy["ci95"]
        texts = [f"95 % CI {low:.2f} to {high:.2f} %, {n}"]
    if accuracy.get("drop_ci95") is not None:
        low, high = accuracy["drop_ci95"]
        texts.append(
            f"95 % CI of the drop {formats.minus(f'{low:.2f}')} to {formats.minus(f'{high:.2f}')} points"
        )
    return texts


def _count(n: int, word: str) -> str:
    if n == 1:
        return f"the one {word}"
    return f"all {n} {word}s"
