"""The promises on real models and real images: see the table of each model in the README.

Needs EDGEKIT_REALDATA, the folder whose entry.py gives models and data sets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edgekit.build import Request, Sources, build
from edgekit.store import Store

pytestmark = [pytest.mark.slow, pytest.mark.realdata]


@dataclass(frozen=True, kw_only=True)
class Promise:
    """What int8 must keep of a published model. ``baseline`` is its top-1 in percent, to two digits."""

    shape: tuple[int, ...]
    calib: str
    eval: str
    baseline: float
    n: int
    drop: float
    sqnr: float | None = None
    agreement: float | None = None
    ratio: float | None = None


CIFAR = {"shape": (1, 3, 32, 32), "n": 509}
PROMISES = {
    "cifar_resnet20": Promise(
        **CIFAR,
        calib="cifar10_train",
        eval="cifar10_test",
        baseline=91.16,
        drop=0.6,
        sqnr=29.0,
        agreement=98.0,
        ratio=3.3,
    ),
    "cifar_resnet56": Promise(**CIFAR, calib="cifar10_train", eval="cifar10_test", baseline=94.11, drop=0.6),
    "mlperf_tiny_ic_resnet8": Promise(
        **CIFAR, calib="cifar10_raw_train", eval="cifar10_raw_test", baseline=89.19, drop=0.6, sqnr=30.0
    ),
    "mobilenet_v2_10_224_tf2_deq": Promise(
        shape=(1, 3, 224, 224),
        n=250,
        calib="imagenet224_calib",
        eval="imagenet224_test",
        baseline=86.0,
        drop=0.8,
        agreement=98.0,
    ),
}


@pytest.fixture(scope="module")
def built(realdata: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Mapping[str, Any]]:
    """The report of an int8 build of a model for the Pi 4, made once."""
    entry, reports = realdata / "entry.py", {}

    def make(name: str) -> Mapping[str, Any]:
        if name not in reports:
            promise = PROMISES[name]
            sources = Sources(
                model=f"{entry}:{name}",
                input_shapes=(promise.shape,),
                calib=f"{entry}:{promise.calib}",
                eval=f"{entry}:{promise.eval}",
            )
            out = tmp_path_factory.mktemp(name)
            reports[name] = build(
                sources, "pi4", Request(max_drop=promise.drop), out=out, store=Store()
            ).report
        return reports[name]

    return make


def int8_row(report: Mapping[str, Any]) -> Mapping[str, Any]:
    return next(r for r in report["numerics"] if r["stage"] == "int8 file")


@pytest.mark.parametrize("name", PROMISES)
def test_int8_keeps_what_is_promised(built: Callable[[str], Mapping[str, Any]], name: str) -> None:
    report, promise = built(name), PROMISES[name]
    accuracy = report["accuracy"]
    assert accuracy["n"] == report["agreement"]["n"] == promise.n
    assert round(accuracy["baseline"], 2) == promise.baseline
    assert accuracy["drop"] <= promise.drop
    if promise.sqnr is not None:
        assert int8_row(report)["sqnr_db"] >= promise.sqnr
    if promise.agreement is not None:
        assert report["agreement"]["top1"] >= promise.agreement
    if promise.ratio is not None:
        assert report["size"]["ratio"] >= promise.ratio
    assert report["status"] == "ok"
    assert report["coverage"]["int8_share"] == 100.0


@pytest.mark.parametrize("name", PROMISES)
def test_the_float_stages_are_the_model(built: Callable[[str], Mapping[str, Any]], name: str) -> None:
    for stage in ("ONNX", "float32 file"):
        row = next(r for r in built(name)["numerics"] if r["stage"] == stage)
        assert row["max_rel"] <= 1e-3


@pytest.mark.emulator
@pytest.mark.parametrize("name", PROMISES)
def test_the_emulated_pi_computes_the_same(
    built: Callable[[str], Mapping[str, Any]], arm64_tools: None, name: str
) -> None:
    report = built(name)
    row = next(r for r in report["numerics"] if "emulated" in r["stage"])
    assert row["max_abs"] == 0.0, "int8 outputs are bit identical"
    counted = {m["subject"]: m for m in report["measurements"] if m["metric"] == "instructions"}
    assert set(counted) == {"baseline", "final"}
    assert all(
        m["source"] == "emulator" and m["median"] > report["macs"]["final"] / 64 for m in counted.values()
    )
