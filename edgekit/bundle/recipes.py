"""How each runtime and delegate is installed and used: data for README.txt and the manifest of a bundle.

The Python programs in here run as they are in the bundle's folder, and a test does so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_LSE_FROM = (2, 10)
"""torch wheels for aarch64 use LSE atomics from this version on, and die by SIGILL on cores without."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What is particular to one runtime, or to one delegate of it.

    ``package`` is the Python package with the runtime; ``requirement`` makes of the manifest's section
    "runtime" what pip is given. ``program`` makes a Python program of the manifest. ``notes`` are
    paragraphs; they may name {file}, {tested} and {threads}. ``least`` says what the
    manifest's min_version means, where that is not plain from the requirement.
    """

    package: str
    requirement: Callable[[Mapping[str, Any]], str]
    program: Callable[[Mapping[str, Any]], str]
    notes: tuple[str, ...] = ()
    least: str = ""


def recipe_of(runtime: str, delegates: Sequence[str]) -> Recipe:
    """The recipe of the first delegate, else of the runtime. Raises KeyError for an unknown runtime."""
    first = delegates[0] if delegates else ""
    return RECIPES.get(f"{runtime}/{first}") or RECIPES[runtime]


# -- programs: each leaves the outputs of the first golden sample in ``outputs``


def _loads(manifest: Mapping[str, Any]) -> str:
    samples = manifest["golden"]["samples"]
    names = [i["path"] for i in samples[0]["inputs"]] if samples else ["x.npy"] * len(manifest["inputs"])
    return f"inputs = [np.load(name) for name in {names}]"


def _tflite(manifest: Mapping[str, Any]) -> str:
    return f"""\
import numpy as np
from ai_edge_litert.interpreter import Interpreter

model = Interpreter("{manifest["models"][0]["path"]}", num_threads={manifest["runtime"]["threads"]})
model.allocate_tensors()
{_loads(manifest)}
for detail, array in zip({_tflite_details(manifest, "input")}, inputs):
    model.set_tensor(detail["index"], array)
model.invoke()
outputs = [model.get_tensor(detail["index"]) for detail in {_tflite_details(manifest, "output")}]
"""


def _tflite_details(manifest: Mapping[str, Any], side: str) -> str:
    """With several tensors the file's order may be another than the manifest's: go by names."""
    names = [t["name"] for t in manifest[f"{side}s"]]
    if len(names) == 1:
        return f"model.get_{side}_details()"
    return f"sorted(model.get_{side}_details(), key=lambda d: {names}.index(d['name']))"


def _onnxruntime(manifest: Mapping[str, Any]) -> str:
    return f"""\
import numpy as np
import onnxruntime

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = {manifest["runtime"]["threads"]}
{_no_overflow(manifest)}model = onnxruntime.InferenceSession(
    "{manifest["models"][0]["path"]}", options, providers=["CPUExecutionProvider"]
)
{_loads(manifest)}
outputs = model.run({_names(manifest["outputs"])}, dict(zip({_names(manifest["inputs"])}, inputs)))
"""


def _no_overflow(manifest: Mapping[str, Any]) -> str:
    if manifest["models"][0]["precision"] not in ("int8", "dynamic"):
        return ""
    return """\
# x86 without VNNI overflows in int8 unless it takes the slower way; on Arm this changes nothing.
if "vnni" not in open("/proc/cpuinfo").read():
    options.add_session_config_entry("session.x64quantprecision", "1")
"""


def _openvino(manifest: Mapping[str, Any]) -> str:
    return f"""\
import numpy as np
import openvino

# By itself OpenVINO computes float32 files in bfloat16 where the CPU can.
how = {{"INFERENCE_NUM_THREADS": {manifest["runtime"]["threads"]}, "INFERENCE_PRECISION_HINT": "f32"}}
model = openvino.Core().compile_model("{manifest["models"][0]["path"]}", "CPU", how)
{_loads(manifest)}
results = model(dict(zip({_names(manifest["inputs"])}, inputs)))
outputs = [results[name] for name in {_names(manifest["outputs"])}]
"""


def _executorch(manifest: Mapping[str, Any]) -> str:
    return f"""\
import numpy as np
import torch
from executorch.runtime import Runtime

