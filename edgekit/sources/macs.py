"""Count multiply-accumulates of a torch module. Imported when a model is loaded: it needs torch.

The formulas are torch's own (torch.utils.flop_counter.flop_registry). Its FlopCounterMode is not
used: it imports torch._dynamo at the first operator, 1.3 s that every cached build would pay.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

_aten = torch.ops.aten


def count_macs(module: torch.nn.Module, inputs: Sequence[torch.Tensor]) -> int | None:
    """Multiply-accumulates of one forward pass: convolutions and matrix products, biases left out.

    Half of torch's floating-point operations. Recurrent layers and attention are run on their
    decomposed paths so that their products are seen. None when the module cannot be run under the
    counter (it did run without: what fails is the counting, and the figure is unknown).
    """
    recurrent = any(isinstance(part, torch.nn.RNNBase) for part in module.modules())
    fast_attention = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    counter = _Counter()
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            torch.no_grad(),
            torch.backends.mkldnn.flags(enabled=False) if recurrent else contextlib.nullcontext(),
            counter,
        ):
            module(*(t.clone() for t in inputs))
    except Exception:
        return None
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_attention)
    return counter.flops // 2


def _matrix_vector(*args: Any, **_: Any) -> int:
    matrix = args[-2]  # mv(a, x), addmv(y, a, x)
    return 2 * int(matrix.numel())


def _dot(a: torch.Tensor, *_: Any, **__: Any) -> int:
    return 2 * a.numel()


def _attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any) -> int:
    """q k^T and then scores v: (..., q, d) x (..., k, d) x (..., k, e)."""
    batch_and_queries = query.numel() // query.shape[-1]
    return 2 * batch_and_queries * key.shape[-2] * (query.shape[-1] + value.shape[-1])


# Not in torch's registry: matrix-vector products and the CPU's fused attention.
_MORE: dict[Any, Callable[..., int]] = {
    _aten.mv: _matrix_vector,
    _aten.addmv: _matrix_vector,
    _aten.dot: _dot,
    _aten._scaled_dot_product_flash_attention_for_cpu: _attention,
}


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # True would wrap __torch_dispatch__ so that its first call imports torch._dynamo.
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        formula = _MORE.get(func._overloadpacket) or flop_registry.get(func._overloadpacket)
        if formula is None:
            # A composite operator (a fused attention, say) may consist of products.
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
            return func(*args, **kwargs)
        out = func(*args, **kwargs)
        self.flops += int(formula(*args, **kwargs, out_val=out))
        return out
