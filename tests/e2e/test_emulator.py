"""The tiny model on the emulated Pi 4: the host's values, bit for bit, and counts that repeat."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgekit.bench import Bench, bench
from edgekit.devices.open import open_link
from edgekit.profiles.loader import load_profile
from edgekit.types import RunProtocol, Scheme, ignore_events

pytestmark = pytest.mark.emulator


@pytest.fixture(scope="module")
def counts(export_tiny: Callable[[str], Any], arm64_tools: None) -> Callable[..., tuple[Bench, list[Any]]]:
    """Run a precision of the tiny model there; also gives what the host computes."""
    tiny = export_tiny("tflite")
    link = open_link("emulator", load_profile("pi4"), tiny.store)

    def run(precision: str, **options: Any) -> tuple[Bench, list[Any]]:
        artifact = tiny.backend.quantize(
            tiny.artifact,
            tiny.samples[:20],
            Scheme(precision=precision, calibration="minmax"),  # type: ignore[arg-type]
            refit=True,
            store=tiny.store,
            emit=ignore_events,
        )
        session = tiny.backend.session(artifact)
        encoded = session.encode(tiny.samples[30])
        protocol = RunProtocol(warmup=1, runs=2, threads=1)
        done = bench(tiny.backend, artifact, encoded, link, store=tiny.store, protocol=protocol, **options)
        return done, session.run_raw(encoded)

    return run


def instructions(done: Bench) -> Any:
    return next(m for m in done.measurements if m.metric == "instructions")


def test_int8_is_the_hosts_bit_for_bit_and_counts_repeat(counts: Callable[..., Any]) -> None:
    (first, here), (second, _) = counts("int8"), counts("int8")
    for a, b, c in zip(first.outputs, second.outputs, here, strict=True):
        np.testing.assert_array_equal(a, c)
        np.testing.assert_array_equal(b, c)
    assert instructions(first).samples == instructions(second).samples
    assert instructions(first).detail == instructions(second).detail
    assert len(set(instructions(first).samples)) == 1, "each inference takes the same instructions"


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("fp16", 1e-5), ("dynamic", 0.1)])
def test_other_precisions_are_close(counts: Callable[..., Any], precision: str, tolerance: float) -> None:
    done, here = counts(precision)
    for there, value in zip(done.outputs, here, strict=True):
        np.testing.assert_allclose(there, value, atol=tolerance * np.abs(value).max())
    assert instructions(done).median > 10_000


def test_operators_sum_up_to_the_whole(counts: Callable[..., Any]) -> None:
    done, _ = counts("float32", per_op=True, caches=True)
    whole, ops = instructions(done), instructions(done).detail["ops"]
    assert any("Convolution" in o["name"] for o in ops)
    assert 0.5 * whole.median < sum(o["instructions"] for o in ops) <= 1.05 * whole.median
    misses = {m.metric: m.median for m in done.measurements if m.unit == "misses"}
    assert {"l1d_misses", "l1i_misses", "l2_misses"} <= set(misses)
    assert all(0 <= n < whole.median for n in misses.values())
