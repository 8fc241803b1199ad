"""Playing int8 for a ranking: float where all is kept, the file's own error where nothing is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgekit.backends.base import Simulating
from edgekit.types import Scheme


@pytest.mark.parametrize("delegate", ["cpu", "openvino", "tensorrt"])
def test_what_is_kept_is_float_and_all_others_are_int8(joins: Any, delegate: str) -> None:
    assert isinstance(joins.backend, Simulating)
    scheme = Scheme(precision="int8", delegate=delegate)
    play = joins.backend.simulator(joins.artifact, joins.samples, joins.samples, scheme)
    session = joins.backend.session(joins.artifact)
    want = np.concatenate([session.run(s)[0] for s in joins.samples])
    units = joins.backend.units(joins.artifact)
    (everything,) = play(frozenset(u.name for u in units))
    np.testing.assert_allclose(everything, want, atol=1e-5)

    def noise(kept: frozenset[str]) -> float:
        return float(((play(kept)[0] - want) ** 2).sum())

    whole = noise(frozenset())
    session = joins.backend.session(joins.quantized(delegate=delegate))
    file = np.concatenate([session.run(s)[0] for s in joins.samples])
    assert 0.1 < whole / float(((file - want) ** 2).sum()) < 10
    heavy = [u.name for u in units if u.macs]
    alone = [noise(frozenset(u.name for u in units) - {name}) for name in heavy]
    assert min(alone) > 0 and np.median(alone) < whole


def test_overrides_stay(joins: Any) -> None:
    units = [u.name for u in joins.backend.units(joins.artifact)]
    scheme = Scheme(precision="int8", delegate="cpu", overrides=dict.fromkeys(units[1:], "float32"))
    play = joins.backend.simulator(joins.artifact, joins.samples, joins.samples[:2], scheme)
    assert not np.array_equal(play(frozenset())[0], play(frozenset(units[:1]))[0])
