"""What is quantised, with which ranges, and what stays in float."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from edgekit.backends.executorch.program import capture
from edgekit.errors import DataError, Unsupported
from edgekit.store import Store
from edgekit.types import Artifact, ModelSpec, Scheme, TensorSpec, ignore_events

INT8 = Scheme(precision="int8", delegate="xnnpack")


@pytest.fixture(scope="session")
def backend(tiny: Any) -> Any:
    return tiny.backend


SPEC = ModelSpec(
    name="awkward",
    source="test",
    sha256="0",
    inputs=(TensorSpec(name="x", shape=(1, 3, 16, 16), dtype="float32", layout="NCHW"),),
    outputs=(TensorSpec(name="y", shape=(1, 5), dtype="float32"),),
)


@pytest.fixture(scope="session")
def exported(backend: Any, awkward: Any, images: Any) -> Artifact:
    return backend.export(awkward, SPEC, images[:1], store=Store(), scheme=Scheme(), emit=ignore_events)


def quantized(backend: Any, artifact: Artifact, images: Any, scheme: Scheme, **more: Any) -> Artifact:
    more = {"refit": False, **more}
    return backend.quantize(artifact, images, scheme, store=Store(), emit=ignore_events, **more)


@pytest.fixture(scope="session")
def made(backend: Any, exported: Artifact, images: Any) -> Artifact:
    return quantized(backend, exported, images, INT8)


def test_layers_compute_in_int8_and_what_has_no_kernel_does_not(
    backend: Any, exported: Artifact, made: Artifact
) -> None:
    precision = {u.op: u.precision for u in backend.units(made)}
    assert precision["conv2d"] == precision["hardtanh"] == precision["linear"] == precision["mean"] == "int8"
    assert precision["pad"] == "int8", "XNNPACK pads with the zero point"
    assert precision["sigmoid"] == "float32"
    assert {u.precision for u in backend.units(exported)} == {"float32"}
    _, complaints = backend.check(made, INT8)
    assert any("sigmoid" in c for c in complaints)


def test_the_memory_order_of_samples_is_not_that_of_the_program(
    backend: Any, awkward: Any, images: Any, exported: Artifact
) -> None:
    """ExecuTorch stops with error 0x10 when the axes of an input lie in another order than the program's."""
    (x,) = images[0]
    columns = np.asfortranarray(x)
    assert columns.strides != x.strides
    other = backend.export(awkward, SPEC, [[columns]], store=Store(), scheme=Scheme(), emit=ignore_events)
    assert other.sha256 == exported.sha256
    for rows in (columns, x[:, ::-1][:, ::-1], np.broadcast_to(x[0], (1, 3, 16, 16))):
        (want,), (got,) = backend.session(exported).run([x]), backend.session(other).run([rows])
        np.testing.assert_array_equal(got, want)


def test_what_portable_kernels_run_is_told_with_the_reason(backend: Any, made: Artifact) -> None:
    left = [c for c in backend.coverage(made, None) if not c.accelerated]
    assert any(c.op == "slice" and "slice_copy" in c.reason for c in left)
    assert all(c.reason for c in left)
    facts, complaints = backend.check(made, INT8)
    assert facts["partitions"] == 2 and any("slice" in c for c in complaints)


def test_the_file_is_close_to_the_graph_that_taps_look_into(
    backend: Any, made: Artifact, images: Any
) -> None:
    session = backend.session(made, keep_all=True)
    last = backend.units(made)[-1].name
    (out,) = session.run(images[0])
    tap = session.taps(images[0], [last])[last]
    assert np.abs(tap - out).max() <= 0.03 * np.abs(out).max()
    with pytest.raises(ValueError, match="keep_all"):
        backend.session(made).taps(images[0], [last])


def test_a_clamp_sets_the_range_and_not_what_is_before_it(awkward: Any, images: Any) -> None:
    import torch
    from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e

    from edgekit.backends.executorch.observers import ActivationObserver
    from edgekit.backends.executorch.program import op_name
    from edgekit.backends.executorch.quantizer import UnitQuantizer
    from edgekit.backends.executorch.toolchain import quiet

    with quiet(), torch.no_grad():
        graph = prepare_pt2e(
            capture(awkward, images[0]).module(check_guards=False),
            UnitQuantizer((), per_channel=True, dynamic=False),
        )
        graph(torch.from_numpy(images[0][0]))
    behind = {}
    for node in graph.graph.nodes:
        for user in node.users:
            if user.op == "call_module" and node.op == "call_function":
                behind.setdefault(op_name(node), []).append(graph.get_submodule(user.target))
    assert "conv2d" not in behind, "what the clamp throws away needs no range"
    assert all(isinstance(o, ActivationObserver) for o in behind["hardtanh"])
    assert all(o.observed(0).hi <= 6.0 and o.observed(0).lo >= 0.0 for o in behind["hardtanh"])
    assert "pad" not in behind


