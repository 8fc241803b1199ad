"""`edgekit inspect`, `bench` and `verify` on the files and bundles of every runtime."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgekit.backends import RUNTIMES, SUFFIX_OF
from edgekit.backends.inspection import index_ranges
from edgekit.profiles.schema import DELEGATES

Cli = Callable[..., Any]
PREFERRED = {"tflite": "xnnpack", "executorch": "xnnpack", "onnx": "cpu", "torchscript": "qnnpack"}
JUNK: dict[str, Callable[[bytes], bytes]] = {
    "text": lambda whole: b"this is text",
    "empty": lambda whole: b"",
    "half": lambda whole: whole[: len(whole) // 2],
}


@pytest.fixture(params=RUNTIMES)
def exported(request: pytest.FixtureRequest, export_tiny: Callable[..., Any]) -> Any:
    return export_tiny(request.param, PREFERRED[request.param])


@pytest.fixture
def model_file(exported: Any, tmp_path: Path) -> Path:
    artifact = exported.artifact
    path = tmp_path / f"net{SUFFIX_OF[artifact.format]}"
    shutil.copyfile(artifact.path, path)
    return path


@pytest.fixture
def bundle(exported: Any, tmp_path: Path) -> Path:
    from edgekit.bundle import GoldenSample, RuntimeTarget, Tolerance, write_bundle

    session = exported.backend.session(exported.artifact)
    golden = []
    for sample in exported.samples[:2]:
        encoded = session.encode(sample)
        golden.append(GoldenSample(inputs=tuple(encoded), outputs=tuple(session.run_raw(encoded))))
    return write_bundle(
        tmp_path / "out",
        artifact=exported.artifact,
        spec=exported.spec,
        profile="pi4",
        runtime=RuntimeTarget(
            name=exported.backend.name,
            min_version="",
            delegates=(PREFERRED[exported.backend.name],),
            threads=1,
        ),
        golden=golden,
        tolerance=Tolerance(atol=1e-3, rtol=1e-3),
        provenance={"edgekit_version": "0", "source_sha256": "a" * 64, "plan_digest": "b" * 64},
        licences={},
    )


def units_of(model_file: Path, exported: Any) -> list[Any]:
    """The units that the bare file tells of."""
    return exported.backend.units(exported.backend.open_file(model_file))  # type: ignore[no-any-return]


def test_json_has_units_and_what_delegates_take(model_file: Path, exported: Any, cli: Cli) -> None:
    said = cli("inspect", model_file, "--json")
    assert said.code == 0, said.err
    found = json.loads(said.out)
    runtime = exported.backend.name
    assert (found["runtime"], found["format"], found["precision"]) == (
        runtime,
        exported.artifact.format,
        "float32",
    )
    units = units_of(model_file, exported)
    assert [u["op"] for u in found["units"]] == [u.op for u in units]
    if runtime == "executorch":  # a .pte does not tell what a delegate computes
        assert found["macs"] is None and found["int8_share"] is None
    else:
        assert found["macs"] == exported.spec.macs == sum(u.macs for u in units)
        assert found["int8_share"] == 0
    delegates = set(found["delegates"])
    assert delegates and delegates <= set(DELEGATES[runtime])
    for unit in found["units"]:
        assert set(unit["delegates"]) == delegates
    for name, about in found["delegates"].items():
        refused = found["not_taken"][name]
        assert about["accelerated"] + len(refused) == about.get("ops", found["ops"])
        assert all(r["reason"] for r in refused)
    assert [t["shape"] for t in found["inputs"]] == [list(t.shape) for t in exported.artifact.inputs]
    assert [t["dtype"] for t in found["outputs"]] == [t.dtype for t in exported.artifact.outputs]


def test_a_person_sees_the_same(model_file: Path, exported: Any, cli: Cli) -> None:
    said = cli("inspect", model_file)
    assert said.code == 0, said.err
    lines = said.out.splitlines()
    assert lines[0].split()[:2] == ["File", f"{model_file.name},"]
    start = next(i for i, line in enumerate(lines) if line.startswith("#"))
    units = units_of(model_file, exported)
    assert len(lines) - start - 1 == len(units) > 0
    opaque = exported.backend.name == "executorch"
    macs = "not told by the file" if opaque else f"{exported.spec.macs:,}"
    assert any(line.split(maxsplit=1) == ["MACs", macs] for line in lines)


@pytest.mark.parametrize("name", JUNK)
@pytest.mark.parametrize("command", ["inspect", "bench"])
def test_a_damaged_file_is_refused(
    name: str, command: str, model_file: Path, cli: Cli, tmp_path: Path
) -> None:
    model_file.write_bytes(JUNK[name](model_file.read_bytes()))
    said = cli(command, model_file)
    assert said.code in (2, 4), said.err
    message, _ = said.refusal()
    assert model_file.name in message


def test_a_file_under_another_formats_name_is_refused(model_file: Path, cli: Cli, tmp_path: Path) -> None:
    other = ".onnx" if model_file.suffix != ".onnx" else ".tflite"
    path = model_file.rename(tmp_path / f"other{other}")
    said = cli("inspect", path)
    assert said.code in (2, 4), said.err
    assert path.name in said.refusal()[0]


def test_bench_times_a_bare_file_and_its_operators(
    model_file: Path, cli: Cli, require_tools: Callable[..., None]
) -> None:
    require_tools("cc")
    said = cli("bench", model_file, "--runs", "3", "--warmup", "1", "--per-op", "--json")
    assert said.code == 0, said.err
    found = {m["metric"]: m for m in json.loads(said.out)["measurements"]}
    assert found["latency"]["n"] == 3 and found["latency"]["median"] > 0
    ops = found["latency"]["detail"]["ops"]
    assert ops and all(o["us"] >= 0 and o["name"] for o in ops)
    if model_file.suffix == ".onnx":
        assert all(o["name"].startswith(o["op"] + " ") for o in ops)
    assert found["peak_memory"]["median"] > 1e6
    text = cli("bench", model_file, "--runs", "3", "--per-op").out
    assert any(line.split()[:2] == ["operator", "us"] for line in text.splitlines())


def test_a_bundle_is_verified_inspected_and_measured(
    bundle: Path, exported: Any, cli: Cli, require_tools: Callable[..., None]
) -> None:
    said = cli("verify", bundle)
    assert said.code == 0, said.err + said.out
    assert [line.split()[-1] for line in said.out.splitlines()[1:]] == ["ok", "ok"]
    said = cli("inspect", bundle, "--json")
    assert said.code == 0 and json.loads(said.out)["path"] == f"model{SUFFIX_OF[exported.artifact.format]}"
    require_tools("cc")
    said = cli("verify", bundle, "--device", "local")
    assert said.code == 0, said.err + said.out
    said = cli("bench", bundle, "--runs", "2", "--json")
    assert said.code == 0, said.err


def test_a_bundle_without_golden_samples_is_measured_on_random_values(exported: Any, tmp_path: Path) -> None:
    from edgekit.cli.targets import raw_inputs
    from edgekit.types import TensorSpec

    tensors = tuple(
        TensorSpec(name=d, shape=(1, 50), dtype=d) for d in ("float32", "int8", "uint8", "int64", "bool")
    )
    first = raw_inputs(replace(exported.artifact, inputs=tensors), None)
    again = raw_inputs(replace(exported.artifact, inputs=tensors), None)
    assert [str(a.dtype) for a in first] == ["float32", "int8", "uint8", "int64", "bool"]
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert first[1].min() < 0 < first[1].max() and first[2].max() > 127
    assert not first[3].any() and not first[4].any(), "an index must be in range"


def test_ranges_in_words() -> None:
    assert index_ranges([3, 1, 2, 7]) == "1-3, 7"
    assert index_ranges([]) == ""
