"""What two files of one network cost by kind of operator, and which kinds account for the difference.

Runtimes name one operator in many ways: "Convolution (NHWC, QC8) IGEMM" of XNNPACK in int8, "Convolution
(NHWC, F32) IGEMM #3" in float32, "HARD_SWISH" of the built-in kernel that runs where the delegate has none,
"quantized::conv2d_relu" of torch. A kind is what is left without data types, layouts, running numbers and the
words for how the product is computed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

_DETAIL = re.compile(r"\([^)]*\)|#\d+|\b(GEMM|IGEMM|Reduce\d*|ND|NC)\b")
_PRECISION = re.compile(r"^qlinear | (relu|dynamic)$")
"""What a quantised operator's name has besides, or the activation that it has taken up."""
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_ALIASES: Mapping[str, str] = {
    "conv": "convolution",
    "conv 1d": "convolution",
    "conv 2d": "convolution",
    "fused conv": "convolution",
    "gemm": "fully connected",
    "fused gemm": "fully connected",
    "qgemm": "fully connected",
    "addmm": "fully connected",
    "linear": "fully connected",
    "mat mul": "matmul",
    "convolution dwconv": "depthwise convolution",
    "depthwise conv 2d": "depthwise convolution",
    "mul": "multiply",
    "logistic": "sigmoid",
    "hardswish": "hard swish",
    "invalid unary op": "value by table",
}
"""Names of one operator in a delegate and outside of it. "Invalid Unary Op" is what XNNPACK of LiteRT 2.3
calls the table that it makes of a chain of operators on one int8 value."""

_EXPLAINED = 0.8
"""Kinds are named until they account for this share of what speaks for, or against, the second file."""


@dataclass(frozen=True, kw_only=True)
class KindCost:
    """One kind of operator in both files: the sum of its cost, and how many there are; 0 where none is."""

    kind: str
    before: float
    after: float
    before_ops: int
    after_ops: int

    @property
    def change(self) -> float:
        """What the second file pays more."""
        return self.after - self.before


def kind_of(name: str) -> str:
    """The kind of an operator by the name that a runtime's profile gives it, in lower case."""
    plain = _CAMEL.sub(" ", _DETAIL.sub(" ", name.rpartition("::")[2]).strip("_ ").replace("_", " "))
    words = " ".join(re.sub(r"(?<=[A-Za-z])(?=\d)", " ", plain).lower().split())
    words = _PRECISION.sub("", words)
    return _ALIASES.get(words, words) or name


def totals(ops: Iterable[Mapping[str, object]], unit: str) -> dict[str, tuple[int, float]]:
    """How many operators of each kind a profile has, and the sum of their ``unit`` ("us", "instructions").

    A kind is that of an operator's type, "op", where the profile tells it, else of its "name".
    """
    found: dict[str, tuple[int, float]] = {}
    for op in ops:
        kind = kind_of(str(op.get("op") or op["name"]))
        count, cost = found.get(kind, (0, 0.0))
        found[kind] = count + 1, cost + float(str(op[unit]))
    return found


def compare_kinds(
    before: Mapping[str, tuple[int, float]], after: Mapping[str, tuple[int, float]]
) -> list[KindCost]:
    """Both files kind by kind, the largest difference first; kinds that cost nothing in both are left out."""
    rows = [
        KindCost(
            kind=kind,
            before=before.get(kind, (0, 0.0))[1],
            after=after.get(kind, (0, 0.0))[1],
            before_ops=before.get(kind, (0, 0.0))[0],
            after_ops=after.get(kind, (0, 0.0))[0],
        )
        for kind in dict.fromkeys((*before, *after))
    ]
    rows = [r for r in rows if r.before or r.after]
    return sorted(rows, key=lambda r: (-abs(r.change), r.kind))


def main_causes(rows: Sequence[KindCost]) -> list[KindCost]:
    """The kinds that account for most of the difference: of those that cost more and of those that cost less
    each the largest, until 80 % of either sum is named."""
    found = []
    for sign in (1, -1):
        side = [r for r in rows if sign * r.change > 0]
        whole, named = sum(abs(r.change) for r in side), 0.0
        for row in side:
            if named >= _EXPLAINED * whole:
                break
            found.append(row)
            named += abs(row.change)
    return sorted(found, key=lambda r: -abs(r.change))


def explained(rows: Sequence[KindCost], unit: str) -> str:
    """ "hard swish +778 us (19), fully connected -325 us (42 to 40)": the main causes in words."""
    return ", ".join(f"{r.kind} {amount(r.change, unit)} ({_counts(r)})" for r in main_causes(rows))


def amount(value: float, unit: str) -> str:
    """A difference with its sign, in millions or thousands where it is a count of instructions."""
    if unit == "us":
        return f"{value:+.0f} us"
    return f"{value / 1e6:+.2f} M" if abs(value) >= 1e5 else f"{value / 1e3:+.1f} k"


def _counts(row: KindCost) -> str:
    return f"{row.before_ops}" if row.before_ops == row.after_ops else f"{row.before_ops} to {row.after_ops}"
