"""Playing int8 for a ranking on one prepared graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgekit.backends.base import Simulating
from edgekit.types import Scheme

INT8 = Scheme(precision="int8", delegate="xnnpack")


@pytest.fixture(scope="module")
def outputs(tiny: Any) -> Any:
    """Outputs of a session on the samples that are played."""

    def run(artifact: Any) -> Any:
        session = tiny.backend.session(artifact)
        return np.concatenate([session.run(s)[0] for s in tiny.samples[:8]])

    return run


def test_what_is_kept_is_float_and_all_others_are_int8(tiny: Any, int8: Any, outputs: Any) -> None:
    assert isinstance(tiny.backend, Simulating)
    play = tiny.backend.simulator(tiny.artifact, tiny.samples[:20], tiny.samples[:8], INT8)
    want, units = outputs(tiny.artifact), tiny.backend.units(tiny.artifact)
    every = frozenset(u.name for u in units)
    np.testing.assert_allclose(play(every)[0], want, atol=1e-4 * np.abs(want).max())

    def noise(kept: frozenset[str]) -> float:
        return float(((play(kept)[0] - want) ** 2).sum())

    whole, file = noise(frozenset()), float(((outputs(int8) - want) ** 2).sum())
    assert 0.2 < whole / file < 5
    for unit in units:
        if unit.macs:
            assert 0 < noise(every - {unit.name}) < whole


def test_overrides_stay(tiny: Any, outputs: Any) -> None:
    every = [u.name for u in tiny.backend.units(tiny.artifact)]  # the first two are one: a ReLU is fused
    scheme = Scheme(precision="int8", delegate="xnnpack", overrides=dict.fromkeys(every[2:], "float32"))
    play = tiny.backend.simulator(tiny.artifact, tiny.samples[:20], tiny.samples[:8], scheme)
    assert not np.array_equal(play(frozenset())[0], play(frozenset(every))[0])
