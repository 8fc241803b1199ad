"""The runner's report and its ETDump, read without a runner where possible."""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgekit.backends.executorch.report import parse_profile
from edgekit.devices.local import LocalLink
from edgekit.errors import DeviceError
from edgekit.types import Artifact, RunProtocol


def test_a_damaged_profile_is_a_device_error() -> None:
    with pytest.raises(DeviceError, match="profile"):
        parse_profile(b"no etdump")


def test_the_profile_has_each_operator_of_one_inference(
    tiny: Any, int8: Artifact, require_tools: Callable[..., None]
) -> None:
    require_tools("c++")
    backend, store = tiny.backend, tiny.store
    encoded = backend.session(int8).encode(tiny.samples[0])
    with store.scratch() as scratch:
        command = backend.device_command(
            int8,
            encoded,
            arch=platform.machine(),
            protocol=RunProtocol(warmup=1, runs=2, threads=1),
            per_op=True,
            store=store,
            scratch=scratch,
        )
        result = LocalLink(store).run(command, timeout_s=120)
    assert result.returncode == 0 and result.stderr == ""
    report = backend.parse(result.stdout, result.outputs)
    names = [o["name"] for o in report["ops"]]
    assert sum("Convolution" in n for n in names) == 3, "one inference, not two"
    assert all(o["us"] >= 0 for o in report["ops"])
    (out,) = backend.read_outputs(int8, [result.outputs["out0.bin"]])
    np.testing.assert_array_equal(out, backend.session(int8).run_raw(encoded)[0])
