"""Other float models that compute what the built one does, and are kinder to int8."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekit.backends.onnx_export import tool_versions
from edgekit.build.compression import Compressed
from edgekit.build.inputs import Inputs
from edgekit.build.runner import Runner
from edgekit.errors import Unsupported

if TYPE_CHECKING:
    import torch

_SAMPLES = 32
"""Calibration samples that channel ranges are taken from."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """A module's changed weights: their name in the store and their file, and what gives the module."""

    sha256: str
    original: Any
    weights: Any

    def module(self) -> torch.nn.Module:
        """The module with the changed weights, in eval mode."""
        import copy

        from safetensors.torch import load_file

        made: torch.nn.Module = copy.deepcopy(self.original())
        made.load_state_dict(load_file(str(self.weights)))
        return made.eval()


def equalized_source(inputs: Inputs, runner: Runner, compressed: Compressed) -> Form:
    """The built model with equalised channels, from the cache. Unsupported, with the reason, where there is
    nothing to equalise."""
    calib = inputs.datas.get("calib")
    if calib is None:
        raise _refused("there is no calibration data")

    def source() -> torch.nn.Module:
        original = inputs.model.module
        assert original is not None
        return compressed.module() if compressed.changed else original

    def work() -> dict[str, Any]:
        import torch
        from safetensors.torch import save

        from edgekit.compress.equalize import equalize

        samples = [[torch.from_numpy(x) for x in s] for s in inputs.calibration()[:_SAMPLES]]
        try:
            made = equalize(source(), samples)
        except Unsupported as exc:
            return {"objects": [], "weights": None, "reason": str(exc)}
        tensors = {k: v.detach().clone().contiguous() for k, v in made.module.state_dict().items()}
        sha = runner.store.put_bytes(save(tensors))
        return {"objects": [sha], "weights": sha}

    key = {
        "model": compressed.sha256,
        "calib": calib.sha256,
        "samples": _SAMPLES,
        "tools": tool_versions("torch"),
    }
    result = runner.run("equalize", key, work)
    if result["weights"] is None:
        raise _refused(result["reason"])
    sha = str(result["weights"])
    return Form(sha256=sha, original=source, weights=runner.store.get(sha))


def _refused(reason: str) -> Unsupported:
    return Unsupported(f"channels cannot be equalised: {reason}", hint="leave quantize.form=equalized away")
