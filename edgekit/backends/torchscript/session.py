"""Running a TorchScript file on the host, with QNNPACK as on the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.backends.torch_graph import tensors
from edgekit.backends.torchscript import archive, filegraph, units
from edgekit.backends.torchscript.quantize import qnnpack
from edgekit.errors import StepFailed
from edgekit.types import Artifact, TensorSpec

if TYPE_CHECKING:
    import torch

    from edgekit.types import Array


class TorchScriptSession:
    """See :class:`edgekit.types.Session`. The file keeps the source's layout: encoding only sets dtypes."""

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        with qnnpack():  # weights are packed for the engine when they are loaded
            self._script = archive.load(artifact.path)
        self._graph: filegraph.FileGraph | None = None
        self._values: dict[str, str] = {}

    def encode(self, inputs: Sequence[Array]) -> list[Array]:
        """The arrays in the file's dtypes."""
        return [
            np.ascontiguousarray(x, dtype=spec.dtype)
            for x, spec in zip(inputs, self.artifact.inputs, strict=True)
        ]

    def run_raw(self, inputs: Sequence[Array]) -> list[Array]:
        """One inference. StepFailed when torch refuses it."""
        import torch

        try:
            with qnnpack(), torch.inference_mode(), _plain_executor():
                outputs = self._script(*tensors(inputs))
        except RuntimeError as exc:
            last = str(exc).strip().splitlines()[-1]
            raise StepFailed(f"torch failed to run {self.artifact.path.name}: {last}") from exc
        return [np.array(t.numpy()) for t in filegraph.flatten(outputs)]

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """One inference on arrays of the source model."""
        return self.run_raw(self.encode(inputs))

    def taps(self, inputs: Sequence[Array], units_wanted: Sequence[str]) -> dict[str, Array]:
        """Values of the named units' outputs, dequantised."""
        graph, values = self._parts()
        wanted = {values[name]: name for name in units_wanted}
        found: dict[str, Array] = {}

        def see(op: filegraph.Op, arguments: list[Any], result: Any) -> None:
            for value in op.outputs[:1]:
                if value in wanted:
                    found[wanted[value]] = real(filegraph.flatten(result)[0])

        with qnnpack():
            graph.run(tensors(self.encode(inputs)), see)
        return found

    def _parts(self) -> tuple[filegraph.FileGraph, dict[str, str]]:
        """The file's operators, and the value that each unit makes."""
        if self._graph is None:
            self._graph = filegraph.read(self._script)
            names = archive.signature_of(self.artifact.path).get("units", ())
            self._values = {g.name: g.value for g in units.groups(self._graph, names)}
        return self._graph, self._values


def _plain_executor() -> Any:
    """Without the profiling executor the first run optimises and all later ones are the same."""
    import torch

    jit: Any = torch.jit
    return jit.optimized_execution(False)


def zeros(specs: Sequence[TensorSpec]) -> tuple[torch.Tensor, ...]:
    """Inputs of the right shapes and dtypes, to see what a file does with them."""
    return tensors([np.zeros(t.shape, dtype=t.dtype) for t in specs])


def real(value: torch.Tensor) -> Array:
    """A float32 array of a tensor, quantised or not; magnitudes of complex numbers."""
    if value.is_quantized:
        value = value.dequantize()
    if value.is_complex():
        value = value.abs()
    return np.array(value.detach().numpy(), dtype=np.float32)
