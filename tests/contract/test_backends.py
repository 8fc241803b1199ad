"""What every backend does, written once and run for each runtime."""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgekit.backends import RUNTIMES, get_backend
from edgekit.devices.local import LocalLink
from edgekit.errors import DeviceError, Unsupported
from edgekit.profiles.loader import load_profile
from edgekit.store import digest_file
from edgekit.types import Artifact, RunProtocol, Scheme, Support, Unit, ignore_events

PROFILE = load_profile("pi4")


@pytest.fixture(scope="module", params=RUNTIMES)
def exported(request: pytest.FixtureRequest, export_tiny: Callable[[str], Any]) -> Any:
    """The tiny model as the runtime's float file; see tests/conftest.py."""
    return export_tiny(request.param)


@pytest.fixture(scope="module")
def target(exported: Any) -> Any:
    return next(t for t in PROFILE.targets if t.runtime == exported.backend.name)


@pytest.fixture(scope="module")
def int8(exported: Any) -> Artifact:
    return exported.backend.quantize(
        exported.artifact,
        exported.samples[:20],
        Scheme(precision="int8"),
        refit=False,
        store=exported.store,
        emit=ignore_events,
    )


@pytest.fixture(scope="module", params=["float32", "int8"])
def artifact(request: pytest.FixtureRequest, exported: Any) -> Artifact:
    return exported.artifact if request.param == "float32" else request.getfixturevalue("int8")


def test_a_runtime_has_the_backend_of_its_name(exported: Any) -> None:
    assert exported.backend.name in RUNTIMES
    assert type(get_backend(exported.backend.name)) is type(exported.backend)


def test_a_runtime_without_backend_is_unsupported() -> None:
    with pytest.raises(Unsupported, match="no backend for 'coreml'") as caught:
        get_backend("coreml")
    assert all(name in (caught.value.hint or "") for name in RUNTIMES)


def test_support_is_answered_with_reasons(exported: Any, target: Any) -> None:
    for precision in target.precisions:
        assert exported.backend.supports(PROFILE, target, Scheme(precision=precision)) == Support(ok=True)
    none = target.model_copy(update={"precisions": ("fp16",)})
    answer = exported.backend.supports(PROFILE, none, Scheme(precision="int8"))
    assert not answer.ok and "not int8" in answer.reasons[0]
    other = target.model_copy(update={"delegate": "gpu"})
    answer = exported.backend.supports(PROFILE, other, Scheme(precision="fp16"))
    assert not answer.ok and any("gpu" in r for r in answer.reasons)


def test_tools_have_versions(exported: Any) -> None:
    tools = exported.backend.tools()
    assert len(tools) > 2
    assert all(v and v[0].isdigit() for v in tools.values())


def test_an_artifact_describes_its_file(exported: Any, artifact: Artifact) -> None:
    assert artifact.path == exported.store.get(artifact.sha256)
    assert digest_file(artifact.path) == artifact.sha256
    assert artifact.path.stat().st_size == artifact.bytes
    assert artifact.producer and artifact.tools == exported.backend.tools()
    assert len(artifact.inputs) == len(exported.spec.inputs)
    assert len(artifact.outputs) == len(exported.spec.outputs)


def test_exporting_again_gives_the_same_file(exported: Any) -> None:
    again = exported.backend.export(
        exported.module,
        exported.spec,
        exported.samples[:4],
        store=exported.store,
        scheme=Scheme(),
        emit=ignore_events,
    )
    assert again.sha256 == exported.artifact.sha256
    assert (again.inputs, again.outputs) == (exported.artifact.inputs, exported.artifact.outputs)


def test_the_float_file_is_the_model(exported: Any) -> None:
    import torch

    session = exported.backend.session(exported.artifact)
    for sample in exported.samples[:3]:
        with torch.inference_mode():
            want = exported.module(torch.from_numpy(sample[0])).numpy()
        (got,) = session.run(sample)
        assert got.shape == want.shape and got.dtype == np.float32
        assert np.abs(got - want).max() < 1e-4 * np.abs(want).max()


