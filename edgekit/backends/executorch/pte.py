"""Reading .pte files of any origin: their signature, and what their method calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgekit.backends.executorch.session import known_kernels, runtime
from edgekit.backends.executorch.toolchain import quiet, require_executorch
from edgekit.backends.stderr_filter import stderr_without
from edgekit.errors import Unsupported, UserError
from edgekit.store import digest_file
from edgekit.types import Artifact, TensorSpec

_METHOD = "forward"
_NUMBERS = ("uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64")
_DTYPES = dict(enumerate(_NUMBERS)) | {11: "bool"}
"""NumPy's names of ExecuTorch's ScalarType numbers (runtime/core/portable_type/scalar_type.h)."""

_ANOTHER_FILE = "copy or build the file again"


def open_file(path: Path) -> Artifact:
    """An artifact for a .pte file: names and layouts are unknown, its session takes arrays as they are.

    Raises UserError for a file that is no .pte or damaged, Unsupported without a method "forward" or for a
    delegate or kernel that the runtime does not have.
    """
    data = described(path)
    missing = [k for k in data["kernels"] if k not in known_kernels()]
    if missing:
        raise Unsupported(f"{path.name} needs kernels that are not here: {', '.join(missing)}")
    engine = runtime()
    try:
        with quiet(), stderr_without("[cpuinfo_utils.cpp"):
            program = engine.load_program(path)
            if _METHOD not in program.method_names:
                raise Unsupported(
                    f"{path.name} has no method {_METHOD!r}, but {', '.join(sorted(program.method_names))}"
                )
            meta = program.load_method(_METHOD).metadata
    except RuntimeError as exc:
        raise UserError(f"{path.name} does not load: {exc}", hint=_ANOTHER_FILE) from exc
    inputs = [meta.input_tensor_meta(i) for i in range(meta.num_inputs())]
    outputs = [meta.output_tensor_meta(i) for i in range(meta.num_outputs())]
    return Artifact(
        sha256=digest_file(path),
        format="pte",
        precision="float32",
        path=path,
        bytes=path.stat().st_size,
        inputs=tuple(_spec(path, f"input{i}", t) for i, t in enumerate(inputs)),
        outputs=tuple(_spec(path, f"output{i}", t) for i, t in enumerate(outputs)),
    )


def described(path: Path) -> dict[str, Any]:
    """What a file itself tells, in the form of :func:`describe.describe`: one unit per call of its method.

    What a delegate's blob computes is not known outside the delegate: its precision is "unknown" and it
    counts as one operator without multiply-accumulates.
    """
    require_executorch()
    from executorch.exir._serialize._program import deserialize_pte_binary

    try:
        with quiet():
            program = deserialize_pte_binary(path.read_bytes()).program
        plan = next((p for p in program.execution_plan if p.name == _METHOD), None)
    except OSError:
        raise
    except Exception as exc:  # a damaged file may break its reader anywhere
        raise UserError(f"{path.name} is not a .pte file or damaged: {exc}", hint=_ANOTHER_FILE) from exc
    if plan is None:
        raise Unsupported(f"{path.name} has no method {_METHOD!r}")
    units: list[dict[str, Any]] = []
    delegates = 0
    for chain in plan.chains:
        for instruction in chain.instructions:
            call = instruction.instr_args
            if hasattr(call, "delegate_index"):
                delegates += 1
                units.append(_unit(len(units), plan.delegates[call.delegate_index].id, True))
            elif hasattr(call, "op_index"):
                operator = plan.operators[call.op_index]
                units.append(_unit(len(units), operator.name.removeprefix("aten::"), False))
    kernels = [f"{o.name}.{o.overload}" if o.overload else str(o.name) for o in plan.operators]
    return {"units": units, "others": [], "kernels": kernels, "partitions": delegates}


def _unit(index: int, op: str, delegate: bool) -> dict[str, Any]:
    return {
        "name": f"{index}:{op}",
        "op": op,
        "index": index,
        "macs": 0,
        "weight_bytes": 0,
        "output_shape": [],
        "precision": "unknown" if delegate else "float32",
        "accelerated": delegate,
        "reason": "" if delegate else "the file calls it outside the delegate",
        "arithmetic": True,
    }


def _spec(path: Path, name: str, info: Any) -> TensorSpec:
    dtype = _DTYPES.get(int(info.dtype()))
    if dtype is None:
        raise Unsupported(f"{name} of {path.name} has a type that edgekit does not know: {info}")
    return TensorSpec(name=name, shape=tuple(int(d) for d in info.sizes()), dtype=dtype)
