"""int8 files on an emulated Cortex-A72: an arm64 torch of the versions that a Raspberry Pi 4 can run."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from torch import nn

from edgekit.bench import bench
from edgekit.devices import open_link
from edgekit.errors import MissingDependency
from edgekit.profiles.loader import load_profile
from edgekit.types import RunProtocol


@pytest.mark.slow
@pytest.mark.emulator
def test_an_emulated_pi4_computes_what_the_host_does(arm64_tools: None, make: Callable[..., Any]) -> None:
    def network() -> nn.Module:
        return nn.Sequential(
            *(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU6()),
            *(nn.Conv2d(16, 16, 3, stride=2, padding=1, groups=16), nn.Hardswish()),
            *(nn.Conv2d(16, 32, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)),
        )

    made = make(network, (1, 3, 32, 32))
    # Pixels from -1 to 1: in that range each lies half-way between two levels, and Arm rounds so otherwise.
    for sample in made.samples:
        sample[0] = (np.round((sample[0].clip(-3, 3) + 3) * 42.5) / 127.5 - 1).astype(np.float32)
    int8 = made.quantized()
    assert set(made.precisions(int8).values()) == {"int8"}
    link = open_link("emulator", load_profile("pi4"), made.store)
    session = made.backend.session(int8)
    encoded = session.encode(made.samples[0])
    try:
        done = bench(
            made.backend,
            int8,
            encoded,
            link,
            store=made.store,
            protocol=RunProtocol(warmup=1, runs=2, threads=1),
            per_op=True,
        )
    except MissingDependency as exc:
        if os.environ.get("EDGEKIT_REQUIRE_EMULATOR") == "1":
            raise
        pytest.skip(str(exc))
    (here,) = session.run_raw(encoded)
    (there,) = done.outputs
    np.testing.assert_array_equal(there, here)
    found = {m.metric: m for m in done.measurements}
    assert found["latency"].median is None
    # 0.5 million multiply-accumulates, and the interpreter around them.
    assert 200_000 < (found["instructions"].median or 0) < 20_000_000
    names = [op["name"] for op in found["instructions"].detail["ops"]]
    assert names[0] == "aten::quantize_per_tensor" and "quantized::conv2d_relu" in names
