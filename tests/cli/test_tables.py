"""Tables of the command line on terminals of usual widths: nothing is cut off, long texts wrap."""

from __future__ import annotations

import io
from typing import Any

import pytest

from edgekit.cli import console

REASON = (
    "NNAPI takes FULLY_CONNECTED only with one weight scale per tensor, not one per channel, and only with "
    "constant weights: build per-tensor weights with --set quantize.per_channel=false"
)
NAME = "StatefulPartitionedCall/model/very_long_scope_name/depthwise_conv2d_17/BiasAdd;Relu6"


@pytest.fixture(params=[80, 120])
def terminal(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A terminal of that width; returns (width, a function that gives its lines)."""
    from rich.console import Console

    text = io.StringIO()
    made = Console(
        file=text, force_terminal=True, width=request.param, color_system=None, legacy_windows=False
    )
    monkeypatch.setattr(console, "console", lambda: made)
    return request.param, lambda: text.getvalue().splitlines()


def test_reasons_wrap_and_stay_whole(terminal: Any) -> None:
    width, lines = terminal
    console.print_table(
        ("delegate", "does not take", "because"),
        [("nnapi", "FULLY_CONNECTED #15", REASON), ("gpu", "x", "y")],
    )
    assert max(map(len, lines())) <= width
    cells = [line.split("│")[3].strip() for line in lines() if line.startswith("│")]
    assert " ".join(cells).startswith(REASON)


def test_operators_fit_and_names_are_not_cut(terminal: Any) -> None:
    width, lines = terminal
    row = ("107", "DEPTHWISE_CONV_2D", "int8", "1x112x112x96", "10,838,016", "12,345", "all", NAME)
    console.print_table(("#", "op", "precision", "output", "MACs", "bytes", "taken", "name"), [row])
    shown = lines()
    assert max(map(len, shown)) <= width
    assert "1x112x112x96" in "".join(shown) and "10,838,016" in "".join(shown), "figures stay on one line"
    for column in ("precision", "name"):
        assert any(column in line for line in shown)
    letters = "".join(line.replace("│", " ").split()[-1] for line in shown if line.strip(" ┏┳┡╇━┩┓└┴─┘"))
    assert letters.endswith(NAME), "the name is folded, not cut"


def test_labels_keep_their_column(terminal: Any) -> None:
    width, lines = terminal
    console.print_rows([("Problem 1", "aten.roll.default at features.3"), ("  why", REASON)])
    shown = lines()
    assert max(len(line.rstrip()) for line in shown) <= width
    first = shown[0].index("aten.roll")
    assert all(line[:first].strip() in ("Problem 1", "why", "") for line in shown)
    assert " ".join(line[first:].strip() for line in shown[1:]) == REASON
