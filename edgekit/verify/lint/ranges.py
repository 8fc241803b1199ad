"""Whether what a rule has found matters, by the values that calibration samples give there.

Every criterion counts levels: int8 has 256 of them for a tensor's whole range, here that between the true
extremes of the samples. They were set so that nets that int8 serves well stay silent: the thresholds are
judgements, and each finding tells the figure that it was judged by.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from edgekit.verify.lint import rules
from edgekit.verify.lint.finding import Finding

if TYPE_CHECKING:
    import torch

SAMPLES = 32
"""Calibration samples that are looked at."""

_LEVELS = 255
_FLAT_BELOW = {"silu": -6.0, "hard-swish": -3.0}
"""Below, the activation gives (almost) nothing: -0.015 at most for SiLU, 0 for hard-swish."""
_LOWEST = {"silu": 0.278, "hard-swish": 0.375}
"""Depth of the negative side of the result."""
_WASTED = 0.5
"""Share of the input's range in the flat part: half of it is one bit of eight."""
_FEW = 4
"""Levels of the negative side."""
_FEW_OF_A_BRANCH = 16
"""Levels of the smaller summand: four bits."""
_FEW_OF_A_GATE = 16
_FEW_OF_A_CHANNEL, _STARVED = 8, 0.5
"""Levels of a gated channel, and the share of channels with fewer that is too much."""
_WIDENED = 1.25


@dataclass
class _Seen:
    """Extremes of a tensor over all samples, and of each channel (second axis) where it has such."""

    low: float
    high: float
    channels: Any = None

    @property
    def width(self) -> float:
        """From the lowest to the highest value, zero included: int8 ranges hold zero."""
        return max(self.high, 0.0) - min(self.low, 0.0)


def measured(
    program: torch.fx.GraphModule, findings: Sequence[Finding], samples: Sequence[Sequence[torch.Tensor]]
) -> list[Finding]:
    """``findings`` in ``program``, each with ``matters`` and ``measured``.

    ``program`` is an exported module (``ExportedProgram.module()``) in eval mode, ``samples`` are lists of
    (1, ...) tensors, one per input. A finding that needs no data keeps what it says.
    """
    nodes = {n.name: n for n in program.graph.nodes}
    wanted = {x for f in findings for x in _watched(f, nodes[f.node])}
    seen = _extremes(program, wanted, samples)
    judges: Mapping[str, Callable[[Finding, Any, Mapping[Any, _Seen]], tuple[bool, str, float]]] = {
        "silu": _activation,
        "hard-swish": _activation,
        "squeeze-excite": _gate,
        "residual-scale": _residual,
        "pad-before-max-pool": _padding,
    }
    told = []
    for finding in findings:
        if finding.matters is None and all(x in seen for x in _watched(finding, nodes[finding.node])):
            matters, text, loss = judges[finding.rule](finding, nodes[finding.node], seen)
            told.append(replace(finding, matters=matters, measured=text, loss=loss))
        else:
            told.append(finding)
    return told


def _watched(finding: Finding, node: Any) -> tuple[Any, ...]:
    """Nodes whose values decide."""
    match finding.rule:
        case "squeeze-excite":
            gated = rules.gate_of(node)
            return (node, gated[1]) if gated else (node,)
        case "residual-scale":
            return (node, *(rules.summands(node) or ()))
        case "pad-before-max-pool":
            return (node.args[0],)
        case _:
            return (node, _source(node))


def _source(node: Any) -> Any:
    """What an activation reads; of x * sigmoid(x) it is x."""
    if rules.operator(node) != "mul":
        return node.args[0]
    a, b = node.args[:2]
    return a if rules.operator(b) in ("sigmoid", "hardsigmoid") and b.args[0] is a else b


