"""Conversions to float TFLite in a process of their own: onnx2tf on an ONNX file, litert-torch on a .pt2.

Run as ``python -P worker.py JOB.json`` in a scratch folder; it imports nothing of edgekit. The exporters
write into the working directory, print escape codes and take over a gigabyte: neither may happen in the
user's process. The worker dies with the process that started it.

onnx2tf 1.28.8 downloads a test image when every input is 4-D with three channels, unless a file of
that name lies in the working directory; the job lays a seeded one there, and connections are refused.
"""

from __future__ import annotations

import ctypes
import io
import json
import os
import re
import signal
import socket
import sys
from pathlib import Path
from typing import Any

CALIBRATION_FILE = "calibration_image_sample_data_20x128x128x3_float32.npy"
_PR_SET_PDEATHSIG = 1


def refuse_network(self: socket.socket, address: Any) -> None:
    """Stands in for ``socket.connect``: a conversion that depends on the network is not repeatable."""
    raise OSError(f"the conversion tried to reach {address}, which is not allowed")


def die_with_parent(parent: int) -> None:
    """Let the kernel kill this process when the one that started it ends, however that ends.

    prctl(2) exists on Linux only; elsewhere a worker of a killed build runs to its end.
    """
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the call above
        os._exit(1)


def main(job_path: str) -> None:
    """Convert as the job says to ``model.tflite`` and write ``result.json`` beside it."""
    job = json.loads(Path(job_path).read_text())
    die_with_parent(job["parent"])
    socket.socket.connect = refuse_network  # type: ignore[method-assign, assignment]
    inputs = by_onnx2tf(job) if job["exporter"] == "onnx2tf" else by_litert_torch(job)
    Path("result.json").write_text(json.dumps({"inputs": inputs}))


def by_onnx2tf(job: dict[str, Any]) -> list[str]:
    """Convert an ONNX file; returns the signature's names of the inputs, in the ONNX file's order."""
    import numpy as np

    sample = np.random.default_rng(0).random((20, 128, 128, 3), dtype=np.float32)
    packed = io.BytesIO()
    np.save(packed, sample)  # not to the file itself: NumPy hides that the disk is full
    Path(CALIBRATION_FILE).write_bytes(packed.getvalue())

    import onnx2tf
    import tensorflow as tf

    mend_resize()
    model = onnx2tf.convert(
        input_onnx_file_path=job["onnx"],
        output_folder_path="saved_model",
        not_use_onnxsim=True,
        disable_model_save=True,
        non_verbose=True,
        keep_ncw_or_nchw_or_ncdhw_input_names=job["keep_channels_first"] or None,
        keep_shape_absolutely_input_names=job["keep_as_is"] or None,
    )
    names = plain_names([i.name.split(":")[0] for i in model.inputs])
    signature = [tf.TensorSpec(i.shape, i.dtype, name=n) for i, n in zip(model.inputs, names, strict=True)]
    function = tf.function(
        lambda *args: model(list(args) if len(args) > 1 else args[0]), input_signature=signature
    )
    concrete = function.get_concrete_function()
    # The Keras model does not own the variables of every layer that onnx2tf makes (grouped convolutions), and
    # saving it fails for others (ArgMax): the converter then silently writes a file without a signature.
    owner = tf.Module()
    owner.kept = list(concrete.variables)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], owner)
    Path("model.tflite").write_bytes(converter.convert())
    return names


def mend_resize() -> None:
    """Let onnx2tf resize by corners, or from the first pixel on, where the file says so.

    From opset 18 on, onnx2tf 1.28.8 takes every Resize for one by pixel centres, without a word: a net with
    align_corners is then off by up to half of its values. Up to opset 17 it does what the file says; the
    attributes that opset 18 added keep their defaults in what torch exports.
    """
    from onnx2tf.ops import Resize

    original = Resize.make_node

    def make_node(**how: Any) -> Any:
        if how["graph_node"].attrs.get("coordinate_transformation_mode") in ("align_corners", "asymmetric"):
            how["opset"] = min(how["opset"], 17)
        return original(**how)

    Resize.make_node = make_node


def plain_names(names: list[str]) -> list[str]:
    """The names with only letters, digits and underscores, all different: what TensorFlow keeps as it is.

    It would replace other characters itself, and give "a.b" and "a:b" one name.
    """
    found: list[str] = []
    for name in names:
        plain = re.sub(r"\W", "_", name, flags=re.ASCII)
        plain = plain if plain[:1].isalpha() else f"x{plain}"
        unique, n = plain, 1
        while unique.lower() in (f.lower() for f in found):
            unique, n = f"{plain}_{n}", n + 1
        found.append(unique)
    return found


def by_litert_torch(job: dict[str, Any]) -> list[str]:
    """Convert a torch.export program; inputs and outputs that the job names become channels-last."""
    os.environ["LITERT_TORCH_SHOW_PROGRESS"] = "n"
    import litert_torch
    import torch

    program = crop_transposed_convolutions(torch.export.load(job["program"]))
    args, _ = program.example_inputs
    module = channels_last(program.module(), job["inputs_last"], job["outputs_last"])
    args = tuple(_permuted(x) if i in job["inputs_last"] else x for i, x in enumerate(args))
    with torch.no_grad():
        litert_torch.convert(module, args).export("model.tflite")
    return [f"args_{i}" for i in range(len(args))]


def crop_transposed_convolutions(program: Any) -> Any:
    """Replace padding of transposed convolutions by slices of the unpadded result.

    litert-torch 0.10 refuses some paddings, and fills what output_padding adds with zeros.
    """
    import torch
    from torch.nn import functional

    def cropped(
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        dilation: Any = 1,
    ) -> torch.Tensor:
        before, more, step = _pair(padding), _pair(output_padding), _pair(stride)
        full: torch.Tensor = torch.ops.aten.convolution(
            x, weight, None, step, [0, 0], _pair(dilation), True, [0, 0], groups
        )
        for i in (0, 1):
            size = full.shape[2 + i] - 2 * before[i] + more[i]
            missing = before[i] + size - full.shape[2 + i]
            if missing > 0:
                full = functional.pad(full, (0, 0, 0, missing) if i == 0 else (0, missing))
            full = full.narrow(2 + i, before[i], size)
        return full if bias is None else full + bias.reshape(1, -1, 1, 1)

    return program.run_decompositions({torch.ops.aten.conv_transpose2d.input: cropped})


def _pair(value: Any) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return [int(v) for v in (values * 2 if len(values) == 1 else values)]


def channels_last(program: Any, inputs: list[int], outputs: list[int]) -> Any:
    """A module around a program that takes and returns the named tensors channels-last, outputs flat."""
    import torch
    from torch.utils import _pytree as pytree

    class ChannelsLast(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.program = program
            self.training = program.training = False  # litert-torch warns of training mode

        def forward(self, *args: torch.Tensor) -> tuple[torch.Tensor, ...]:
            first = [
                x.permute(0, x.ndim - 1, *range(1, x.ndim - 1)) if i in inputs else x
                for i, x in enumerate(args)
            ]
            found = [y for y in pytree.tree_leaves(self.program(*first)) if isinstance(y, torch.Tensor)]
            return tuple(_permuted(y) if i in outputs else y for i, y in enumerate(found))

    return ChannelsLast()


def _permuted(x: Any) -> Any:
    return x.permute(0, *range(2, x.ndim), 1).contiguous()


if __name__ == "__main__":
    main(sys.argv[1])
