"""Numbers as people read them: SI units (1 kB = 1000 bytes), few digits, "not measured" for None."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

NOT_MEASURED = "not measured"
_ACRONYMS = {
    w.lower(): w for w in ("SQNR", "MACs", "RSS", "CPU", "SIMD", "FP", "ONNX", "L1I", "L1D", "L2", "L3")
}
_ACRONYMS["tflite"] = "TFLite"
_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""))


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A unit that fits a set of figures, so that they can be compared at a glance."""

    factor: float
    unit: str

    def number(self, value: float | None, decimals: int | None = None) -> str:
        """``value`` in this unit without the unit's name. A small figure that is not 0 never reads as 0."""
        if value is None:
            return NOT_MEASURED
        if value == 0:
            return "0"
        scaled = value / self.factor
        if decimals is None:
            decimals = 0 if self.factor == 1 else _decimals_for(scaled)
        text = f"{scaled:,.{decimals}f}"
        if float(text.replace(",", "")) == 0:
            return f"<{10.0**-decimals:.{decimals}f}"
        return minus(text)

    def text(self, value: float | None) -> str:
        """``value`` with its unit."""
        return NOT_MEASURED if value is None else f"{self.number(value)} {self.unit}".strip()


def scale_for(values: Iterable[float | None], unit: str) -> Scale:
    """The largest SI prefix in which no positive figure falls below 0.1 and the largest is at least 1.

    ``unit`` is the base unit: "B", "MACs", "instructions", "" for plain counts.
    """
    present = sorted(abs(v) for v in values if v)
    if not present:
        return Scale(factor=1.0, unit=unit)
    low, high = present[0], present[-1]
    for factor, prefix in _PREFIXES:
        if high >= factor and (low >= 0.1 * factor or high < 1000 * factor):
            return Scale(factor=factor, unit=_join(prefix, unit))
    return Scale(factor=1.0, unit=unit)


def pair_scale(before: float | None, after: float | None, unit: str) -> Scale:
    """One unit for a before and an after: the one in which the smaller of the two is at least 1."""
    present = [abs(v) for v in (before, after) if v]
    if not present:
        return Scale(factor=1.0, unit=unit)
    for factor, prefix in _PREFIXES:
        if min(present) >= factor:
            return Scale(factor=factor, unit=_join(prefix, unit))
    return Scale(factor=1.0, unit=unit)


def change(before: float | None, after: float | None, *, less: str, more: str) -> str | None:
    """ "3.57× smaller", "1.19× more", "unchanged"; None when there is nothing to compare."""
    if before is None or after is None or before <= 0 or after <= 0:
        return None
    if before == after:
        return "unchanged"
    ratio, word = (before / after, less) if after < before else (after / before, more)
    return f"{ratio:,.2f}× {word}" if ratio >= 1.005 else f"{100 * (ratio - 1):.1g} % {word}"


def percent(value: float | None, decimals: int = 2) -> str:
    return NOT_MEASURED if value is None else minus(f"{value:.{decimals}f} %")


def decibel(value: float | None) -> str:
    return NOT_MEASURED if value is None else minus(f"{value:.1f} dB")


def minus(text: str) -> str:
    """A leading hyphen as a real minus sign, as wide as a plus."""
    return text.replace("-", "\u2212", 1) if text.startswith("-") else text


def seconds(value: float | None) -> str:
    if value is None:
        return NOT_MEASURED
    return f"{value:.2f}" if value >= 0.005 or value == 0 else "<0.01"


def significant(value: float | None, digits: int = 4) -> str:
    """A general number: ``digits`` significant ones, thousands separated, exponent only when it must be."""
    if value is None:
        return NOT_MEASURED
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    if 1e-3 <= abs(value) < 1e6:
        return f"{value:,.{max(0, digits - 1 - _exponent(value))}f}"
    return f"{value:.{digits - 1}e}"


def with_unit(value: float | None, unit: str) -> str:
    """A figure in the unit that a gate or a measurement names."""
    if value is None:
        return NOT_MEASURED
    if unit in ("bytes", "B"):
        return scale_for([value], "B").text(value)
    if unit in ("instructions", "MACs", "misses", "accesses"):
        return scale_for([value], unit).text(value)
    if unit in ("%", "percent"):
        return percent(value)
    if unit in ("points", "percentage points"):
        return minus(f"{value:.2f} points")
    if unit in ("dB", "db"):
        return decibel(value)
    return f"{significant(value)} {unit}".strip()


def words(name: str) -> str:
    """An identifier as words: ``output_sqnr`` becomes "output SQNR"."""
    return " ".join(_ACRONYMS.get(word, word) for word in name.replace("_", " ").split(" "))


def _join(prefix: str, unit: str) -> str:
    # "kB" is one word, "M MACs" and "M instructions" are two.
    return f"{prefix}{unit}" if len(unit) <= 1 or not prefix else f"{prefix} {unit}"


def _decimals_for(scaled: float) -> int:
    return 0 if abs(scaled) >= 1000 else 1 if abs(scaled) >= 100 else 2


def _exponent(value: float) -> int:
    return int(f"{abs(value):e}".split("e")[1])