def _activation(finding: Finding, node: Any, seen: Mapping[Any, _Seen]) -> tuple[bool, str, float]:
    given, made = seen[_source(node)], seen[node]
    flat = _FLAT_BELOW[finding.rule]
    wasted = max(0.0, flat - given.low) / given.width if given.width else 0.0
    low = min(-made.low, _LOWEST[finding.rule])
    levels = low / (made.width / _LEVELS) if made.width else float(_LEVELS)
    text = (
        f"{100 * wasted:.0f} % of its input's range [{given.low:.3g}, {given.high:.3g}] lies below {flat:g}, "
        f"where it is flat, and its negative side has {levels:.0f} of {_LEVELS} levels"
    )
    few = levels < _FEW and low > _LOWEST[finding.rule] / 2  # a side that is hardly used has nothing to lose
    return wasted > _WASTED or few, text, max(wasted, 1 - levels / _LEVELS if few else 0.0)


def _gate(finding: Finding, node: Any, seen: Mapping[Any, _Seen]) -> tuple[bool, str, float]:
    gated = rules.gate_of(node)
    assert gated is not None
    gate, made = seen[gated[1]], seen[node]
    levels = 256 * (gate.high - gate.low)  # runtimes fix a sigmoid's scale at 1/256
    starved, live = 0, 1
    if made.channels is not None and made.width:
        widths = made.channels[1].clamp(min=0) - made.channels[0].clamp(max=0)
        alive = widths[widths > 0]
        live = max(1, int(alive.numel()))
        starved = int((alive < _FEW_OF_A_CHANNEL * made.width / _LEVELS).sum())
    share = starved / live
    text = (
        f"the gate takes {levels:.0f} of 256 levels, and {starved} of {live} channels have fewer than "
        f"{_FEW_OF_A_CHANNEL} of {_LEVELS} behind it"
    )
    return levels < _FEW_OF_A_GATE or share > _STARVED, text, max(share, 1 - levels / 256)


def _residual(finding: Finding, node: Any, seen: Mapping[Any, _Seen]) -> tuple[bool, str, float]:
    both = rules.summands(node)
    assert both is not None
    small, large = sorted((seen[x] for x in both), key=lambda s: s.width)
    step = max(seen[node].width, large.width) / _LEVELS
    levels = small.width / step if step else float(_LEVELS)
    text = (
        f"one summand spans {small.width:.3g} and the other {large.width:.3g}: {levels:.1f} of {_LEVELS} "
        "levels are left for the smaller"
    )
    return 0 < levels < _FEW_OF_A_BRANCH, text, 1 - levels / _LEVELS


def _padding(finding: Finding, node: Any, seen: Mapping[Any, _Seen]) -> tuple[bool, str, float]:
    given, value = seen[node.args[0]], rules.pad_value(node)
    widened = max(given.high, value, 0.0) - min(given.low, value, 0.0)
    factor = widened / given.width if given.width else 1.0
    text = (
        f"the constant is {value:g}, the values lie in [{given.low:.3g}, {given.high:.3g}]: the range grows "
        f"to {factor:.3g} times its width"
    )
    return factor > _WIDENED, text, factor


def _extremes(program: Any, wanted: set[Any], samples: Sequence[Sequence[torch.Tensor]]) -> dict[Any, _Seen]:
    """Extremes of the wanted nodes. What a node computes is read before a later one can write into it."""
    import torch

    seen: dict[Any, _Seen] = {}

    class Watch(torch.fx.Interpreter):
        def run_node(self, n: torch.fx.Node) -> Any:
            value = super().run_node(n)
            if n in wanted and isinstance(value, torch.Tensor) and value.is_floating_point():
                _add(seen, n, value.detach())
            return value

    with torch.no_grad():
        for sample in samples:
            Watch(program).run(*(x.clone() for x in sample))
    return seen


def _add(seen: dict[Any, _Seen], node: Any, value: torch.Tensor) -> None:
    import torch

    low, high = (float(v) for v in torch.aminmax(value))
    channels = None
    if value.dim() > 1:
        flat = value.transpose(0, 1).flatten(1)
        channels = torch.stack([flat.amin(1), flat.amax(1)])
    known = seen.get(node)
    if known is None:
        seen[node] = _Seen(low=low, high=high, channels=channels)
        return
    known.low, known.high = min(known.low, low), max(known.high, high)
    if channels is not None:
        known.channels = torch.stack(
            [torch.minimum(known.channels[0], channels[0]), torch.maximum(known.channels[1], channels[1])]
        )
