"""What runs a .tflite file on a machine: edgekit's runner, or where there is none the machine's Python."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgekit.errors import Unsupported
from edgekit.native.build import litert_runtime, why_no_compiler
from edgekit.store import Store

RUNNER = "litert_run"
PYTHON_RUNNER = "interpreter_run.py"
_BESIDE_IT = "python_run.py"


def why_python(arch: str) -> str:
    """Why edgekit's runner cannot be had for a machine, so that its Python runs the file; empty when it can:
    it is there for 64-bit Arm and this host's kind, given a compiler."""
    return why_no_compiler(arch)


def packages(arch: str) -> tuple[str, ...]:
    """The packages that a machine's Python needs, the one first that is published for it: of ai-edge-litert
    there are no wheels for 32-bit Arm, tflite-runtime 2.14 is the last that has them."""
    names = ("ai-edge-litert", "tflite-runtime")
    return (" | ".join(names if arch in ("aarch64", "x86_64") else names[::-1]), "numpy")


def runtime_files(arch: str, store: Store) -> Mapping[str, Path]:
    """The runner with its library, or the Python programs, by name there."""
    if not why_python(arch):
        return litert_runtime(arch, store)
    import edgekit.native

    return {
        PYTHON_RUNNER: Path(__file__).with_name(PYTHON_RUNNER),
        _BESIDE_IT: Path(edgekit.native.__file__).with_name(_BESIDE_IT),
    }


def refuse_profile(reason: str) -> None:
    """Raise Unsupported: LiteRT's Python interface gives no times by operator."""
    raise Unsupported(
        f"the Python runtime of .tflite files gives no times by operator, and edgekit's runner is not there: "
        f"{reason}",
        hint="measure without --per-op",
    )
