"""Inline SVG bars. Only rectangles are drawn: text stays in HTML, so charts stretch and text does not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

_STEP = 10.0
_HEIGHT = 100.0
_MIN_VISIBLE = 1.5
"""A figure that is not 0 is drawn at least this high, so that a small one is not taken for a missing one."""


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One bar of a strip: None leaves a gap. ``kind`` is a CSS class of the house style."""

    value: float | None
    kind: str
    title: str


def strip(bars: Sequence[Bar], *, label: str) -> Markup:
    """Upright bars side by side, one for each layer in the order of the model; 0 at the bottom."""
    top = max((b.value for b in bars if b.value), default=0.0)
    drawn = [
        _rectangle(i * _STEP + 1, _length(b.value, top), b) for i, b in enumerate(bars) if b.value is not None
    ]
    width = max(len(bars), 1) * _STEP
    return Markup(
        '<svg class="strip" role="img" aria-label="{}" viewBox="0 0 {} {}"'
        ' preserveAspectRatio="none">{}</svg>'
    ).format(label, f"{width:g}", f"{_HEIGHT:g}", Markup("").join(drawn))


@dataclass(frozen=True, kw_only=True)
class Mark:
    """One point of a scatter chart. ``kind`` is a CSS class of the house style."""

    x: float
    y: float
    kind: str
    title: str


def scatter(marks: Sequence[Mark], *, label: str) -> Markup:
    """Points on axes that reach from the least to the greatest value; greater values right and up."""
    size, room = 200.0, 12.0
    xs, ys = [m.x for m in marks], [m.y for m in marks]

    def place(value: float, values: Sequence[float]) -> float:
        low, high = min(values), max(values)
        share = 0.5 if high == low else (value - low) / (high - low)
        return room + share * (size - 2 * room)

    drawn = [
        Markup('<rect class="mark {}" x="{}" y="{}" width="7" height="7"><title>{}</title></rect>').format(
            m.kind, f"{place(m.x, xs) - 3.5:.1f}", f"{size - place(m.y, ys) - 3.5:.1f}", escape(m.title)
        )
        for m in marks
    ]
    return Markup('<svg class="scatter" role="img" aria-label="{}" viewBox="0 0 {} {}">{}</svg>').format(
        label, f"{size:g}", f"{size:g}", Markup("").join(drawn)
    )


def inline_bar(value: float | None, top: float, kind: str) -> Markup:
    """A small level bar beside a number in a table; hidden from screen readers, which read the number."""
    if value is None or top <= 0:
        return Markup("")
    width = min(100.0, _length(value, top))
    return Markup(
        '<svg class="level" aria-hidden="true" viewBox="0 0 100 8" preserveAspectRatio="none">'
        '<rect class="track" width="100" height="8"/><rect class="{}" width="{}" height="8"/></svg>'
    ).format(kind, f"{width:.2f}")


def before_after(before: float | None, after: float | None) -> Markup:
    """Two level bars on one scale: the original above, the built model below."""
    if before is None or after is None or max(before, after) <= 0:
        return Markup("")
    top = max(before, after)
    return Markup(
        '<svg class="pair" aria-hidden="true" viewBox="0 0 100 14" preserveAspectRatio="none">'
        '<rect class="before" width="{}" height="5"/><rect class="after" y="8" width="{}" height="5"/></svg>'
    ).format(f"{_length(before, top):.2f}", f"{_length(after, top):.2f}")


def _length(value: float | None, top: float) -> float:
    if not value or top <= 0:
        return 0.0
    return max(_MIN_VISIBLE, _HEIGHT * value / top)


def _rectangle(x: float, height: float, bar: Bar) -> Markup:
    return Markup('<rect class="{}" x="{}" y="{}" width="{}" height="{}"><title>{}</title></rect>').format(
        bar.kind, f"{x:g}", f"{_HEIGHT - height:.2f}", f"{_STEP - 2:g}", f"{height:.2f}", escape(bar.title)
    )
