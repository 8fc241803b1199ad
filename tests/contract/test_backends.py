"""What every backend does, written once and run for each runtime."""

from __future__ import annotations

import functools
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from edgekit.backends import RUNTIMES, get_backend
from edgekit.backends.torch_graph import trace
from edgekit.devices.local import LocalLink
from edgekit.errors import DeviceError, Unsupported, UserError
from edgekit.profiles.loader import load_profile
from edgekit.store import digest_file
from edgekit.types import (
    Artifact,
    ModelSpec,
    Precision,
    RunProtocol,
    Scheme,
    Support,
    TensorSpec,
    Unit,
    ignore_events,
)

TARGETS = {
    "tflite/xnnpack": "pi4",
    "executorch/xnnpack": "pi4",
    "torchscript/qnnpack": "pi4",
    "onnx/cpu": "pi4",
    "onnx/tensorrt": "jetson_orin_nano",
    "onnx/openvino": "generic_x86_64",
}
"""Every runtime with each delegate that shapes its files, and a profile that lists it."""

LEAST_SQNR = {"float32": 80.0, "fp16": 45.0, "int16x8": 30.0, "dynamic": 25.0, "int8": 18.0}
"""In dB on the tiny model, against torch."""


@dataclass(frozen=True, eq=False)
class Case:
    """One target of a profile, with the tiny model as its float file."""

    profile: Any
    target: Any
    exported: Any

    def scheme(self, precision: Precision, **more: Any) -> Scheme:
        return Scheme(precision=precision, delegate=self.target.delegate, **more)

    def quantized(self, precision: Precision, **more: Any) -> Artifact:
        """The file in a precision, from the fixture's cache in the store or made now."""
        if precision == "float32":
            return self.exported.artifact
        return self.exported.backend.quantize(
            self.exported.artifact,
            self.exported.samples[:20],
            self.scheme(precision, **more),
            refit=False,
            store=self.exported.store,
            emit=ignore_events,
        )


@functools.cache
def _made(case: Case, precision: Precision) -> Artifact:
    return case.quantized(precision)


@pytest.fixture(scope="module", params=TARGETS)
def case(request: pytest.FixtureRequest, export_tiny: Callable[..., Any]) -> Case:
    """The tiny model as the float file of each target; see tests/conftest.py."""
    runtime, delegate = request.param.split("/")
    if request.param == "onnx/openvino":
        pytest.importorskip("openvino", reason="the extra edgekit[openvino] is not installed")
    profile = load_profile(TARGETS[request.param])
    target = next(t for t in profile.targets if (t.runtime, t.delegate) == (runtime, delegate))
    return Case(profile, target, export_tiny(runtime, delegate))


@pytest.fixture(scope="module")
def exported(case: Case) -> Any:
    return case.exported


@pytest.fixture(scope="module")
def target(case: Case) -> Any:
    return case.target


@pytest.fixture(scope="module")
def int8(case: Case) -> Artifact:
    return _made(case, "int8")


@pytest.fixture(scope="module", params=["float32", "int8"])
def artifact(request: pytest.FixtureRequest, case: Case) -> Artifact:
    return _made(case, request.param)


@pytest.fixture(scope="module", params=get_args(Precision))
def precision(request: pytest.FixtureRequest, case: Case) -> Precision:
    """Each precision that the profile lists for the target."""
    if request.param not in case.target.precisions:
        pytest.skip(f"{case.profile.id} lists no {request.param} for this target")
    return request.param


def outputs(case: Case, artifact: Artifact) -> Any:
    session = case.exported.backend.session(artifact)
    return np.concatenate([session.run(s)[0] for s in case.exported.samples[:30]])


def test_every_runtime_is_here() -> None:
    assert {name.partition("/")[0] for name in TARGETS} == set(RUNTIMES)


def test_each_precision_is_close_smaller_and_what_it_says(case: Case, precision: Precision) -> None:
    made = _made(case, precision)
    assert made.precision == precision
    want = outputs(case, case.exported.artifact).astype(np.float64)
    got = outputs(case, made)
    assert got.shape == want.shape and got.dtype == np.float32
    noise = ((got - want) ** 2).sum()
    assert noise == 0 or 10 * np.log10((want**2).sum() / noise) > LEAST_SQNR[precision]
    facts, complaints = case.exported.backend.check(made, case.scheme(precision))
    assert {"ops", "transposes", "int8_share"} <= set(facts) and complaints == []
    if precision != "float32":
        assert made.bytes < case.exported.artifact.bytes
    atol, rtol = case.exported.backend.tolerance(precision)
    assert 0 <= atol < 0.5 and 0 <= rtol < 0.5


