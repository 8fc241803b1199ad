"""Builds of every kind of model, with every kind of data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgekit.build import Request, Sources, build
from edgekit.report.validate import load_report
from edgekit.settings import parse_settings

pytestmark = pytest.mark.slow

LOCAL = Request(device="local")


@pytest.fixture(scope="module")
def saved(
    tiny_model_dir: Path, export_tiny: Any, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """The tiny model as .onnx, .pt2 and TorchScript files."""
    import torch

    folder = tmp_path_factory.mktemp("saved")
    tiny = export_tiny("tflite")
    example = (torch.from_numpy(tiny.samples[0][0]),)
    files = {kind: folder / f"tiny.{kind}" for kind in ("onnx", "pt2", "pt")}
    files["onnx"].write_bytes(Path(tiny.store.get(tiny.artifact.meta["onnx_sha256"])).read_bytes())
    torch.export.save(torch.export.export(tiny.module, example), str(files["pt2"]))
    torch.jit.trace(tiny.module, example).save(str(files["pt"]))
    return files


@pytest.mark.parametrize("kind", ["onnx", "pt2", "pt"])
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_an_exported_graph_gives_the_same_accuracy(
    tiny_build: Any, tiny_model_dir: Path, saved: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    entry = tiny_model_dir / "model.py"
    sources = replace(tiny_build.sources, model=str(saved[kind]), train=f"{entry}:train")
    built = tiny_build.run(out=tmp_path, sources=sources, request=LOCAL)
    report, plain = built.report, tiny_build.built.report
    assert built.status == "ok" and built.folder == tmp_path / "tiny" / "pi4"
    assert report["accuracy"]["baseline"] == plain["accuracy"]["baseline"]
    assert report["accuracy"]["drop"] <= 2
    assert report["coverage"]["int8_share"] == 100.0
    assert report["model"]["trainable"] is False and report["pruning"] is None
    assert report["model"]["params"] == pytest.approx(plain["model"]["params"], rel=0.05)
    refused = {r["alternative"]: r["reason"] for r in report["plan"]["rejected"]}
    assert "cannot be changed" in refused["structured pruning"]
    latency = next(m for m in report["measurements"] if m["metric"] == "latency")
    assert latency["source"] == "host" and latency["median"] > 0 and latency["n"] == len(latency["samples"])


def test_training_data_prunes_and_recovers(tiny_build: Any, tiny_model_dir: Path, tmp_path: Path) -> None:
    """Without --calib, too: part of the training data is set aside for calibration."""
    entry = tiny_model_dir / "model.py"
    sources = Sources(model=f"{entry}:net", train=f"{entry}:train", eval=f"{entry}:eval")
    chosen = ["prune.ratio=0.4", "finetune.epochs=6", "finetune.batch_size=32", "finetune.lr=0.003"]
    request = Request(device="local", max_drop=4.0, settings=parse_settings(chosen))
    built = tiny_build.run(out=tmp_path, sources=sources, request=request)
    report = built.report
    assert built.status == "ok"
    assert report["accuracy"]["drop"] <= 4.0
    assert report["accuracy"]["baseline"] == tiny_build.built.report["accuracy"]["baseline"]
    assert report["macs"]["baseline"] > 1.5 * report["macs"]["final"]
    assert report["params"]["baseline"] > 1.5 * report["params"]["final"]
    assert sum(u["macs"] for u in report["units"]) == report["macs"]["final"]
    groups = report["pruning"]["groups"]
    assert groups and all(g["after"] < g["before"] and g["after"] % 8 == 0 for g in groups)
    history = report["pruning"]["finetune"]["history"]
    assert history[-1]["epoch"] == report["pruning"]["finetune"]["epochs"] <= 6
    assert any("set aside for calibration" in w for w in report["warnings"])
    assert report["data"]["train"]["n"] + report["data"]["calib"]["n"] == 300
    names = [s["name"] for s in report["stages"]]
    assert {"prune", "finetune", "convert", "convert compressed"} < set(names)
    assert load_report(built.folder)["digest"] == report["digest"]
    again = tiny_build.run(out=tmp_path, sources=sources, request=request)
    assert all(s["cached"] for s in again.report["stages"])
    assert again.report["digest"] == report["digest"]


def test_calibration_data_alone_gates_on_the_originals_decisions(
    tiny_build: Any, tiny_model_dir: Path, tmp_path: Path
) -> None:
    entry = tiny_model_dir / "model.py"
    sources = Sources(model=f"{entry}:net", calib=f"{entry}:calib_unlabelled")
    chosen = ["gate.min_agreement=80", "gate.min_sqnr=18"]
    built = tiny_build.run(
        out=tmp_path, sources=sources, request=Request(device="local", settings=parse_settings(chosen))
    )
    report = built.report
    assert built.status == "ok"
    assert {g["name"] for g in report["gates"]} == {"agreement", "output_sqnr", "int8_share"}
    assert report["accuracy"] is None and report["agreement"]["n"] == 12
    assert report["calibration"]["n"] == 48, "what the gates are measured on was not calibrated on"


def test_without_data_the_accuracy_is_not_claimed(
    tiny_build: Any, tiny_model_dir: Path, tmp_path: Path
) -> None:
    sources = Sources(model=f"{tiny_model_dir / 'model.py'}:net", input_shapes=((1, 3, 16, 16),))
    built = build(sources, "pi4", LOCAL, out=tmp_path, store=tiny_build.store)
    report = built.report
    assert built.status == "ok" and report["gates"] == []
    assert report["accuracy"] is None and report["agreement"] is None
    assert {u["precision"] for u in report["units"] if u["op"] == "CONV_2D"} == {"dynamic"}
    assert any("not verified on real inputs" in w for w in report["warnings"])
