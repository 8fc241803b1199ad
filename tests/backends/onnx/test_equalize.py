"""Channels before depthwise convolutions: the same function, one range."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgekit.backends.onnx import equalize
from edgekit.backends.onnx.graph import graph_of
from edgekit.backends.onnx.session import Reader, open_session


@pytest.fixture(scope="module", params=["relu", "relu6", "none"])
def depthwise(request: pytest.FixtureRequest, export_net: Callable[..., Any]) -> Any:
    """Expand, activation, depthwise, project; channels of the first differ a thousandfold."""
    import torch
    from torch import nn

    between = {"relu": nn.ReLU(), "relu6": nn.ReLU6(), "none": nn.Identity()}[request.param]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, 8, 1),
            between,
            nn.Conv2d(8, 8, 3, padding=1, groups=8),
            nn.ReLU(),
            nn.Conv2d(8, 4, 1),
        )
        with torch.no_grad():
            loud = torch.logspace(-3, 0, 8)
            net[0].weight.mul_(loud[:, None, None, None])
            net[0].bias.mul_(loud)
            net[2].weight.div_(loud[:, None, None, None])
    rng = np.random.default_rng(0)
    return export_net(net, [[rng.standard_normal((1, 3, 6, 6), dtype=np.float32)] for _ in range(12)])


def test_the_function_stays_and_ranges_meet(depthwise: Any) -> None:
    graph = depthwise.graph()
    found = equalize.pairs(graph)
    assert [p.reader.attribute("group") for p in found] == [8]
    tensor = found[0].tensor
    read = Reader(depthwise.artifact, [tensor])
    factors = equalize.factors(found, read, depthwise.samples, levels=1 << 20)
    assert factors[tensor].min() >= 1 and factors[tensor].max() > 10
    made = equalize.equalized(graph, found, factors)
    session = open_session(made.SerializeToString())
    for (x,) in depthwise.samples:
        (got,) = session.run(None, {graph.inputs[0]: x})
        (want,) = depthwise.backend.session(depthwise.artifact).run([x])
        np.testing.assert_allclose(got, want, atol=1e-4 * np.abs(want).max())

    def spread(read: Any) -> float:
        tops = np.max([np.abs(v).max((0, 2, 3)) for s in depthwise.samples for _, v in read(s)], axis=0)
        return float(tops.max() / tops.min())

    after = spread(Reader(depthwise.artifact, [tensor], graph_of(made)))
    assert after < spread(read) / 5


def test_it_is_taken_where_it_helps_and_taps_undo_it(depthwise: Any) -> None:
    made = depthwise.quantized()
    names = list(made.meta["equalized_units"])
    assert names
    want = depthwise.backend.session(depthwise.artifact, keep_all=True).taps(depthwise.samples[0], names)
    got = depthwise.backend.session(made, keep_all=True).taps(depthwise.samples[0], names)
    for name in names:
        np.testing.assert_allclose(got[name], want[name], atol=0.05 * np.abs(want[name]).max())
    assert depthwise.sqnr(made) > 30


def test_a_kept_convolution_is_left_alone(depthwise: Any) -> None:
    pair = equalize.pairs(depthwise.graph())[0]
    made = depthwise.quantized(overrides={pair.reader.name: "float32"})
    assert "equalized_units" not in made.meta
