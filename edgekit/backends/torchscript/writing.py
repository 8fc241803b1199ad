"""Making artifacts: the float file from a module, the int8 files from the float one."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.backends import calibration, calibration_choice, ties
from edgekit.backends.calibration_methods import Method, methods_of
from edgekit.backends.torch_graph import tensors
from edgekit.backends.torchscript import archive, filegraph, lift, quantize, units
from edgekit.backends.torchscript.session import TorchScriptSession, zeros
from edgekit.errors import ConversionError, Unsupported, UserError
from edgekit.types import Artifact, Emit, ModelSpec, Precision, Scheme, TensorSpec, to_json

if TYPE_CHECKING:
    import torch

    from edgekit.store import Store
    from edgekit.types import Array

_PARITY = 1e-4
_DTYPES = ("float32", "int64", "int32", "bool", "uint8", "int8")


def export(
    source: Any,
    spec: ModelSpec,
    samples: Sequence[Sequence[Array]],
    *,
    store: Store,
    tools: Mapping[str, str],
) -> Artifact:
    """The float file of a torch module, traced with the shapes of ``samples``.

    Batch norms and zero paddings are folded into convolutions. A module that cannot be taken apart is saved
    as it was traced; the notes say why. Raises Unsupported for inputs of other types, ConversionError when
    the module cannot be traced.
    """
    for tensor in spec.inputs:
        if tensor.dtype not in _DTYPES:
            raise Unsupported(f"input {tensor.name!r} is {tensor.dtype}; files take {', '.join(_DTYPES)}")
    inputs = tensors(samples[0])
    script = _trace(source, inputs, freeze=False)
    want = _run(source, inputs)
    notes: list[str] = []
    names: Sequence[str] = ()
    try:
        lifted = lift.lift(filegraph.read(script).specialised(inputs), inputs)
        error = _difference(want, _run(lifted.module, inputs))
        if error > _PARITY:
            raise Unsupported(f"the module taken apart differs from the original by {error:.2g}")
        script, names = _trace(lifted.module, inputs), lifted.names
    except Unsupported as exc:
        notes.append(f"saved as traced, int8 is not possible: {exc}")
    meta = {"exporter": "torch.jit.trace", "exporter_notes": notes}
    return _stored(script, spec.inputs, spec.outputs, names, "float32", store=store, tools=tools, meta=meta)


def quantized(
    artifact: Artifact,
    samples: Sequence[Sequence[Array]],
    scheme: Scheme,
    *,
    refit: bool,
    store: Store,
    emit: Emit,
    tools: Mapping[str, str],
) -> Artifact:
    """The float file in another precision. Raises Unsupported for one that torch does not have, UserError for
    an override of an unknown unit."""
    if scheme.precision == "float32":
        return artifact
    if scheme.precision not in ("int8", "dynamic"):
        raise Unsupported(
            f"TorchScript files have no {scheme.precision}", hint="choose int8, dynamic or float32"
        )
    source = _Source(artifact)
    keep = _kept(source, scheme)
    lifted = source.lift("int8" if scheme.precision == "int8" else "dynamic", keep)
    if not lifted.quantized:
        raise Unsupported(
            f"no operator of the model can be {scheme.precision}",
            hint="choose another precision or keep fewer units in float",
        )

    def write(ranges: calibration.Ranges, correct: calibration_choice.Samples = ()) -> Artifact:
        if scheme.precision == "dynamic":
            module = quantize.dynamic_int8(lifted, source.inputs, scheme)
        else:
            whole = source.open_outputs(ranges, extremes)
            module = quantize.static_int8(
                lifted, source.inputs, whole, scheme, given, [tensors(sample) for sample in correct]
            )
        with quantize.qnnpack():
            script = _trace(module, source.inputs)
        return _stored(
            script,
            artifact.inputs,
            artifact.outputs,
            source.names,
            scheme.precision,
            store=store,
            tools=tools,
            meta={k: v for k, v in artifact.meta.items() if k.startswith("exporter")},
            parent=artifact.sha256,
        )

    given = ties.values_of(source.graph.inputs, samples)
    extremes: dict[str, tuple[float, float]] = {}
    if scheme.precision == "dynamic":
        return write({})
    methods = methods_of(scheme.calibration)
    source.watched = quantize.observed_values(lifted, source.inputs, scheme)
    noting = {name: _noting(method, extremes) for name, method in methods.items()}
    return calibration_choice.quantize_best(
        artifact,
        samples,
        noting,
        read=source.read,
        write=write,
        run=_outputs,
        refit=refit,
        emit=emit,
        trained=scheme.trained,
        correct=lambda made, ranges, seen: write(ranges, seen),
    )


def _noting(method: Method, extremes: dict[str, tuple[float, float]]) -> Method:
    """The method, which also notes the true extremes of each value."""

    def ranges(observed: Mapping[str, calibration.Observed]) -> calibration.Ranges:
        extremes.update(calibration.minmax_ranges(observed))
        return method(observed)

    return ranges


class _Source:
    """The float file taken apart."""

    def __init__(self, artifact: Artifact) -> None:
        self.inputs = zeros(artifact.inputs)
        names = archive.signature_of(artifact.path).get("units", ())
        script = archive.load(artifact.path)
        self.graph = filegraph.read(script).specialised(self.inputs)
        self.groups = units.groups(self.graph, names)
        self.names = [group.name for group in self.groups]
        self.watched: frozenset[str] = frozenset()

    def lift(self, mode: lift.Mode, keep: frozenset[str]) -> lift.Lifted:
        lifted = lift.lift(self.graph, self.inputs, names=self.names, mode=mode, keep=keep)
        if lifted.names != tuple(self.names):
            raise Unsupported("the float file has paddings of zeros", hint="export the model again")
        return lifted

    def read(self, sample: Sequence[Array]) -> Iterable[tuple[str, Array]]:
        """The ``watched`` values of one sample by their names in the file."""
        found: list[tuple[str, Array]] = []
        given = tensors(sample)
        for name, value in zip(self.graph.inputs, given, strict=True):
            if name in self.watched:
                found.append((name, value.numpy()))

        def see(op: filegraph.Op, arguments: list[Any], result: Any) -> None:
            values = result if op.unpacks or len(op.outputs) > 1 else [result]
            for name, value in zip(op.outputs, values, strict=True):
                if name in self.watched and value.numel():
                    found.append((name, value.numpy()))

        self.graph.run(given, see)
        return found

    def open_outputs(
        self, ranges: calibration.Ranges, extremes: Mapping[str, tuple[float, float]]
    ) -> calibration.Ranges:
        """The ranges, those of the model's outputs not clipped: a clipped score ties with its rival."""
        return ranges | {name: extremes[name] for name in self.graph.outputs if name in extremes}


