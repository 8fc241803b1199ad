"""Importing and calling ExecuTorch and torchao without what they write to the log and to the terminal.

torchao warns on import of every GPU library that it cannot load; ExecuTorch's partitioner calls
``logging.basicConfig``, which would give the user's program a root handler that it never asked for; torch
warns of deprecated calls inside both. None of that is about the user's model.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import warnings
from collections.abc import Iterator

from edgekit.errors import MissingDependency

_MODULES = (
    "executorch.backends.xnnpack.partition.xnnpack_partitioner",
    "executorch.backends.xnnpack.quantizer.xnnpack_quantizer",
    "executorch.exir",
    "torchao.quantization.pt2e.quantize_pt2e",
)
_NOISY = ("torchao", "torch.utils._pytree", "torch.ao", "torch.export", "torch.fx", "executorch")


@functools.cache
def require_executorch() -> None:
    """Import the exporter and the quantiser once, quietly. Raises MissingDependency without them."""
    before = list(logging.root.handlers)
    try:
        with quiet():
            for name in _MODULES:
                importlib.import_module(name)
    except ImportError as exc:
        raise MissingDependency(
            f"the ExecuTorch backend needs executorch and torchao: {exc}",
            hint="pip install executorch==1.5.1 torchao==0.18.0",
        ) from exc
    finally:
        for handler in [h for h in logging.root.handlers if h not in before]:
            logging.root.removeHandler(handler)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hold back warnings of torch, torchao and executorch; errors are raised and logged as ever."""
    loggers = [logging.getLogger(name) for name in _NOISY]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
