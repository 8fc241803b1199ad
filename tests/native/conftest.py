"""A store shared by the session (compiling and downloading once) and two tiny models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgekit.store import Store


@pytest.fixture(scope="session")
def native_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("native-store"))


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A convolution, a depthwise one and a matrix product; two outputs; "float32" and all-"int8"."""
    tf = pytest.importorskip("tensorflow")
    rng = np.random.default_rng(0)

    def weights(*shape: int) -> np.ndarray:
        return rng.normal(0, 0.3, shape).astype(np.float32)

    class Net(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.depthwise, self.dense = weights(3, 3, 3, 8), weights(3, 3, 8, 1), weights(512, 10)

        @tf.function(input_signature=[tf.TensorSpec((1, 16, 16, 3), tf.float32, name="image")])
        def serve(self, image):
            x = tf.nn.relu6(tf.nn.conv2d(image, self.conv, 1, "SAME") + 0.1)
            x = tf.nn.relu6(tf.nn.depthwise_conv2d(x, self.depthwise, (1, 2, 2, 1), "SAME"))
            x = tf.reshape(x, (1, 512))
            return {"logits": tf.matmul(x, self.dense), "mean": tf.reduce_mean(x, axis=1)}

    folder = tmp_path_factory.mktemp("models")
    net = Net()
    saved = str(folder / "saved")
    tf.saved_model.save(net, saved, signatures={"serving_default": net.serve})
    paths = {}
    for precision in ("float32", "int8"):
        converter = tf.lite.TFLiteConverter.from_saved_model(saved)
        if precision == "int8":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            samples = rng.normal(0, 1, (20, 1, 16, 16, 3)).astype(np.float32)
            converter.representative_dataset = lambda samples=samples: ([sample] for sample in samples)
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = tf.int8
        paths[precision] = folder / f"{precision}.tflite"
        paths[precision].write_bytes(converter.convert())
    return paths
