"""What running a torch module once tells: outputs and their names, parameters, MACs, finite or not."""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgekit.errors import SourceError
from edgekit.sources.callables import UserCode, blame
from edgekit.types import Task, TensorSpec

if TYPE_CHECKING:
    import torch

_SEED = 0

INDEX_LIMIT = 2
"""Random indices are below this: valid in every table that is one."""


def random_inputs(
    shapes: Sequence[tuple[int, ...]], dtypes: Sequence[str | None] | None = None
) -> tuple[torch.Tensor, ...]:
    """Seeded tensors; the same for the same shapes and types, whatever ran before.

    ``dtypes`` are numpy names, None for float32. Floats are standard normal; integers are 0 or 1, since
    nothing says how large an index may be, and every table has at least two rows. Raises SourceError when
    this machine has not the memory for them.
    """
    import torch

    generator = torch.Generator().manual_seed(_SEED)

    def draw(shape: tuple[int, ...], dtype: str | None) -> torch.Tensor:
        kind: torch.dtype = getattr(torch, dtype or "float32")
        if kind.is_floating_point:
            return torch.randn(shape, generator=generator).to(kind)
        return torch.randint(0, INDEX_LIMIT, shape, generator=generator).to(kind)

    try:
        return tuple(map(draw, shapes, dtypes or [None] * len(shapes)))
    except RuntimeError as exc:  # torch's allocator and its overflow checks raise no subclass
        shown = ", ".join(str(tuple(shape)) for shape in shapes)
        raise SourceError(
            f"an input of shape {shown} does not fit into this machine's memory", hint="check --input-shape"
        ) from exc


def run_once(
    module: torch.nn.Module, inputs: Sequence[torch.Tensor], *, source: str, code: UserCode | None = None
) -> dict[str, torch.Tensor]:
    """Forward ``inputs`` in eval mode without gradients; the outputs, flattened, by name.

    Raises SourceError naming the user's file and line and the shapes given when forward fails.
    """
    import torch

    shapes = ", ".join(str(tuple(t.shape)) for t in inputs)
    try:
        with torch.no_grad(), code.running() if code else contextlib.nullcontext():
            result = module(*(t.clone() for t in inputs))
    except Exception as exc:
        where = blame(exc)
        wanted = forward_names(module)
        lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
        reason = next(
            (line for line in reversed(lines) if "Error" in line), lines[0] if lines else "(no message)"
        )
        hint = "check --input-shape (batch first, for example 1,3,224,224) against what the model takes"
        if re.search(r"scalar type|same dtype|of dtype", reason):
            hint = "samples and weights must have one dtype; float models have to be float32: model.float()"
        if re.search(r"indices.*(Long|Int)|must be long, int|IndexError", reason) and all(
            t.is_floating_point() for t in inputs
        ):
            hint = (
                "forward takes indices, such as token ids: write --input-shape 1,16:int64, or give integer "
                "calibration data (--calib)"
            )
        if wanted and len(wanted) != len(inputs):
            hint = (
                f"forward takes {len(wanted)} inputs ({', '.join(wanted)}): give --input-shape once for each"
            )
        raise SourceError(
            f"the forward pass of {source} failed{f' at {where}' if where else ''} with input"
            f"{'s' if len(inputs) > 1 else ''} of shape {shapes}: {type(exc).__name__}: {reason[:400]}",
            hint=hint,
        ) from exc
    outputs = dict(flatten_outputs(result))
    if not outputs:
        raise SourceError(
            f"the forward pass of {source} returned {_describe(result)}, not tensors",
            hint="return a tensor, or a dict, tuple or list of tensors",
        )
    return outputs


