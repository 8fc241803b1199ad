"""What the backend refuses before conversion, and what it does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.backends.torch_graph import trace
from edgekit.errors import UserError
from edgekit.types import Scheme


def problems(backend: Any, net: Any, sample: Any) -> Any:
    return backend.preflight(net, None, trace(net, sample), scheme=Scheme())


def test_an_onnx_file_is_refused_by_its_kind(tiny: Any) -> None:
    (found,) = tiny.backend.preflight(Path("model.onnx"), None, None, scheme=Scheme())
    assert "torch module" in found.reason and found.hint


def test_a_refusal_of_torch_export_is_a_problem(tiny: Any) -> None:
    import torch

    class Net(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1 if x.sum() > 0 else x - 1

    (found,) = problems(tiny.backend, Net(), [np.ones((1, 2), np.float32)])
    assert found.op == "torch.export" and "depends on the values" in found.reason


def test_an_operator_without_kernel_is_named_with_its_module(tiny: Any) -> None:
    import torch

    class Odd(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.svdvals(x)

    net = torch.nn.Sequential(torch.nn.Linear(4, 4), Odd())
    (found, *_) = problems(tiny.backend, net, [np.ones((1, 4, 4), np.float32)])
    assert found.where == "1" and "svd" in found.op and found.hint


def test_recurrent_and_token_models_pass(tiny: Any) -> None:
    import torch

    class Tokens(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = torch.nn.Embedding(10, 8)
            self.rnn = torch.nn.LSTM(8, 8, batch_first=True)
            self.head = torch.nn.Linear(8, 3)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.head(self.rnn(self.embed(ids))[0])

    assert problems(tiny.backend, Tokens().eval(), [np.zeros((1, 5), np.int64)]) == []


@pytest.mark.parametrize("data", [b"", b"PK not a program", b"\0" * 64])
def test_a_damaged_file_is_a_user_error(tiny: Any, tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "broken.pte"
    path.write_bytes(data)
    with pytest.raises(UserError):
        tiny.backend.open_file(path)


def test_a_cut_file_is_a_user_error(tiny: Any, tmp_path: Path) -> None:
    path = tmp_path / "cut.pte"
    path.write_bytes(tiny.artifact.path.read_bytes()[:400])
    with pytest.raises(UserError):
        tiny.backend.open_file(path)


def test_a_foreign_file_tells_its_calls(tiny: Any) -> None:
    opened = tiny.backend.open_file(tiny.artifact.path)
    units = tiny.backend.units(opened)
    assert [u.op for u in units] == ["XnnpackBackend"]
    facts, _ = tiny.backend.check(opened, Scheme())
    assert facts["partitions"] == 1
