"""The runner on the host and on emulated boards: same outputs, exact counts, clear failures."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.devices import Link, RunResult, open_link
from edgekit.errors import DeviceError, MissingDependency
from edgekit.native import litert_runtime
from edgekit.profiles.loader import load_profile
from edgekit.store import Store
from edgekit.types import DeviceCommand

HOST = platform.machine()
OUTPUTS = ("logits.bin", "mean.bin")


@pytest.fixture(scope="session")
def runtimes(native_store: Store) -> dict[str, dict[str, Path]]:
    """Runner and library for the host and for arm64, as far as they can be had here."""
    found = {}
    for arch in {HOST, "aarch64"}:
        try:
            found[arch] = dict(litert_runtime(arch, native_store))
        except MissingDependency as exc:
            found[arch] = {"missing": Path(str(exc))}
    return found


def execute(
    link: Link,
    runtimes: dict[str, dict[str, Path]],
    model: Path,
    *options: str,
    files: dict[str, Path] | None = None,
    outputs: tuple[str, ...] = OUTPUTS,
    **counting: bool,
) -> RunResult:
    runtime = runtimes[link.arch]
    if "missing" in runtime:
        pytest.skip(str(runtime["missing"]))
    named = [part for name in outputs for part in ("-o", name)]
    command = DeviceCommand(
        argv=("litert_run", *options, *named, "m.tflite"),
        files={**runtime, "m.tflite": model, **(files or {})},
        outputs=outputs,
    )
    return link.run(command, timeout_s=120, **counting)


def report(result: RunResult) -> dict[str, Any]:
    assert result.returncode == 0, result.stderr
    (line,) = result.stdout.splitlines()
    return json.loads(line)


@pytest.fixture
def local(native_store: Store) -> Link:
    return open_link("local", None, native_store)


@pytest.fixture
def image(tmp_path: Path) -> dict[str, Path]:
    """One input for each precision: bytes of (1, 16, 16, 3)."""
    values = np.random.default_rng(1).normal(0, 1, (1, 16, 16, 3))
    paths = {"float32": tmp_path / "f.bin", "int8": tmp_path / "i.bin"}
    paths["float32"].write_bytes(values.astype(np.float32).tobytes())
    paths["int8"].write_bytes((values * 40).clip(-128, 127).astype(np.int8).tobytes())
    return paths


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_runner_computes_what_the_interpreter_computes(
    precision: str,
    local: Link,
    runtimes: dict[str, dict[str, Path]],
    tiny_models: dict[str, Path],
    image: dict[str, Path],
) -> None:
    interpreter_module = pytest.importorskip("ai_edge_litert.interpreter")
    interpreter = interpreter_module.Interpreter(str(tiny_models[precision]))
    signature = interpreter.get_signature_runner()
    dtype = np.float32 if precision == "float32" else np.int8
    x = np.frombuffer(image[precision].read_bytes(), dtype).reshape(1, 16, 16, 3)
    expected = signature(image=x)

    result = execute(
        local, runtimes, tiny_models[precision], "-i", "x.bin", files={"x.bin": image[precision]}
    )

    assert set(expected) == {"logits", "mean"}
    for name in expected:
        got = np.frombuffer(result.outputs[f"{name}.bin"], dtype).reshape(expected[name].shape)
        if precision == "int8":
            np.testing.assert_array_equal(got, expected[name])
        else:
            np.testing.assert_allclose(got, expected[name], rtol=1e-5, atol=1e-5)


def test_the_report_has_the_runs_the_outputs_and_the_memory(
    local: Link, runtimes: dict[str, dict[str, Path]], tiny_models: dict[str, Path]
) -> None:
    result = execute(local, runtimes, tiny_models["int8"], "-w", "1", "-n", "4")
    data = report(result)
    assert data["machine"] == HOST
    assert len(data["runs_ms"]) == 4
    assert all(value > 0 for value in data["runs_ms"])
    assert data["peak_rss_kb"] >= data["start_rss_kb"] > 0
    assert [output["bytes"] for output in data["outputs"]] == [10, 1]
    assert [output["fnv64"] for output in data["outputs"]] == [
        fnv64(result.outputs[name]) for name in OUTPUTS
    ]
    assert "events" not in data


def fnv64(data: bytes) -> str:
    value = 0xCBF29CE484222325
    for byte in data:
        value = ((value ^ byte) * 0x100000001B3) % 2**64
    return f"{value:016x}"


def test_runs_do_not_change_the_outputs(
    local: Link, runtimes: dict[str, dict[str, Path]], tiny_models: dict[str, Path]
) -> None:
    once = execute(local, runtimes, tiny_models["float32"], "-w", "0", "-n", "1")
    often = execute(local, runtimes, tiny_models["float32"], "-w", "3", "-n", "9", "-t", "2")
    assert once.outputs == often.outputs


def test_profiler_lists_the_operators_of_each_run(
    local: Link, runtimes: dict[str, dict[str, Path]], tiny_models: dict[str, Path]
) -> None:
    data = report(execute(local, runtimes, tiny_models["float32"], "-n", "3", "-p"))
    operators = [event["tag"] for event in data["events"] if event["type"] == 8]
    one_run = operators[: len(operators) // 3]
    assert operators == one_run * 3
    assert any("Convolution" in tag for tag in one_run)
    assert any("DWConv" in tag for tag in one_run)
    assert any("Fully Connected" in tag for tag in one_run)


@pytest.mark.parametrize(
    ("content", "options", "code", "complaint"),
    [
        (b"abc", ("-i", "x.bin"), 4, "too short: 3 bytes, the model needs 768"),
        (b"a" * 769, ("-i", "x.bin"), 4, "too long: the model needs 768 bytes"),
        (b"a" * 768, ("-i", "y.bin"), 4, "cannot open input y.bin: No such file"),
        (b"a" * 768, ("-i", "x.bin", "-i", "x.bin"), 4, "has 1 inputs, 2 were given"),
        (b"", ("-o", "third.bin"), 5, "has 2 outputs, 3 names were given"),
        (b"", ("-n", "0"), 2, "-n needs a whole number of at least 1"),
        (b"", ("-n", "x"), 2, "-n needs a whole number of at least 1"),
        (b"", ("m.tflite",), 2, "needs exactly one MODEL"),
        (b"", ("-q",), 2, "invalid option"),
    ],
)
def test_what_does_not_fit_is_refused(
    content: bytes,
    options: tuple[str, ...],
    code: int,
    complaint: str,
    local: Link,
    runtimes: dict[str, dict[str, Path]],
    tiny_models: dict[str, Path],
    tmp_path: Path,
) -> None:
    given = tmp_path / "given.bin"
    given.write_bytes(content)
    result = execute(local, runtimes, tiny_models["int8"], *options, files={"x.bin": given})
    assert result.returncode == code
    assert complaint in result.stderr
    assert result.stdout == ""


def test_a_file_that_is_no_model_is_refused(
    local: Link, runtimes: dict[str, dict[str, Path]], tmp_path: Path
) -> None:
    junk = tmp_path / "junk.tflite"
    junk.write_bytes(b"not a flatbuffer at all")
    result = execute(local, runtimes, junk)
    assert result.returncode == 3
    assert "LiteRtCreateModelFromFile failed" in result.stderr


# ---- emulated boards ----


@pytest.fixture(params=["pi4", "pi5"])
def board(request: pytest.FixtureRequest, native_store: Store, arm64_tools: None) -> Link:
    return open_link("emulator", load_profile(request.param), native_store)


@pytest.mark.emulator
def test_int8_outputs_equal_the_hosts_bit_for_bit(
    board: Link,
    local: Link,
    runtimes: dict[str, dict[str, Path]],
    tiny_models: dict[str, Path],
    image: dict[str, Path],
) -> None:
    files = {"x.bin": image["int8"]}
    there = execute(board, runtimes, tiny_models["int8"], "-i", "x.bin", files=files)
    here = execute(local, runtimes, tiny_models["int8"], "-i", "x.bin", files=files)
    assert report(there)["machine"] == "aarch64"
    assert there.outputs == here.outputs
    assert len(set(there.outputs["logits.bin"])) > 1


@pytest.mark.emulator
def test_float_outputs_are_close_to_the_hosts(
    board: Link,
    local: Link,
    runtimes: dict[str, dict[str, Path]],
    tiny_models: dict[str, Path],
    image: dict[str, Path],
) -> None:
    files = {"x.bin": image["float32"]}
    there = execute(board, runtimes, tiny_models["float32"], "-i", "x.bin", files=files)
    here = execute(local, runtimes, tiny_models["float32"], "-i", "x.bin", files=files)
    for name in OUTPUTS:
        a, b = (np.frombuffer(result.outputs[name], np.float32) for result in (there, here))
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.emulator
def test_instructions_and_modelled_misses_repeat_exactly(
    board: Link, runtimes: dict[str, dict[str, Path]], tiny_models: dict[str, Path]
) -> None:
    first = execute(board, runtimes, tiny_models["int8"], "-w", "1", "-n", "2", caches=True)
    second = execute(board, runtimes, tiny_models["int8"], "-w", "1", "-n", "2", caches=True)
    counted = execute(board, runtimes, tiny_models["int8"], "-w", "1", "-n", "2", count=True)
    assert len(first.regions) == 2
    assert first.regions == second.regions
    # The same inference, and the cache model does not change what is executed.
    insns = {region["insns"] for region in (*first.regions, *counted.regions)}
    assert len(insns) == 1
    region = first.regions[0]
    assert region["l1d_accesses"] > region["l1d_misses"] > 0
    assert "l1d_accesses" not in counted.regions[0]


@pytest.mark.emulator
def test_int8_kernels_of_the_cpu_are_chosen_by_the_persona(
    native_store: Store,
    arm64_tools: None,
    runtimes: dict[str, dict[str, Path]],
    tiny_models: dict[str, Path],
) -> None:
    """A76 has dot products, A72 does not: the same file takes far fewer integer SIMD instructions."""
    a72, a76 = (
        execute(
            open_link("emulator", load_profile(name), native_store),
            runtimes,
            tiny_models["int8"],
            count=True,
        ).regions[0]
        for name in ("pi4", "pi5")
    )
    assert a76["simd_int"] < a72["simd_int"] / 2


@pytest.mark.emulator
def test_per_op_counts_add_up_to_the_inference(
    board: Link, runtimes: dict[str, dict[str, Path]], tiny_models: dict[str, Path]
) -> None:
    plain = execute(board, runtimes, tiny_models["int8"], "-w", "1", "-n", "1", count=True)
    result = execute(board, runtimes, tiny_models["int8"], "-w", "1", "-n", "1", "-p", per_op=True)
    again = execute(board, runtimes, tiny_models["int8"], "-w", "1", "-n", "1", "-p", per_op=True)
    operators = [event for event in report(result)["events"] if event["type"] == 8]
    assert operators == [event for event in report(again)["events"] if event["type"] == 8]
    total = plain.regions[0]["insns"]
    # The rest is the runtime's own work between operators, some 9000 instructions however small the net.
    assert total - 15_000 < sum(event["us"] for event in operators) < total
    assert result.outputs == plain.outputs


@pytest.mark.emulator
def test_counting_more_than_one_thread_is_refused(
    board: Link, runtimes: dict[str, dict[str, Path]], tiny_models: dict[str, Path]
) -> None:
    with pytest.raises(DeviceError, match="threads"):
        execute(board, runtimes, tiny_models["float32"], "-t", "3", count=True)
