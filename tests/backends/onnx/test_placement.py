"""What each delegate stores in eight bits, on a net with a sum, a Concat, a pooling and hardswish."""

from __future__ import annotations

from typing import Any

import pytest

from edgekit.backends.onnx.placement import RULES, place


def placed(joins: Any, delegate: str, keep: frozenset[str] = frozenset()) -> Any:
    return place(joins.graph(), RULES[delegate], keep, per_channel=True)


def writer(joins: Any, tensor: str) -> str:
    made = joins.graph().producers.get(tensor)
    return made.op if made is not None else "input"


@pytest.mark.parametrize("delegate", RULES)
def test_every_operator_with_weights_reads_integers(joins: Any, delegate: str) -> None:
    made = placed(joins, delegate)
    assert sorted(w.op.op for w in made.weighted) == ["Conv"] * 7 + ["Gemm"]
    stored = {*made.activations, *made.shared}
    assert all(w.input in stored for w in made.weighted)
    assert {w.axis for w in made.weighted} == {0}
    assert place(joins.graph(), RULES[delegate], frozenset(), per_channel=False).weighted[0].axis is None


def test_onnx_runtime_stores_what_convolutions_write_behind_relu_only(joins: Any) -> None:
    made = placed(joins, "cpu")
    kinds = {writer(joins, t) for t in made.activations}
    assert "Relu" in kinds and "Add" not in kinds, "a Relu behind a sum is folded into it"
    relu_of_conv = [op for op in joins.graph().ops if op.op == "Relu"]
    assert all(op.outputs[0] in made.activations for op in relu_of_conv)
    pool = next(op for op in joins.graph().ops if op.op == "MaxPool")
    assert made.shared[pool.outputs[0]] == (pool.inputs[0], pool.name)
    swish = next(op for op in joins.graph().ops if op.op == "HardSwish")
    assert swish.inputs[0] in made.activations, "there is no int8 hardswish: its convolution ends before it"
    assert not made.groups


def test_openvino_folds_hardswish_into_the_convolution(joins: Any) -> None:
    made = placed(joins, "openvino")
    swish = next(op for op in joins.graph().ops if op.op == "HardSwish")
    assert swish.inputs[0] not in made.activations and swish.outputs[0] in made.activations


def test_tensorrt_leaves_the_sum_to_the_convolution_before_it(joins: Any) -> None:
    """Only the other summand is stored: NVIDIA's advice for residual nets."""
    made, graph = placed(joins, "tensorrt"), joins.graph()
    for op in (o for o in graph.ops if o.op == "Add"):
        stored = [t for t in op.inputs if t in made.activations]
        assert len(stored) == 1
        other = next(t for t in op.inputs if t not in stored)
        assert graph.producers[other].op == "Conv"
        assert graph.producers[stored[0]].index < graph.producers[other].index
    assert not made.shared


def test_tensorrt_gives_concat_and_pooling_one_range(joins: Any) -> None:
    made, graph = placed(joins, "tensorrt"), joins.graph()
    concat = next(o for o in graph.ops if o.op == "Concat")
    assert any(set(concat.inputs) <= set(group) for group in made.groups)
    pool = next(o for o in graph.ops if o.op == "MaxPool")
    assert any({pool.inputs[0], pool.outputs[0]} <= set(group) for group in made.groups)


def test_kept_operators_have_no_integers_of_their_own(joins: Any) -> None:
    name = next(op.name for op in joins.graph().ops if op.op == "Gemm")
    made = placed(joins, "cpu", frozenset({name}))
    assert name not in {w.op.name for w in made.weighted} and len(made.weighted) == 7


def test_what_leads_from_no_convolution_to_no_weights_stays_float(export_net: Any) -> None:
    """The residual stream of a transformer, sums in front of outputs: only products read integers."""
    import numpy as np
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x + self.down(torch.relu(self.up(self.norm(x))))
            return x + x.mean(-1, keepdim=True)

    net = export_net(Block(), [[np.ones((1, 4, 8), dtype=np.float32)]])
    made = place(net.graph(), RULES["cpu"], frozenset(), per_channel=True)
    assert len(made.weighted) == 2
    assert set(made.activations) == {w.input for w in made.weighted}
