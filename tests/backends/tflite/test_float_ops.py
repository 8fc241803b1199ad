"""Operators that a target keeps in float32 by type: what stands in the file, and what XNNPACK takes of it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.backends.tflite.backend import TFLiteBackend, open_file
from edgekit.backends.tflite.flatbuffer import read_graph
from edgekit.backends.tflite.quantize import quantize_file
from edgekit.plan.gates import gates_for
from edgekit.types import Artifact, Gate, Scheme, to_json

SHAPE = (1, 4, 4, 8)
RANGES = {"x": (-4.0, 4.0), "a": (-0.375, 4.0), "b": (-0.375, 8.0), "y": (-0.375, 8.0)}


@pytest.fixture
def swish(handmade: Callable[..., Path]) -> Path:
    """hard-swish, an addition, hard-swish."""
    image = {"shape": SHAPE}
    add = ("AddOptions", {"fusedActivationFunction": 0})
    return handmade(
        {"x": image, "a": image, "b": image, "y": image},
        [
            ("HARD_SWISH", ["x"], ["a"], ("HardSwishOptions", {})),
            ("ADD", ["a", "a"], ["b"], add),
            ("HARD_SWISH", ["b"], ["y"], ("HardSwishOptions", {})),
        ],
        ["x"],
        ["y"],
    )


@pytest.fixture
def made(swish: Path, tmp_path: Path) -> Callable[..., Artifact]:
    def make(**scheme: Any) -> Artifact:
        path = tmp_path / "made.tflite"
        path.write_bytes(quantize_file(swish, Scheme(precision="int8", **scheme), RANGES))
        return open_file(path)

    return make


def precisions(artifact: Artifact) -> list[tuple[str, str]]:
    return [(u.op, u.precision) for u in TFLiteBackend().units(artifact)]


def test_they_stay_in_float32_and_the_rest_does_not(made: Callable[..., Artifact]) -> None:
    artifact = made(float_ops=("HARD_SWISH",))
    assert precisions(artifact) == [("HARD_SWISH", "float32"), ("ADD", "int8"), ("HARD_SWISH", "float32")]
    assert {p for _, p in precisions(made())} == {"int8"}


def test_the_check_expects_them_there(made: Callable[..., Artifact]) -> None:
    backend, scheme = TFLiteBackend(), Scheme(precision="int8", float_ops=("HARD_SWISH",))
    facts, complaints = backend.check(made(float_ops=("HARD_SWISH",)), scheme)
    assert complaints == [] and facts["int8_share"] == pytest.approx(100 / 3)
    assert "do not compute in float32: HARD_SWISH" in backend.check(made(), scheme)[1][0]


def test_a_units_own_exception_goes_before(made: Callable[..., Artifact], swish: Path) -> None:
    first = TFLiteBackend().units(open_file(swish))[0].name
    artifact = made(float_ops=("HARD_SWISH",), overrides={first: "int8"})
    assert precisions(artifact) == [("HARD_SWISH", "int8"), ("ADD", "int8"), ("HARD_SWISH", "float32")]


def test_the_gate_on_int8_leaves_them_out(made: Callable[..., Artifact]) -> None:
    units = to_json(TFLiteBackend().units(made(float_ops=("HARD_SWISH",))))
    gate = Gate(name="int8_share", limit=90.0, comparison=">=", unit="%", reason="share")
    (adapted,) = gates_for([gate], Scheme(precision="int8", float_ops=("HARD_SWISH",)), units)
    assert adapted.limit == 30.0 and "2 operators (HARD_SWISH) that are faster there" in adapted.reason
    (same,) = gates_for([gate], Scheme(precision="int8", float_ops=("GELU",)), units)
    assert same == gate


def test_xnnpack_takes_the_whole_file_and_computes_the_same(
    made: Callable[..., Artifact], delegated: Callable[[Path], list[tuple[int, ...]]]
) -> None:
    """In int8 the built-in kernel runs between partitions; in float32 all is one partition."""
    x = np.random.default_rng(0).uniform(-4, 4, SHAPE).astype(np.float32)

    def run(artifact: Artifact) -> np.ndarray:
        return TFLiteBackend().session(artifact).run([x])[0]

    kept = made(float_ops=("HARD_SWISH",))
    ops = len(read_graph(kept.path).ops)
    assert [len(p) for p in delegated(kept.path)] == [ops]
    got = run(kept)
    whole = made()
    taken = {read_graph(whole.path).ops[i].op for p in delegated(whole.path) for i in p}
    assert "HARD_SWISH" not in taken
    step = 8.375 / 255
    assert np.abs(got - run(whole)).max() <= 2 * step


def test_hard_swish_spelt_by_the_bench_computes_the_same(
    swish: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[3] / "scripts")
    rewritten = importlib.import_module("bench_hardnets").rewritten
    path = tmp_path / "spelt.tflite"
    path.write_bytes(rewritten(swish))
    units = TFLiteBackend().units(open_file(path))
    assert [u.op for u in units] == ["ADD", "MUL", "MUL", "ADD", "ADD", "MUL", "MUL"]
    x = np.random.default_rng(0).uniform(-5, 5, SHAPE).astype(np.float32)
    before, after = (TFLiteBackend().session(open_file(p)).run([x])[0] for p in (swish, path))
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6)
