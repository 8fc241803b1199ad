"""A stand-in for trtexec: flags, files and messages as in the releases of TensorRT, outputs by ONNX Runtime.

Behaves by the JSON file that STANDIN names: "version" (100300 for 10.3.0), "ms" (precision -> time of one
run), "wrong" and "nan" (precisions whose outputs are off or no numbers), "no_build" (precisions whose build
fails), "calls" (file that gets one JSON list of arguments per line). It is no simulation of a GPU: times are
what the test says.
"""

# ruff: noqa: T201 (a program of its own, it prints)
import json
import os
import sys
from pathlib import Path

MAGIC = b"stand-in plan\n"
COMMON = """onnx saveEngine loadEngine timingCacheFile profilingVerbosity loadInputs exportOutput
    exportTimes exportProfile exportLayerInfo warmUp duration iterations percentile noTF32 useSpinWait
    useCudaGraph help"""
OF_8 = "buildOnly int8 fp16 best calib"
OF_10 = "skipInference int8 fp16 best calib stronglyTyped"
OF_11 = "skipInference stronglyTyped includeDataTransfers noCudaGraph noSpinWait"


def main(arguments: list[str]) -> int:
    config = json.loads(Path(os.environ["STANDIN"]).read_text())
    with Path(config["calls"]).open("a") as calls:
        calls.write(json.dumps(arguments) + "\n")
    version, banner = config["version"], f"[TensorRT v{config['version']}] # trtexec {' '.join(arguments)}"
    print(f"&&&& RUNNING TensorRT.trtexec {banner}")
    print(f"&&&& STAND-IN {Path(__file__).resolve()}")  # so that no figure of it passes for one of TensorRT
    options = dict(argument.removeprefix("--").partition("=")[::2] for argument in arguments)
    own = OF_8 if version < 100000 else OF_10 if version < 110000 else OF_11
    try:
        unknown = [name for name in options if name not in (COMMON + " " + own).split()]
        if unknown:
            raise RuntimeError(*(f"Unknown option: --{name} {options[name]}" for name in unknown))
        if "help" in options:
            return 0
        if "loadEngine" in options:
            run(config, options)
        else:
            build(config, options)
    except RuntimeError as exc:
        for message in exc.args:
            print(f"[11/22/2026-10:00:01] [E] {message}")
        print(f"&&&& FAILED TensorRT.trtexec {banner}")
        return 1
    print(f"&&&& PASSED TensorRT.trtexec {banner}")
    return 0


def build(config: dict, options: dict) -> None:
    data = Path(options["onnx"]).read_bytes()
    half = b"Cast" in data  # only the fp16 file of these tests has casts
    precision = "int8" if b"QuantizeLinear" in data else "fp16" if half else "float32"
    typed = "stronglyTyped" in options
    if typed and {"int8", "fp16"} & options.keys():
        raise RuntimeError("--int8 and --fp16 cannot be used with --stronglyTyped")
    if precision == "int8" and "int8" not in options and not typed and config["version"] < 110000:
        raise RuntimeError("the network has Q/DQ layers, but INT8 is not enabled")
    if half and "fp16" not in options and not typed and config["version"] < 110000:
        raise RuntimeError("the network has half tensors, but FP16 is not enabled")
    if not {"buildOnly", "skipInference"} & options.keys():
        raise RuntimeError("this stand-in builds without inference only")
    if precision in config.get("no_build", []):
        raise RuntimeError(
            "Error Code 10: Internal Error (Could not find any implementation for node {Conv_0})"
        )
    Path(options["timingCacheFile"]).write_bytes(b"cache")
    head = f"{config['version']} {precision}\n".encode()
    Path(options["saveEngine"]).write_bytes(MAGIC + head + data)


def run(config: dict, options: dict) -> None:
    magic, head, data = Path(options["loadEngine"]).read_bytes().split(b"\n", 2)
    version, precision = head.decode().split()
    if magic + b"\n" != MAGIC or int(version) != config["version"]:
        raise RuntimeError("Error Code 1: Serialization (Serialization assertion failed)")
    if "exportOutput" in options:
        outputs = infer(data, options["loadInputs"], int64=config["version"] >= 100000)
        off = 5.0 if precision in config.get("wrong", []) else 0.0
        off = float("nan") if precision in config.get("nan", []) else off
        Path(options["exportOutput"]).write_text(exported(outputs, off))
    ms = float(config["ms"][precision])
    if "exportTimes" in options:
        copies = config["version"] < 110000 or "includeDataTransfers" in options
        trace(Path(options["exportTimes"]), ms, float(options["warmUp"]), config["version"], copies=copies)
        print("[11/22/2026-10:00:03] [I] === Performance summary ===")
        line = ", ".join(f"{what} = {ms} ms" for what in ("min", "max", "mean", "median"))
        print(f"[11/22/2026-10:00:03] [I] Latency: {line}")
    if "exportProfile" in options:
        rows = [f', {{ "name" : "conv " + "{precision}"", "timeMs" : {ms * 10}, "averageMs" : {ms}']
        rows[0] += f', "medianMs" : {ms}, "percentage" : 100 }}'
        Path(options["exportProfile"]).write_text('[\n  { "count" : 10 }\n' + rows[0] + "\n]\n")
        Path(options["exportLayerInfo"]).write_text('{"Layers": []}\n')


def infer(data: bytes, spec: str, *, int64: bool) -> dict:
    import numpy as np
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    inputs = {i.name: i for i in session.get_inputs()}
    feed = {}
    for pair in spec.split(","):  # as trtexec: pairs at commas, the name up to the last colon
        name, _, path = pair.rpartition(":")
        if name not in inputs:
            raise RuntimeError(f'Cannot find input tensor with name "{name}" in the engine bindings!')
        kind = {"tensor(float)": "f4", "tensor(int64)": "i8" if int64 else "i4"}[inputs[name].type]
        raw = np.fromfile(path, dtype=kind)
        if raw.size != np.prod(inputs[name].shape):
            raise RuntimeError(f"Unexpected file size for input file: {path}.")
        raw = raw.astype("i8") if kind == "i4" else raw
        feed[name] = raw.reshape(inputs[name].shape)
    names = [o.name for o in session.get_outputs()]
    return dict(zip(reversed(names), reversed(session.run(names, feed)), strict=True))


def exported(outputs: dict, off: float) -> str:
    parts = []
    for name, value in outputs.items():
        values = ", ".join(f"{float(v) + off:.6g}" for v in value.ravel())
        dims = "x".join(map(str, value.shape))
        parts.append(
            f'{{ "name" : "{name}"\n  , "dimensions" : "{dims}"\n  , "values" : [ {values} ]\n  }}\n'
        )
    return "[\n  " + ", ".join(parts) + "]\n"


def trace(path: Path, ms: float, warmup: float, version: int, *, copies: bool) -> None:
    copy = 0.05 if copies else 0.0
    rows, at = [], 0.0
    while at < warmup + 100 * ms:
        took = ms + 0.001 * (len(rows) % 7) + (50 if at < warmup else 0)  # warm-up runs are slow
        if at >= warmup or version < 8600:
            times = {"startComputeMs": at, "h2dMs": copy, "computeMs": took, "d2hMs": copy}
            rows.append({**times, "latencyMs": took + 2 * copy})
        at += took
    path.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
