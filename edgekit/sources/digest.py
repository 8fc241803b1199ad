"""The identity of a model: one sha256 that changes whenever what it computes may have changed.

Goes in: every parameter and buffer (name, dtype, shape, bytes), the printed module tree, the plain
attributes of each module (numbers, strings, tensors, and containers of them), and the bytes of
every source file that the user's code consists of. Sources count in full because a forward method
is code: an edited ``forward`` with the same weights is another model.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.sources.callables import UserCode, user_modules

if TYPE_CHECKING:
    import torch

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_FRAMEWORK = "torch"


def module_digest(module: torch.nn.Module, code: UserCode | None) -> str:
    """Hex sha256 of a torch module and of the user code behind it."""
    import torch

    h = hashlib.sha256(b"edgekit model 1\0")
    for kind, named in (("p", module.named_parameters()), ("b", module.named_buffers())):
        for name, tensor in sorted(named, key=lambda item: item[0]):
            h.update(f"{kind}{name}\0".encode())
            _update_tensor(h, tensor)
    h.update(_ADDRESS.sub("", repr(module)).encode())
    skip = set(vars(torch.nn.Module())) - {"training"}
    for name, part in module.named_modules():
        for key, value in sorted(vars(part).items()):
            if key not in skip and key != "training":
                h.update(f"\0{name}.{key}=".encode())
                _update_value(h, value, depth=0)
        code_text = _graph_code(part)
        if code_text:
            h.update(f"\0{name}.code={code_text}".encode())
    for content in sorted(_sources(module, code)):
        h.update(b"\0source " + content)
    return h.hexdigest()


def _graph_code(part: torch.nn.Module) -> str:
    """The program of a ScriptModule or GraphModule, which no Python source file holds."""
    try:
        code = part.code
    except (AttributeError, RuntimeError):  # no forward of its own
        return ""
    return code if isinstance(code, str) else ""


def _sources(module: torch.nn.Module, code: UserCode | None) -> Iterable[bytes]:
    """Digests of the source files. Not their paths: moving a project must not change the model."""
    names = user_modules(code) if code else set()
    # Classes count even when they are installed: another release of the package, another forward.
    homes = {type(part).__module__ for part in module.modules()}
    names |= {home for home in homes if home.partition(".")[0] not in (_FRAMEWORK, "edgekit")}
    files = {getattr(sys.modules.get(name), "__file__", None) for name in names}
    return {hashlib.sha256(Path(f).read_bytes()).digest() for f in files if f and Path(f).is_file()}


def _update_tensor(h: Any, tensor: torch.Tensor) -> None:
    import torch

    plain = tensor.detach().cpu()
    if plain.layout != torch.strided or plain.is_quantized:
        plain = plain.dequantize() if plain.is_quantized else plain.to_dense()
    h.update(f"{tensor.dtype}{tuple(tensor.shape)}\0".encode())
    h.update(plain.contiguous().reshape(-1).view(torch.uint8).numpy().data)


def _update_value(h: Any, value: Any, depth: int) -> None:
    """Plain values by content, all else by type: an object's own state is not looked into."""
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        h.update(repr(value).encode())
    elif isinstance(value, np.ndarray) and value.dtype != object:
        h.update(f"{value.dtype}{value.shape}\0".encode() + value.tobytes())
    elif _is_tensor(value):
        _update_tensor(h, value)
    elif isinstance(value, Mapping) and depth < 4:
        for key in value:
            h.update(f"{{{key!s}:".encode())
            _update_value(h, value[key], depth + 1)
    elif isinstance(value, (list, tuple)) and depth < 4:
        for item in value:
            h.update(b"[,")
            _update_value(h, item, depth + 1)
    else:
        named = value if callable(value) and hasattr(value, "__qualname__") else type(value)
        h.update(f"<{named.__module__}.{named.__qualname__}>".encode())


def _is_tensor(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)