def flatten_outputs(result: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Named tensors of a forward result.

    A tensor is "output"; dict entries keep their keys; the i-th entry of a tuple or list is
    "output_i", of a named tuple its field; nested names are joined by "_". None is left out.
    """
    import torch

    if isinstance(result, torch.Tensor):
        yield "output", result
        return

    def walk(value: Any, name: str) -> Iterator[tuple[str, torch.Tensor]]:
        if isinstance(value, torch.Tensor):
            yield name, value
        elif isinstance(value, Mapping):
            for key, item in value.items():
                yield from walk(item, f"{name}_{key}" if name else str(key))
        elif isinstance(value, (tuple, list)):
            fields = getattr(value, "_fields", None)
            for i, item in enumerate(value):
                own = fields[i] if fields else str(i) if name else f"output_{i}"
                yield from walk(item, f"{name}_{own}" if name else own)

    seen: set[str] = set()
    for name, tensor in walk(result, ""):
        unique, n = name, 1
        while unique in seen:
            unique, n = f"{name}_{n}", n + 1
        seen.add(unique)
        yield unique, tensor


def check_finite(module: torch.nn.Module, source: str) -> None:
    """Raise SourceError naming the first parameter or buffer that holds NaN or infinity."""
    import torch

    for kind, named in (("parameter", module.named_parameters()), ("buffer", module.named_buffers())):
        for name, tensor in named:
            if not (tensor.is_floating_point() or tensor.is_complex()):
                continue
            if kind == "buffer" and torch.isinf(tensor).any() and not torch.isnan(tensor).any():
                continue  # attention masks hold -inf on purpose
            bad = int((~torch.isfinite(tensor)).sum())
            if bad:
                raise SourceError(
                    f"{kind} {name!r} of {source} holds {bad} NaN or infinite values of {tensor.numel()}",
                    hint="load other weights: nothing downstream can mend these",
                )


def check_outputs(outputs: Mapping[str, torch.Tensor], source: str) -> None:
    """Raise SourceError when an output holds NaN (infinity too: no integer format can carry it)."""
    import torch

    for name, tensor in outputs.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            bad = int((~torch.isfinite(tensor)).sum())
            raise SourceError(
                f"output {name!r} of {source} holds {bad} NaN or infinite values of {tensor.numel()}",
                hint="run the model on one sample in float32 and look for overflow, log(0) or 0/0",
            )


def forward_names(module: torch.nn.Module) -> tuple[str, ...]:
    """Names of forward's required positional arguments; () when it takes ``*args`` or is not Python."""
    try:
        parameters = inspect.signature(module.forward).parameters.values()
    except (TypeError, ValueError):
        return ()
    if any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters):
        return ()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(p.name for p in parameters if p.kind in kinds and p.default is p.empty)


def input_specs(inputs: Sequence[torch.Tensor], names: Sequence[str]) -> tuple[TensorSpec, ...]:
    """Specs of the inputs. 4-D means NCHW, torch's convention."""
    chosen = names if len(names) == len(inputs) else [f"input_{i}" for i in range(len(inputs))]
    return tuple(_spec(name, tensor) for name, tensor in zip(chosen, inputs, strict=True))


def output_specs(outputs: Mapping[str, torch.Tensor]) -> tuple[TensorSpec, ...]:
    return tuple(_spec(name, tensor) for name, tensor in outputs.items())


def guess_task(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> Task:
    """Classification when the single output is float (batch, C) with C >= 2, else generic.

    An output of an input's own shape (an autoencoder, a denoiser) is no vector of class scores.
    """
    if len(outputs) != 1 or not outputs[0].dtype.startswith("float"):
        return "generic"
    shape = outputs[0].shape
    if any(shape == given.shape for given in inputs):
        return "generic"
    scores = len(shape) == 2 and shape[0] == inputs[0].shape[0] and shape[1] >= 2
    return "classification" if scores else "generic"


def count_params(module: torch.nn.Module) -> int:
    """Number of parameter values (shared ones once, buffers not)."""
    return sum(p.numel() for p in module.parameters())


def _spec(name: str, tensor: torch.Tensor) -> TensorSpec:
    shape = tuple(int(d) for d in tensor.shape)
    if any(d < 1 for d in shape):
        raise SourceError(
            f"tensor {name!r} has the shape {shape}",
            hint="every dimension must be at least 1: check --input-shape",
        )
    dtype = str(tensor.dtype).removeprefix("torch.")
    return TensorSpec(name=name, shape=shape, dtype=dtype, layout="NCHW" if len(shape) == 4 else None)


def _describe(value: Any) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"