def _kept(source: _Source, scheme: Scheme) -> frozenset[str]:
    for name, precision in scheme.overrides.items():
        if name not in source.names:
            raise UserError(f"the model has no unit {name!r}", hint="`edgekit inspect` lists the units")
        if precision not in ("float32", scheme.precision):
            raise Unsupported(f"unit {name!r} cannot be {precision} in a {scheme.precision} file")
    return frozenset(n for n, p in scheme.overrides.items() if p == "float32")


@contextlib.contextmanager
def _tracing() -> Iterator[None]:
    """Without torch's fused attention, which a file on another machine may not have, and its warnings about
    shapes that become constants: they are meant to."""
    import torch

    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings(action="ignore"), torch.no_grad():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _trace(module: Any, inputs: Sequence[torch.Tensor], *, freeze: bool = True) -> Any:
    import torch

    jit: Any = torch.jit
    try:
        with _tracing():
            traced = jit.trace(module, tuple(inputs), check_trace=False, strict=False)
            # One class instead of one for each layer: a smaller file, and constants where attributes were.
            return traced if not freeze else jit.freeze(traced.eval(), optimize_numerics=False)
    except Exception as exc:  # torch raises whatever forward meets
        first = next((line for line in str(exc).splitlines() if line.strip()), "")
        raise ConversionError(f"torch cannot trace the model: {first}") from exc


def _run(module: Any, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    with _tracing():
        return filegraph.flatten(module(*(t.clone() for t in inputs)))


def _difference(want: Sequence[torch.Tensor], got: Sequence[torch.Tensor]) -> float:
    """Greatest difference relative to the greatest value."""
    if len(want) != len(got):
        return float("inf")
    worst = 0.0
    for a, b in zip(want, got, strict=True):
        if a.shape != b.shape:
            return float("inf")
        if a.numel():
            top = max(float(a.abs().max()), 1e-12)
            worst = max(worst, float((a - b).abs().max()) / top)
    return worst


def _outputs(artifact: Artifact, samples: Sequence[Sequence[Array]]) -> list[Array]:
    session = TorchScriptSession(artifact)
    rows = [session.run(s) for s in samples]
    return [np.concatenate(column) for column in zip(*rows, strict=True)]


def _stored(
    script: Any,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    names: Sequence[str],
    precision: Precision,
    *,
    store: Store,
    tools: Mapping[str, str],
    meta: Mapping[str, Any],
    parent: str | None = None,
) -> Artifact:
    signature = {
        "inputs": [to_json(t) for t in inputs],
        "outputs": [to_json(t) for t in outputs],
        "units": list(names),
        "precision": precision,
    }
    data = archive.pack(script, signature)
    sha = store.put_bytes(data)
    return Artifact(
        sha256=sha,
        format="torchscript",
        precision=precision,
        path=store.get(sha),
        bytes=len(data),
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        parent=parent,
        producer="torch.ao.quantization" if parent else "torch.jit.trace",
        tools=tools,
        meta=dict(meta),
    )
