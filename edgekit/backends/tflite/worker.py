"""ONNX to float TFLite in a process of its own, by onnx2tf and TensorFlow's converter.

Run as ``python -P worker.py JOB.json`` in a scratch folder; it imports nothing of edgekit. onnx2tf writes
into the working directory and prints escape codes; TensorFlow takes over a gigabyte. Neither
may do so in the user's process.

onnx2tf 1.28.8 downloads a test image when every input is 4-D with three channels, unless a file of
that name lies in the working directory; the job lays a seeded one there, and connections are refused.
"""

from __future__ import annotations

import io
import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

CALIBRATION_FILE = "calibration_image_sample_data_20x128x128x3_float32.npy"


def refuse_network(self: socket.socket, address: Any) -> None:
    """Stands in for ``socket.connect``: a conversion that depends on the network is not repeatable."""
    raise OSError(f"the conversion tried to reach {address}, which is not allowed")


def main(job_path: str) -> None:
    """Convert as the job says and write ``result.json`` beside it."""
    job = json.loads(Path(job_path).read_text())
    socket.socket.connect = refuse_network  # type: ignore[method-assign, assignment]
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import numpy as np

    sample = np.random.default_rng(0).random((20, 128, 128, 3), dtype=np.float32)
    packed = io.BytesIO()
    np.save(packed, sample)  # not to the file itself: NumPy hides that the disk is full
    Path(CALIBRATION_FILE).write_bytes(packed.getvalue())

    import onnx2tf
    import tensorflow as tf

    model = onnx2tf.convert(
        input_onnx_file_path=job["onnx"],
        output_folder_path="saved_model",
        not_use_onnxsim=True,
        disable_model_save=True,
        non_verbose=True,
        keep_ncw_or_nchw_or_ncdhw_input_names=job["keep_inputs"] or None,
    )
    signature = [tf.TensorSpec(i.shape, i.dtype, name=i.name.split(":")[0]) for i in model.inputs]
    function = tf.function(
        lambda *args: model(list(args) if len(args) > 1 else args[0]), input_signature=signature
    )
    concrete = function.get_concrete_function()
    # The Keras model does not own the variables of every layer that onnx2tf makes (grouped convolutions), and
    # saving it fails for others (ArgMax): the converter then silently writes a file without a signature.
    owner = tf.Module()
    owner.kept = list(concrete.variables)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], owner)
    data = converter.convert()
    Path("model.tflite").write_bytes(data)
    Path("result.json").write_text(json.dumps({"inputs": [s.name for s in signature]}))


if __name__ == "__main__":
    main(sys.argv[1])
