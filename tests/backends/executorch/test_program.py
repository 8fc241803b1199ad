"""The normalised graph: folded, without paths of this machine, and the user's module left alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgekit.backends.executorch.program import capture, load, op_name, save, unit_nodes, unit_of
from edgekit.errors import Unsupported


def run(program: Any, sample: Any) -> Any:
    import torch

    with torch.no_grad():
        return program.module(check_guards=False)(*(torch.from_numpy(x) for x in sample)).numpy()


def test_it_computes_what_the_module_does_and_leaves_it_alone(awkward: Any, images: Any) -> None:
    import torch

    before = {k: v.clone() for k, v in awkward.state_dict().items()}
    program = capture(awkward, images[0])
    with torch.no_grad():
        want = awkward(torch.from_numpy(images[1][0])).numpy()
    np.testing.assert_allclose(run(program, images[1]), want, atol=1e-5 * np.abs(want).max())
    after = awkward.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_operators_have_the_form_that_xnnpack_takes(awkward: Any, images: Any) -> None:
    nodes = unit_nodes(capture(awkward, images[0]).graph)
    names = [op_name(n) for n in nodes]
    assert names.count("hardtanh") == 2 and "relu6" not in names
    assert not any("batch_norm" in n for n in names), "folded into the convolution before it"
    mean = nodes[names.index("mean")]
    assert mean.args[1:3] == ([2, 3], True) and names[names.index("mean") + 1] == "reshape"


def test_units_bear_module_paths_and_are_unique(awkward: Any, images: Any) -> None:
    names = [unit_of(n) for n in unit_nodes(capture(awkward, images[0]).graph)]
    assert len(set(names)) == len(names)
    assert {"first/conv2d", "second/conv2d_1", "head/linear"} <= set(names)


def test_nothing_of_this_machine_is_kept(awkward: Any, images: Any, tmp_path: Any) -> None:
    saved = save(capture(awkward, images[0]))
    assert __file__.rpartition("/")[0].encode() not in saved and b"conftest.py" not in saved
    path = tmp_path / "program.pt2"
    path.write_bytes(saved)
    again = load(path)
    assert [unit_of(n) for n in unit_nodes(again.graph)] == [
        unit_of(n) for n in unit_nodes(capture(awkward, images[0]).graph)
    ]


def test_in_place_operators_and_shared_storage_keep_their_meaning() -> None:
    import torch

    class Net(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x * 2
            torch.relu_(y)
            return y + 1

    sample = [np.linspace(-1, 1, 6, dtype=np.float32).reshape(1, 6)]
    np.testing.assert_allclose(run(capture(Net(), sample), sample), np.maximum(2 * sample[0], 0) + 1)


def test_a_refusal_of_torch_export_is_told() -> None:
    import torch

    class Net(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1 if x.sum() > 0 else x - 1

    with pytest.raises(Unsupported, match=r"torch\.export refuses") as caught:
        capture(Net(), [np.ones((1, 2), np.float32)])
    assert "control flow" in (caught.value.hint or "")
