"""int8, fp16 and float32 of the built network side by side: size, cost on this device, accuracy.

A file of each precision that the target lists is judged on the samples that the gates are measured on. The
fp16 file is made for this alone where nothing else asked for one: its conversion takes no calibration, and
its outputs one pass over the samples. It is not measured on the device or the emulator, its cost is the
profile's estimate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from edgekit.build.scores import MENDED, gate_values
from edgekit.errors import EdgekitError
from edgekit.measure.estimate import compare
from edgekit.tune import margin_of

if TYPE_CHECKING:
    from edgekit.build.costs import Costs
    from edgekit.build.lowering import Lowering
    from edgekit.build.reporting import Made
    from edgekit.profiles.schema import DeviceProfile, Target
    from edgekit.types import Array, Artifact

_XNNPACK = "xnnpack"
_SPEEDS = {"faster": "faster", "slower": "slower", "measure": "too close to call"}


def compare_precisions(
    made: Made, planned: tuple[Artifact, Sequence[Array]], lowering: Lowering, target: Target, costs: Costs
) -> dict[str, Any] | None:
    """The report's "precisions": {"rows", "best", "reason"}; None for random samples, which say nothing.

    ``planned`` is the file as planned with its outputs, which a search may have left for another one.

    A row has "precision", "chosen", "bytes", "ms" (estimated, null without an estimate), "ratio" (how many
    times as fast as float32), "speed" ("faster", "slower", "same", "too close to call", "unknown"), "drop",
    "agreement", "sqnr_db", "holds" (the gates of accuracy; null without any) and "note".
    """
    if made.samples_from == "random":
        return None
    table = _Table(made, lowering, target, costs)
    table.add(made.float_file, made.float_outputs)
    if made.final.precision != "float32":
        kept = sum(p == "float32" for p in made.scheme.overrides.values())
        table.add(made.final, made.outputs, f"{kept} operators in float32 by choice" if kept else "")
    if planned[0].precision not in table.rows:
        table.add(*planned)
    absent = [] if "int8" in table.rows else [table.why_no_int8()]
    if "fp16" not in table.rows:
        absent.append(table.add_fp16())
    rows = [{**row, "chosen": row["precision"] == made.final.precision} for row in table.rows.values()]
    best = _best(rows)
    return {"rows": rows, "best": best, "reason": _reason(rows, best, absent)}


class _Table:
    def __init__(self, made: Made, lowering: Lowering, target: Target, costs: Costs) -> None:
        self._made, self._lowering, self._target, self._costs = made, lowering, target, costs
        self._gates = [g for g in made.plan.gates if g.name in MENDED]
        self._float = costs.estimate(made.float_file)
        self.rows: dict[str, dict[str, Any]] = {}

    def add(self, file: Artifact, outputs: Sequence[Array], remark: str = "") -> None:
        made, precision = self._made, file.precision
        values, figures = gate_values(self._gates, self._lowering, made.original, outputs, {})
        note, as_float32 = _fp16_note(made.inputs.profile, self._target, precision)
        estimate = self._float if as_float32 else self._costs.estimate(file)
        speed, ratio = "unknown", None
        if precision == "float32" or as_float32:
            speed, ratio = "same", 1.0
        elif estimate is not None and self._float is not None:
            found = compare(self._float, estimate)
            speed, ratio = _SPEEDS[found.verdict], found.ratio
        self.rows[precision] = {
            "precision": precision,
            "bytes": file.bytes,
            "ms": None if estimate is None else estimate.ms,
            "ratio": ratio,
            "speed": speed,
            **figures,
            "holds": margin_of(self._gates, values) >= 0 if self._gates else None,
            "note": note or remark,
        }

    def why_no_int8(self) -> str:
        if "int8" not in self._target.precisions:
            return f"no int8 for {self._where} on this device, by its profile"
        return "no int8 file was made, by the plan"

    @property
    def _where(self) -> str:
        return f"{self._target.runtime}/{self._target.delegate}"

    def add_fp16(self) -> str:
        """The fp16 file; why there is none, "" where there is."""
        if "fp16" not in self._target.precisions:
            return f"no fp16 for {self._where} on this device, by its profile"
        scheme = replace(self._made.plan.scheme, precision="fp16", overrides={}, io="float", trained=())
        try:
            file, outputs = self._lowering.companion(self._made.float_file, scheme, "fp16 for comparison")
        except EdgekitError as exc:
            return f"no fp16 file could be made: {exc}"
        self.add(file, outputs)
        return ""


def _fp16_note(profile: DeviceProfile, target: Target, precision: str) -> tuple[str, bool]:
    """What is to know of fp16 on this target, and whether its files are computed as those of float32."""
    if precision != "fp16":
        return "", False
    if target.delegate != _XNNPACK:
        return "", False
    if "fp16" not in profile.isa:
        return (
            "these cores have no fp16 arithmetic: XNNPACK unpacks the weights and computes in float32",
            True,
        )
    return (
        "XNNPACK unpacks the weights and computes in float32 unless an app sets its FORCE_FP16 flag, for "
        "which these cores have the arithmetic; that was not estimated",
        True,
    )


def _best(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Fastest of those that hold the gates, of equally fast ones the smallest; None where none is known to.

    "Too close to call" counts as float32's speed: what is not shown to be faster is no reason to lose
    accuracy, a smaller file is.
    """
    order = {"faster": 0, "same": 1, "too close to call": 1, "unknown": 1, "slower": 2}
    fit = [r for r in rows if r["holds"] is not False]
    if not fit:
        return None
    return str(min(fit, key=lambda r: (order[r["speed"]], r["bytes"]))["precision"])


def _reason(rows: Sequence[Mapping[str, Any]], best: str | None, absent: Sequence[str]) -> str:
    plain = next(r for r in rows if r["precision"] == "float32")
    parts = [_sentence(r, plain) for r in rows if r is not plain]
    parts += [text for text in absent if text]
    if best is None:
        parts.append("none of them holds the gates of accuracy")
    else:
        built = next(r["precision"] for r in rows if r["chosen"])
        hint = "" if best == built else f" (--set quantize.precision={best})"
        parts.append(f"best for this device by these figures: {best}{hint}")
    return "; ".join(parts)


def _sentence(row: Mapping[str, Any], plain: Mapping[str, Any]) -> str:
    words = {
        "faster": f"{row['ratio'] or 0:.2f} times as fast as float32 (estimated)",
        "slower": f"{row['ratio'] or 0:.2f} times as fast as float32 (estimated)",
        "too close to call": f"about as fast as float32 (estimated {row['ratio'] or 0:.2f} times)",
        "same": "as fast as float32",
        "unknown": "of unknown speed: the profile has no estimate for this target",
    }
    loss = ""
    if row["drop"] is not None:
        loss = f", {abs(row['drop']):.2f} points {'gained' if row['drop'] < 0 else 'lost'}"
    elif row["sqnr_db"] is not None:
        loss = f", output SQNR {row['sqnr_db']:.1f} dB"
    breaks = ", breaks a gate" if row["holds"] is False else ""
    size = f"{row['bytes'] / plain['bytes']:.2f} of float32's size"
    return f"{row['precision']} is {words[row['speed']]}, {size}{loss}{breaks}"
