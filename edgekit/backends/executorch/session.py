"""Running a .pte file on the host, and looking into it by running the graph that it was made from."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.backends.executorch.program import first_tensor, load, unit_of
from edgekit.backends.executorch.toolchain import quiet, require_executorch
from edgekit.backends.stderr_filter import stderr_without
from edgekit.backends.torch_graph import tensors
from edgekit.errors import StepFailed, Unsupported
from edgekit.store import Store
from edgekit.types import Artifact

if TYPE_CHECKING:
    from edgekit.types import Array

_QUANTIZE = "quantized_decomposed::quantize_per_tensor"


@functools.cache
def runtime() -> Any:
    """The one ExecuTorch runtime of this process. Its cpuinfo reports files of ARM boards as missing."""
    require_executorch()
    with quiet(), stderr_without("[cpuinfo_utils.cpp"):
        from executorch.runtime import Runtime

        return Runtime.get()


@functools.cache
def known_kernels() -> frozenset[str]:
    """Operators outside XNNPACK that the runtime can run: "aten::mean.out". Runner and host are alike."""
    return frozenset(runtime().operator_registry.operator_names)


def intermediate(artifact: Artifact, key: str) -> Path:
    """A file on the way to ``artifact``, from the store that holds the artifact itself.

    Raises Unsupported for a file that this store did not make.
    """
    sha = artifact.meta.get(key)
    if not sha:
        raise Unsupported(
            f"{artifact.path.name} was not made here: what lies inside its delegates is not known",
            hint="build the model again",
        )
    return Store(artifact.path.parents[2]).get(str(sha))


class ExecuTorchSession:
    """A loaded artifact. Takes and returns arrays in the source model's layout, which is the file's own."""

    def __init__(self, artifact: Artifact, *, keep_all: bool = False) -> None:
        self.artifact = artifact
        self._keep_all = keep_all
        self._graph: Any = None
        engine = runtime()
        try:
            with quiet(), stderr_without("[cpuinfo_utils.cpp"):
                self._program = engine.load_program(artifact.path)
                self._method = self._program.load_method("forward")
        except RuntimeError as exc:
            raise StepFailed(f"ExecuTorch cannot load {artifact.path.name}: {exc}") from exc

    def encode(self, inputs: Sequence[Array]) -> list[Array]:
        """The artifact's own input arrays: same layout, its dtype."""
        pairs = zip(inputs, self.artifact.inputs, strict=True)
        return [np.ascontiguousarray(x, dtype=spec.dtype) for x, spec in pairs]

    def run_raw(self, inputs: Sequence[Array]) -> list[Array]:
        """One inference on the artifact's own arrays."""
        try:
            outputs = self._method.execute(tensors(inputs))
        except RuntimeError as exc:
            raise StepFailed(f"ExecuTorch failed to run {self.artifact.path.name}: {exc}") from exc
        return [t.numpy().copy() for t in outputs]

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        """One inference in source layout."""
        return self.run_raw(self.encode(inputs))

    def taps(self, inputs: Sequence[Array], units: Sequence[str]) -> dict[str, Array]:
        """Values of the named units' outputs (float, source layout). Needs ``keep_all``.

        They come from the quantised torch graph that the file was lowered from: delegates keep none.
        """
        if not self._keep_all:
            raise ValueError("taps need a session with keep_all=True")
        if self._graph is None:
            self._graph = load(intermediate(self.artifact, "program_sha256")).module(check_guards=False)
        return tap_graph(self._graph, self.encode(inputs), set(units))


def tap_graph(graph: Any, inputs: Sequence[Array], units: set[str]) -> dict[str, Array]:
    """Run a torch.fx graph module and keep the outputs of units, quantised where the next one reads them."""
    import torch

    found: dict[str, Array] = {}

    class Watch(torch.fx.Interpreter):
        def run_node(self, n: torch.fx.Node) -> Any:
            value = super().run_node(n)
            if n.op == "call_function" and unit_of(n) in units and first_tensor(value) is not None:
                name = unit_of(n)
                if name not in found:
                    found[name] = _array(_as_read(n, first_tensor(value)))
            return value

    with quiet(), torch.no_grad():
        Watch(graph).run(*tensors(inputs))
    return found


def _as_read(node: Any, value: Any) -> Any:
    """What follows sees a value after rounding when a quantiser is the only reader."""
    import torch

    users = list(node.users)
    if len(users) != 1 or getattr(getattr(users[0].target, "_schema", None), "name", "") != _QUANTIZE:
        return value
    scale, zero_point, low, high = users[0].args[1:5]
    return torch.fake_quantize_per_tensor_affine(value, scale, zero_point, low, high)


def _array(value: Any) -> Array:
    array: Array = value.detach().to("cpu").contiguous().numpy()
    return array.copy()