def test_running_is_encoding_and_running_raw(exported: Any, artifact: Artifact) -> None:
    session = exported.backend.session(artifact)
    encoded = session.encode(exported.samples[0])
    for value, spec in zip(encoded, artifact.inputs, strict=True):
        assert value.shape == spec.shape and str(value.dtype) == spec.dtype
    raw = session.run_raw(encoded)
    for value, spec in zip(raw, artifact.outputs, strict=True):
        assert value.shape == spec.shape and str(value.dtype) == spec.dtype
    (once,), (again,) = session.run(exported.samples[0]), session.run(exported.samples[0])
    np.testing.assert_array_equal(once, again)
    np.testing.assert_array_equal(once.ravel(), raw[0].ravel())


def test_results_outlive_the_next_run(exported: Any, artifact: Artifact) -> None:
    session = exported.backend.session(artifact)
    (first,) = session.run_raw(session.encode(exported.samples[0]))
    kept = first.copy()
    session.run_raw(session.encode(exported.samples[1]))
    np.testing.assert_array_equal(first, kept)


def test_units_are_what_taps_and_coverage_speak_of(exported: Any, artifact: Artifact, target: Any) -> None:
    units: list[Unit] = exported.backend.units(artifact)
    names = [u.name for u in units]
    assert len(set(names)) == len(names) > 3
    assert [u.index for u in units] == sorted(u.index for u in units)
    assert sum(u.macs for u in units) == exported.spec.macs
    taps = exported.backend.session(artifact, keep_all=True).taps(exported.samples[0], names)
    assert {n: taps[n].shape for n in names} == {u.name: u.output_shape for u in units}
    covered = {c.index: c for c in exported.backend.coverage(artifact, target)}
    assert {u.index for u in units} <= set(covered)
    assert all(covered[u.index].op == u.op for u in units)
    assert all(bool(c.reason) != c.accelerated for c in covered.values())


def test_int8_is_smaller_and_still_right(exported: Any, int8: Artifact) -> None:
    assert int8.precision == "int8" and int8.parent == exported.artifact.sha256
    assert int8.bytes < exported.artifact.bytes / 2
    session = exported.backend.session(int8)
    guesses = np.array([session.run(s)[0].argmax() for s in exported.samples])
    assert (guesses == exported.labels).mean() > 0.85
    facts, complaints = exported.backend.check(int8, Scheme(precision="int8"))
    assert facts["int8_share"] == 100.0 and complaints == []
    assert all(f >= 0 for f in facts.values())


def test_the_check_is_not_fooled_by_the_scheme(exported: Any) -> None:
    facts, complaints = exported.backend.check(exported.artifact, Scheme(precision="int8"))
    assert facts["int8_share"] == 0.0
    assert any("int8" in c for c in complaints)


def test_a_device_computes_what_the_host_does(
    exported: Any, artifact: Artifact, require_tools: Callable[..., None]
) -> None:
    require_tools("cc")
    backend, store = exported.backend, exported.store
    session, link = backend.session(artifact), LocalLink(store)
    encoded = session.encode(exported.samples[0])
    with store.scratch() as scratch:
        command = backend.device_command(
            artifact,
            encoded,
            arch=platform.machine(),
            protocol=RunProtocol(warmup=1, runs=3, threads=1),
            per_op=False,
            store=store,
            scratch=scratch,
        )
        result = link.run(command, timeout_s=60)
    assert result.returncode == 0, result.stderr
    report = backend.parse(result.stdout)
    assert len(report["runs_ms"]) == 3 and all(ms > 0 for ms in report["runs_ms"])
    assert report["load_ms"] > 0 and report["peak_rss_kb"] > 1000
    outputs = backend.read_outputs(artifact, [result.outputs[name] for name in command.outputs])
    for here, there, spec in zip(session.run_raw(encoded), outputs, artifact.outputs, strict=True):
        assert there.shape == spec.shape and str(there.dtype) == spec.dtype
        np.testing.assert_allclose(there, here, atol=1e-5 * np.abs(here).max())
        if artifact.precision == "int8":
            np.testing.assert_array_equal(there, here)


@pytest.mark.parametrize("stdout", ["", "no report\n", "{not json\n", '{"other": 1}\n'])
def test_a_runner_that_reports_nothing_is_a_device_error(exported: Any, stdout: str) -> None:
    with pytest.raises(DeviceError, match="no report"):
        exported.backend.parse(stdout)


def test_outputs_of_the_wrong_size_are_a_device_error(exported: Any, artifact: Artifact) -> None:
    with pytest.raises(DeviceError, match="bytes"):
        exported.backend.read_outputs(artifact, [b"\0" * 5 for _ in artifact.outputs])
