"""The ExecuTorch runner on the host and on emulated boards: same outputs, exact counts, clear failures."""

from __future__ import annotations

import platform
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.bench import bench
from edgekit.devices import open_link
from edgekit.devices.local import LocalLink
from edgekit.errors import MissingDependency, Unsupported, UserError
from edgekit.native.executorch_runtime import RUNNER, WHEEL_VARIABLE, executorch_runtime, executorch_version
from edgekit.profiles.loader import load_profile
from edgekit.store import Store
from edgekit.types import Artifact, DeviceCommand, RunProtocol, Scheme, ignore_events

HOST = platform.machine()


@pytest.fixture(scope="module")
def files(export_tiny: Callable[..., Any]) -> dict[str, Any]:
    """The tiny model in float32 and int8, its backend and a sample."""
    tiny = export_tiny("executorch", "xnnpack")
    int8 = tiny.backend.quantize(
        tiny.artifact,
        tiny.samples[:10],
        Scheme(precision="int8", delegate="xnnpack"),
        refit=False,
        store=tiny.store,
        emit=ignore_events,
    )
    return {"float32": tiny.artifact, "int8": int8, "tiny": tiny}


def run(files: dict[str, Any], *options: str, inputs: dict[str, bytes], tmp_path: Path) -> Any:
    tiny = files["tiny"]
    pushed = dict(executorch_runtime(HOST, tiny.store))
    for name, data in inputs.items():
        (tmp_path / name).write_bytes(data)
        pushed[name] = tmp_path / name
    pushed["m.pte"] = files["float32"].path
    return LocalLink(tiny.store).run(DeviceCommand(argv=(RUNNER, *options), files=pushed), timeout_s=60)


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("-n", "0", "m.pte"), 2, "at least 1"),
        (("-p", "m.pte"), 2, "belong together"),
        (("m.pte", "m.pte"), 2, "exactly one MODEL"),
        (("none.pte",), 4, "cannot read model none.pte"),
        (("-i", "short.bin", "m.pte"), 4, "too short"),
        (("-i", "short.bin", "-i", "short.bin", "m.pte"), 4, "1 inputs, 2 were given"),
        (("-o", "a", "-o", "b", "m.pte"), 5, "1 outputs, 2 names"),
        (("short.bin",), 3, "failed"),
    ],
)
def test_failures_are_told(
    files: dict[str, Any],
    tmp_path: Path,
    require_tools: Callable[..., None],
    options: tuple[str, ...],
    code: int,
    said: str,
) -> None:
    require_tools("c++")
    result = run(files, *options, inputs={"short.bin": b"\0" * 64}, tmp_path=tmp_path)
    assert result.returncode == code and said in result.stderr


@pytest.mark.emulator
@pytest.mark.parametrize("board", ["pi4", "pi5"])
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_an_emulated_board_computes_what_the_host_does(
    files: dict[str, Any], arm64_tools: None, require_tools: Callable[..., None], board: str, precision: str
) -> None:
    require_tools("aarch64-linux-gnu-g++")
    tiny, artifact = files["tiny"], files[precision]
    assert isinstance(artifact, Artifact)
    session = tiny.backend.session(artifact)
    encoded = session.encode(tiny.samples[0])
    try:
        link = open_link("emulator", load_profile(board), tiny.store)
        found = bench(
            tiny.backend,
            artifact,
            encoded,
            link,
            store=tiny.store,
            protocol=RunProtocol(warmup=1, runs=1, threads=1),
            per_op=True,
        )
    except MissingDependency as exc:
        pytest.skip(str(exc))
    (here,), (there,) = session.run_raw(encoded), found.outputs
    atol, rtol = tiny.backend.tolerance(precision)
    np.testing.assert_allclose(there, here, atol=atol * np.abs(here).max(), rtol=rtol)
    counted = next(m for m in found.measurements if m.metric == "instructions")
    assert counted.median is not None and counted.median > 10_000
    profiled = sum(o["instructions"] for o in counted.detail["ops"])
    assert 0.3 * counted.median < profiled < 1.5 * counted.median


def test_other_machines_are_unsupported(tmp_path: Path) -> None:
    with pytest.raises(Unsupported, match="riscv64"):
        executorch_runtime("riscv64", Store(tmp_path))
    with pytest.raises(Unsupported, match="no ExecuTorch runtime for armv7l") as caught:
        executorch_runtime("armv7l", Store(tmp_path))
    assert "run .tflite files, by their Python" in (caught.value.hint or "")


@pytest.mark.skipif(HOST == "aarch64", reason="the wheel is for other hosts")
def test_a_named_wheel_has_to_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def check(name: str, match: str) -> None:
        monkeypatch.setenv(WHEEL_VARIABLE, str(tmp_path / name))
        with pytest.raises(UserError, match=match):
            executorch_runtime("aarch64", Store(tmp_path / "store"))

    check("none.whl", "not a file")
    for name in ("torch-1.0-cp311-cp311-any.whl", "executorch-0.1-cp311-cp311-any.whl"):
        (tmp_path / name).write_bytes(b"")
    check("torch-1.0-cp311-cp311-any.whl", "not a wheel of executorch")
    check("executorch-0.1-cp311-cp311-any.whl", "names version 0.1")
    right = f"executorch-{executorch_version()}-cp311-cp311-manylinux_2_28_aarch64.whl"
    with zipfile.ZipFile(tmp_path / right, "w") as archive:
        archive.writestr("executorch/lib/libexecutorch.so", b"\x7fELF" + b"\0" * 60)
    check(right, "another machine")