program = Runtime.get().load_program("{manifest["models"][0]["path"]}")
model = program.load_method("forward")
{_loads(manifest)}
outputs = [y.numpy() for y in model.execute([torch.from_numpy(x) for x in inputs])]
"""


def _torchscript(manifest: Mapping[str, Any]) -> str:
    runtime = manifest["runtime"]
    engine = (
        'torch.backends.quantized.engine = "qnnpack"\n' if runtime["delegates"][:1] == ["qnnpack"] else ""
    )
    return f"""\
import numpy as np
import torch

{engine}torch.set_num_threads({runtime["threads"]})
model = torch.jit.load("{manifest["models"][0]["path"]}").eval()
{_loads(manifest)}
with torch.inference_mode():
    result = model(*(torch.from_numpy(x) for x in inputs))
outputs = [y.numpy() for y in (result if isinstance(result, (tuple, list)) else [result])]
"""


def _names(tensors: Sequence[Mapping[str, Any]]) -> str:
    return str([t["name"] for t in tensors])


# -- what pip is given


def _tested(package: str) -> Callable[[Mapping[str, Any]], str]:
    def requirement(runtime: Mapping[str, Any]) -> str:
        version = runtime.get("tested_version")
        return f"{package}=={version}" if version else package

    return requirement


def _torch_requirement(runtime: Mapping[str, Any]) -> str:
    """Below the first version whose aarch64 wheels need LSE atomics, where the file allows that."""
    least = runtime["min_version"] or "2.8"
    older = tuple(int(n) for n in least.split(".")[:2]) < _LSE_FROM
    return f'"torch>={least},<{_LSE_FROM[0]}.{_LSE_FROM[1]}"' if older else f'"torch>={least}"'


_TFLITE_VERSION = "The runtime must be TFLite {min_version} or later; every LiteRT is, 1.0 and later."
_GOLDEN_ON_CPU = "run.py runs the model on the CPU of any machine: it checks the file, not the delegate."


def _litert_2(accelerator: str, *artifacts: str) -> str:
    """A Kotlin program for LiteRT 2; {file} is filled in later."""
    lines = [f'implementation("com.google.ai.edge.litert:{name}:2.3.2")' for name in artifacts]
    lines[0] = lines[0].ljust(68) + "// build.gradle.kts"
    lines += [
        "",
        f"val options = CompiledModel.Options(Accelerator.{accelerator})",
        'val model = CompiledModel.create(assets, "{file}", options)',
        "val inputs = model.createInputBuffers()",
        "val outputs = model.createOutputBuffers()",
        "inputs[0].writeFloat(values)      // writeInt8 where the input above is int8",
        "model.run(inputs, outputs)",
        "val result = outputs[0].readFloat()",
    ]
    return "\n".join(f"    {line}".rstrip() for line in lines)


RECIPES: dict[str, Recipe] = {
    "tflite": Recipe(
        package="ai-edge-litert",
        requirement=_tested("ai-edge-litert"),
        program=_tflite,
        least=_TFLITE_VERSION,
        notes=(
            "Linux: as above; XNNPACK is on by itself, with {threads} threads. On 32-bit Arm, where "
            "ai-edge-litert has no wheel, run.py takes tflite-runtime 2.14 too. C and C++: LiteRT's C API "
            "(libLiteRt.so of the ai-edge-litert wheel).",
            "Android: put {file} into src/main/assets (not compressed) and run it on the CPU:",
            _litert_2("CPU", "litert"),
        ),
    ),
    "tflite/gpu": Recipe(
        package="ai-edge-litert",
        requirement=_tested("ai-edge-litert"),
        program=_tflite,
        least=_TFLITE_VERSION,
        notes=(
            "Android, GPU: the delegate is a package of its own since LiteRT 2.3.0. Ask for the GPU alone, "
            "since (GPU, CPU) runs on the CPU without a word when that package is missing.",
            _litert_2("GPU", "litert", "litert-gpu"),
            "Without an app: push {file} and LiteRT's benchmark_model for android_arm64 to /data/local/tmp, "
            'and run it with --graph={file} --use_gpu=true; its line "Replacing N out of M node(s)" must '
            "name all nodes. The GPU computes in fp16: outputs differ from the golden ones by about 1e-3 of "
            "the largest value.",
            _GOLDEN_ON_CPU,
        ),
    ),
    "tflite/nnapi": Recipe(
        package="ai-edge-litert",
        requirement=_tested("ai-edge-litert"),
        program=_tflite,
        least=_TFLITE_VERSION,
        notes=(
            "Android 8.1 to 14 (API 27 to 34), NNAPI: deprecated from Android 15 (API 35) on, where the "
            "profiles android_gpu or android_xnnpack are the way. The delegate is in the 1.4.2 line of "
            "LiteRT only; the 2.x line has none.",
            '    implementation("com.google.ai.edge.litert:litert:1.4.2")            // build.gradle.kts\n'
            "\n"
            "    val options = Interpreter.Options()                  // org.tensorflow.lite\n"
            "    if (Build.VERSION.SDK_INT in 27..34) options.addDelegate(NnApiDelegate())\n"
            '    val model = Interpreter(FileUtil.loadMappedFile(context, "{file}"), options)\n'
            "    model.run(input, output)                             // direct ByteBuffers, native order",
            "Without an app: push {file} and a benchmark_model of the 1.4 line for android_arm64 to "
            "/data/local/tmp, and run it with --graph={file} --use_nnapi=true.",
            _GOLDEN_ON_CPU,
        ),
    ),
    "onnx": Recipe(
        package="onnxruntime",
        requirement=_tested("onnxruntime"),
        program=_onnxruntime,
        notes=("C and C++: libonnxruntime of the same version; Android: the AAR onnxruntime-android.",),
    ),
    "onnx/openvino": Recipe(package="openvino", requirement=_tested("openvino"), program=_openvino),
    "onnx/tensorrt": Recipe(
        package="onnxruntime",
        requirement=lambda runtime: "onnxruntime",
        program=_onnxruntime,
        least="TensorRT on the device must be {min_version} or later.",
        notes=(
            "Jetson: JetPack brings TensorRT (`dpkg -l tensorrt` shows which). An engine runs only on the "
            "kind of device and the version of TensorRT that built it: build it there.",
            "    ./build_engine.sh      builds an engine of each .onnx file, keeps the fastest that gives\n"
            "                           the golden outputs\n"
            "    ./bench.sh             measures it: latency, layers, power",
            "README-jetson.md tells more.",
            "run.py and the program above run the .onnx file on the CPU: they check the file, not the "
            "engine.",
        ),
    ),
    "executorch": Recipe(
        package="executorch",
        requirement=_tested("executorch"),
        program=_executorch,
        notes=(
            "A .pte file runs with the ExecuTorch version that wrote it, {tested}. The Python package "
            "brings torch with it, which ends by SIGILL on 64-bit Arm cores without LSE atomics (Cortex-A53 "
            "and A72: Raspberry Pi 3, Zero 2 W and 4). There, and where torch is too large, take the C++ "
            "runtime, which needs no Python:",
            "    // github.com/pytorch/executorch, tag v{tested}, cmake -DEXECUTORCH_BUILD_XNNPACK=ON; link\n"
            "    // extension_module_static, extension_tensor, xnnpack_backend, portable_ops_lib\n"
            "    #include <executorch/extension/module/module.h>\n"
            "    #include <executorch/extension/tensor/tensor.h>\n"
            "    using namespace executorch::extension;\n"
            '    Module model("{file}");\n'
            "    auto input = from_blob(values, shape);         // shape and order as below Inputs\n"
            "    const auto result = model.forward(input);      // result->at(0).toTensor()",
            "Android: the AAR of the same version.",
            '    implementation("org.pytorch:executorch-android:{tested}")       // build.gradle.kts\n'
            "\n"
            "    val model = Module.load(path)                   // {file} copied from assets into a file\n"
            "    val result = model.forward(EValue.from(Tensor.fromBlob(values, shape)))[0].toTensor()",
        ),
    ),
    "torchscript": Recipe(
        package="torch",
        requirement=_torch_requirement,
        program=_torchscript,
        notes=(
            "On 64-bit Arm, torch 2.10 and later end by SIGILL on cores without LSE atomics (Cortex-A53 and "
            "A72: Raspberry Pi 3, Zero 2 W and 4); 2.8 and 2.9 run there. Quantised files need the engine "
            "they were made for: set torch.backends.quantized.engine before loading, as above.",
        ),
    ),
}
