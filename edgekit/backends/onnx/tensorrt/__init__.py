"""TensorRT: what it takes of an ONNX file, the scripts that build and measure engines on the device, parsers.

Nothing here needs an NVIDIA GPU. An engine runs only on the device and the TensorRT version that built it, so
edgekit ships checked ONNX files and scripts; no engine is built on the machine that makes the bundle.
"""