def test_quantising_again_gives_the_same_file(case: Case, precision: Precision) -> None:
    if precision == "float32":
        pytest.skip("the float file is not quantised")
    assert case.quantized(precision).sha256 == _made(case, precision).sha256


def test_units_can_be_kept_in_float(case: Case) -> None:
    """An override keeps the named operator, and no other one, out of int8."""
    backend = case.exported.backend
    units = [u for u in backend.units(case.exported.artifact) if u.macs]
    kept = units[1]
    mixed = case.quantized("int8", overrides={kept.name: "float32"})
    pure = _made(case, "int8")
    precisions = [u.precision for u in backend.units(mixed)]
    before = [u.precision for u in backend.units(pure)]
    place = [u.name for u in backend.units(case.exported.artifact)].index(kept.name)
    assert len(precisions) == len(before)
    assert before[place] == "int8" and precisions[place] == "float32"
    heavy = [i for i, u in enumerate(backend.units(mixed)) if u.macs and i != place]
    assert all(precisions[i] == "int8" for i in heavy)
    assert np.isfinite(outputs(case, mixed)).all()


def test_each_shade_of_a_picture_is_told_apart(case: Case) -> None:
    """Pixels from -1 to 1 lie half-way between the levels of that range: rounding to even gives pairs of them
    one level."""
    import torch

    layer = torch.nn.Conv2d(1, 1, 1, bias=False).eval()
    torch.nn.init.ones_(layer.weight)
    shades = (np.arange(256, dtype=np.float32) / 127.5 - 1).reshape(1, 1, 16, 16)
    spec = ModelSpec(
        name="shades",
        source="shades",
        sha256="0" * 64,
        inputs=(TensorSpec(name="x", shape=shades.shape, dtype="float32", layout="NCHW"),),
        outputs=(TensorSpec(name="y", shape=shades.shape, dtype="float32", layout="NCHW"),),
    )
    backend, store = case.exported.backend, case.exported.store
    samples = [[shades], [shades[..., ::-1].copy()]]
    floats = backend.export(
        layer, spec, samples, store=store, scheme=case.scheme("float32"), emit=ignore_events
    )
    made = backend.quantize(
        floats, samples, case.scheme("int8"), refit=False, store=store, emit=ignore_events
    )
    (got,) = backend.session(made).run([shades])
    assert len(np.unique(got)) >= 250
    assert abs(float((got - shades).mean())) < 0.1 * 2 / 255


def test_preflight_lets_the_tiny_model_pass(case: Case) -> None:
    exported = case.exported
    graph = trace(exported.module, exported.samples[0])
    found = exported.backend.preflight(exported.module, exported.spec, graph, scheme=case.scheme("int8"))
    assert found == []


