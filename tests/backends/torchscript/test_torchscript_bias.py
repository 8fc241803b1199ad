"""Corrected biases of layers that QNNPACK runs, behind a ReLU6 that its ranges replace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn


def _coarse() -> nn.Module:
    """ReLU6 that limits half of its values; then layers with one large weight, so that one scale for all
    rounds the rest coarsely. Without and with a bias."""
    net = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU6()),
        *(nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.ReLU6()),
        *(nn.Conv2d(8, 6, 1), nn.Flatten(), nn.Linear(6 * 64, 5)),
    )
    with torch.no_grad():
        net[0].weight.mul_(8)
        net[0].bias.fill_(6.0)
        for layer in (net[2], net[4], net[6]):
            layer.weight.flatten()[0] = 4.0
    return net


def test_the_mean_error_goes_into_the_biases(make: Callable[..., Any]) -> None:
    made = make(_coarse, (1, 3, 8, 8))
    file = made.quantized(per_channel=False, calibration="minmax")
    plain, corrected = file.meta["calibration"]["candidates"]
    assert (plain["name"], corrected["name"]) == ("minmax", "minmax+bias")
    assert corrected["sqnr_db"] > plain["sqnr_db"] + 3
    assert file.meta["calibration"]["chosen"] == "minmax+bias"
    assert made.sqnr(file) == pytest.approx(corrected["sqnr_db"], abs=3)
    assert made.quantized(per_channel=False, calibration="minmax").sha256 == file.sha256


def test_trained_ranges_are_not_corrected(make: Callable[..., Any]) -> None:
    made = make(_coarse, (1, 3, 8, 8))
    file = made.quantized(per_channel=False, trained=((0.0, 6.0, 0.0, 5.0),))
    assert [c["name"] for c in file.meta["calibration"]["candidates"]] == ["trained"]