def test_the_best_candidate_is_chosen_and_told(made: Artifact) -> None:
    told = made.meta["calibration"]
    ranges, corrected = told["candidates"][:-1], told["candidates"][-1]
    assert [c["name"] for c in ranges] == ["minmax", "mse"]
    assert corrected["name"] == max(ranges, key=lambda c: c["sqnr_db"])["name"] + "+bias"
    chosen = next(c for c in told["candidates"] if c["name"] == told["chosen"])
    assert chosen["sqnr_db"] >= max(c["sqnr_db"] for c in told["candidates"]) - 1e-9
    assert told["held_back"] == 2 and told["samples"] == 10 and told["refit"] is False


def test_refitting_takes_all_samples_and_a_method_can_be_named(
    backend: Any, exported: Artifact, images: Any
) -> None:
    scheme = Scheme(precision="int8", calibration="minmax", per_channel=False, delegate="xnnpack")
    told = quantized(backend, exported, images, scheme, refit=True).meta["calibration"]
    assert [c["name"] for c in told["candidates"]] == ["minmax", "minmax+bias"]
    assert told["refit"] is True and told["samples"] == len(images)


def test_a_channel_of_tiny_weights_with_a_large_bias_survives(backend: Any, images: Any) -> None:
    """Its weight scale would make the int32 bias overflow."""
    import torch

    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 2, 3)).eval()
    with torch.no_grad():
        net[0].weight[1] = 1e-12
        net[0].bias[1] = 3.0
        want = net(torch.from_numpy(images[0][0])).numpy()
    spec = ModelSpec(
        name="dead",
        source="test",
        sha256="0",
        inputs=(TensorSpec(name="x", shape=(1, 3, 16, 16), dtype="float32"),),
        outputs=(TensorSpec(name="y", shape=want.shape, dtype="float32"),),
    )
    plain = backend.export(net, spec, images[:1], store=Store(), scheme=Scheme(), emit=ignore_events)
    (got,) = backend.session(quantized(backend, plain, images, INT8)).run(images[0])
    assert np.abs(got - want).max() < 0.1 * np.abs(want).max()


def test_overrides_name_units_nodes_and_modules(backend: Any, exported: Artifact, images: Any) -> None:
    for name in ("second/conv2d_1", "conv2d_1", "second"):
        scheme = Scheme(precision="int8", overrides={name: "float32"}, delegate="xnnpack")
        units = backend.units(quantized(backend, exported, images[:3], scheme))
        assert {u.name: u.precision for u in units}["second/conv2d_1"] == "float32"
        assert {u.name: u.precision for u in units}["first/conv2d"] == "int8"
    with pytest.raises(Unsupported, match="no unit 'third'"):
        quantized(backend, exported, images, Scheme(precision="int8", overrides={"third": "float32"}))
    with pytest.raises(Unsupported, match="cannot mix"):
        quantized(backend, exported, images, Scheme(precision="int8", overrides={"first": "dynamic"}))


def test_too_few_or_broken_samples_are_refused(backend: Any, exported: Artifact, images: Any) -> None:
    with pytest.raises(DataError, match="at least 2"):
        quantized(backend, exported, images[:1], INT8)
    with pytest.raises(DataError, match="infinite or NaN"):
        quantized(backend, exported, [[np.full((1, 3, 16, 16), np.nan, np.float32)]] * 2, INT8)


def test_files_hold_no_paths_of_this_machine(exported: Artifact, made: Artifact) -> None:
    for artifact in (exported, made):
        text = artifact.path.read_bytes()
        assert not re.search(rb"/(home|root|tmp|work|usr)/|\.py\b", text)


def test_the_user_is_not_given_a_log_handler(made: Artifact) -> None:
    import logging

    assert all("pytest" in type(h).__module__ for h in logging.root.handlers)