def test_preflight_names_an_operator_that_no_runtime_knows(case: Case) -> None:
    """Module path, operator, reason and advice, before any conversion."""
    import torch

    class Odd(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.exp(torch.fft.fft(x)).abs()

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = torch.nn.Conv2d(3, 4, 3)
            self.odd = Odd()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.odd(self.stem(x)).mean((2, 3))

    net, exported = Net().eval(), case.exported
    graph = trace(net, exported.samples[0])
    found = exported.backend.preflight(net, exported.spec, graph, scheme=case.scheme("int8"))
    assert found, "complex numbers have no exponential on any of these targets"
    assert any(name in p.op.lower() for name in ("fft", "exp", "abs") for p in found)
    assert all(p.reason and p.hint for p in found)
    assert any(p.where == "odd" for p in found)


def test_a_faithful_file_diverges_nowhere(case: Case) -> None:
    exported = case.exported
    found = exported.backend.divergence(
        exported.artifact, exported.samples[0], tolerance=1e-3, store=exported.store
    )
    assert found is None


def test_a_file_of_its_own_is_opened(case: Case, artifact: Artifact) -> None:
    backend = case.exported.backend
    opened = backend.open_file(artifact.path)
    assert opened.format == artifact.format and opened.sha256 == artifact.sha256
    assert [t.shape for t in opened.inputs] == [t.shape for t in artifact.inputs]
    assert [t.dtype for t in opened.inputs] == [t.dtype for t in artifact.inputs]
    raw = backend.session(artifact).encode(case.exported.samples[0])
    for mine, theirs in zip(
        backend.session(opened).run_raw(raw), backend.session(artifact).run_raw(raw), strict=True
    ):
        np.testing.assert_array_equal(mine, theirs)


def test_a_file_of_another_kind_is_refused(case: Case, tmp_path: Path) -> None:
    path = tmp_path / f"other{case.exported.artifact.format}"
    path.write_bytes(b"no model at all")
    with pytest.raises(UserError):
        case.exported.backend.open_file(path)


def test_companions_and_scripts_are_of_the_target(case: Case) -> None:
    backend = case.exported.backend
    others = backend.companions(case.target, case.scheme("int8"))
    assert all(s.precision in case.target.precisions and s.precision != "int8" for s in others)
    files = backend.bundle_files((_made(case, "int8"),), case.profile, case.target)
    assert all(isinstance(data, bytes) and "/" not in name for name, data in files.items())


def test_a_runtime_has_the_backend_of_its_name(exported: Any) -> None:
    assert exported.backend.name in RUNTIMES
    assert type(get_backend(exported.backend.name)) is type(exported.backend)


def test_a_runtime_without_backend_is_unsupported() -> None:
    with pytest.raises(Unsupported, match="no backend for 'coreml'") as caught:
        get_backend("coreml")
    assert all(name in (caught.value.hint or "") for name in RUNTIMES)


def test_support_is_answered_with_reasons(case: Case, exported: Any, target: Any) -> None:
    backend, profile = exported.backend, case.profile
    assert target.delegate in backend.delegates
    for precision in target.precisions:
        assert backend.supports(profile, target, case.scheme(precision)) == Support(ok=True)
    none = target.model_copy(update={"precisions": ("fp16",)})
    answer = backend.supports(profile, none, case.scheme("int8"))
    assert not answer.ok and any("not int8" in r for r in answer.reasons)
    foreign = next(d for d in ("qnnpack", "gpu") if d not in backend.delegates)
    other = target.model_copy(update={"delegate": foreign})
    answer = backend.supports(profile, other, Scheme(precision=target.precisions[0], delegate=foreign))
    assert not answer.ok and any(foreign in r for r in answer.reasons)


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


def test_exporting_again_gives_the_same_file(case: Case, exported: Any) -> None:
    again = exported.backend.export(
        exported.module,
        exported.spec,
        exported.samples[:4],
        store=exported.store,
        scheme=case.scheme("float32"),
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


def test_int8_is_still_right(case: Case, exported: Any, int8: Artifact) -> None:
    assert int8.precision == "int8" and int8.parent == exported.artifact.sha256
    session = exported.backend.session(int8)
    guesses = np.array([session.run(s)[0].argmax() for s in exported.samples])
    assert (guesses == exported.labels).mean() > 0.85
    facts, _ = exported.backend.check(int8, case.scheme("int8"))
    assert facts["int8_share"] >= 90.0
    assert all(f >= 0 for f in facts.values())


def test_the_check_is_not_fooled_by_the_scheme(case: Case, exported: Any) -> None:
    facts, complaints = exported.backend.check(exported.artifact, case.scheme("int8"))
    assert facts["int8_share"] == 0.0
    assert any("int8" in c for c in complaints)


def test_a_device_computes_what_the_host_does(
    exported: Any, artifact: Artifact, target: Any, require_tools: Callable[..., None]
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
        assert command.python == backend.device_python(platform.machine(), target.delegate)
        result = link.run(command, timeout_s=120)
    assert result.returncode == 0, result.stderr
    report = backend.parse(result.stdout, result.outputs)
    assert len(report["runs_ms"]) == 3 and all(ms > 0 for ms in report["runs_ms"])
    assert report["load_ms"] > 0 and report["peak_rss_kb"] > 1000
    outputs = backend.read_outputs(artifact, [result.outputs[name] for name in command.outputs])
    for here, there, spec in zip(session.run_raw(encoded), outputs, artifact.outputs, strict=True):
        assert there.shape == spec.shape and str(there.dtype) == spec.dtype
        atol, rtol = backend.tolerance(artifact.precision)
        np.testing.assert_allclose(there, here, atol=atol * np.abs(here).max(), rtol=rtol)


@pytest.mark.parametrize("stdout", ["", "no report\n", "{not json\n", '{"other": 1}\n'])
def test_a_runner_that_reports_nothing_is_a_device_error(exported: Any, stdout: str) -> None:
    with pytest.raises(DeviceError, match="no report"):
        exported.backend.parse(stdout)


def test_outputs_of_the_wrong_size_are_a_device_error(exported: Any, artifact: Artifact) -> None:
    with pytest.raises(DeviceError, match="bytes"):
        exported.backend.read_outputs(artifact, [b"\0" * 5 for _ in artifact.outputs])
