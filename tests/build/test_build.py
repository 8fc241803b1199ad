"""A whole build: what it writes, what it remembers, what stops it."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.backends.tflite.backend import TFLiteBackend
from edgekit.backends.tflite.flatbuffer import constant, read_graph, read_model, write_model
from edgekit.build import Request, Sources, build, plan_build
from edgekit.build.lowering import check_finite, digest_arrays
from edgekit.errors import DataError, ParityError, StepFailed, StoreError, Unsupported, UserError
from edgekit.report.validate import load_report, validate_report
from edgekit.settings import parse_settings
from edgekit.store import Store, digest_file
from edgekit.types import Event

STEPS = [
    "preflight",
    "lint",
    "baseline",
    "convert",
    "quantize",
    "verify",
    "measure",
    "operators",
    "quantize fp16 for comparison",
    "verify fp16 for comparison",
    "golden samples",
]


def measured(report: dict[str, Any], metric: str, subject: str = "final") -> dict[str, Any] | None:
    return next((m for m in report["measurements"] if (m["metric"], m["subject"]) == (metric, subject)), None)


class TestFinished:
    """The session's build of the tiny model."""

    def test_it_is_done_and_every_gate_holds(self, tiny_build: Any) -> None:
        built = tiny_build.built
        assert built.status == "ok" and built.failed_gates == ()
        assert built.folder == tiny_build.out / "net" / "pi4"
        assert sorted(p.name for p in built.folder.iterdir()) == [
            "bundle",
            "events.jsonl",
            "recipe.toml",
            "report.html",
            "report.json",
        ]

    def test_the_report_on_disk_is_the_returned_one_and_fits_its_schema(self, tiny_build: Any) -> None:
        report = load_report(tiny_build.built.folder)
        validate_report(report)
        assert report == json.loads(json.dumps(tiny_build.built.report))

    def test_its_figures_hang_together(self, tiny_build: Any) -> None:
        report = tiny_build.built.report
        accuracy, size = report["accuracy"], report["size"]
        assert 88 < accuracy["baseline"] < 100, "a model that is never wrong tests nothing"
        assert accuracy["drop"] == pytest.approx(accuracy["baseline"] - accuracy["final"])
        assert accuracy["n"] == 150 and report["agreement"]["n"] == 150
        assert size["ratio"] == pytest.approx(size["baseline_bytes"] / size["final_bytes"])
        assert size["ratio"] > 2.4
        assert size["final_bytes"] == (tiny_build.built.folder / "bundle" / "model.tflite").stat().st_size
        assert (
            sum(u["macs"] for u in report["units"]) == report["macs"]["final"] == report["macs"]["baseline"]
        )
        assert report["coverage"]["int8_share"] == 100.0
        assert [s["name"] for s in report["stages"]] == STEPS
        assert report["calibration"]["chosen"].removesuffix("+bias") in ("minmax", "mse")

    def test_its_accuracy_is_the_models_own(self, tiny_build: Any, export_tiny: Callable[..., Any]) -> None:
        import torch

        tiny = export_tiny("tflite")
        with torch.inference_mode():
            guesses = (
                tiny.module(torch.from_numpy(np.concatenate([s[0] for s in tiny.samples]))).argmax(1).numpy()
            )
        hits = int((guesses == tiny.labels).sum())
        assert tiny_build.built.report["accuracy"]["baseline"] == 100 * hits / len(tiny.labels)

    def test_every_stage_is_compared_with_what_it_came_from(self, tiny_build: Any) -> None:
        rows = {r["stage"]: r for r in tiny_build.built.report["numerics"]}
        assert rows["ONNX"]["max_rel"] < 1e-5 and rows["float32 file"]["max_rel"] < 1e-5
        assert 20 < rows["int8 file"]["sqnr_db"] < 80
        assert all(u["sqnr_db"] > 15 for u in tiny_build.built.report["units"])

    def test_a_latency_from_the_emulator_is_null(self, tiny_build: Any, arm64_tools: None) -> None:
        report = tiny_build.built.report
        latency, counted = measured(report, "latency"), measured(report, "instructions")
        assert latency is not None and latency["source"] == "emulator" and latency["median"] is None
        assert counted is not None and counted["unit"] == "instructions"
        assert counted["median"] == sum(counted["samples"]) / counted["n"] > 10_000
        assert sum(counted["detail"]["classes"].values()) == counted["samples"][-1]
        assert rows_of(report, "emulated")["max_abs"] == 0.0, "int8 outputs are bit identical"

    def test_the_bundle_is_what_the_report_says(self, tiny_build: Any) -> None:
        folder = tiny_build.built.folder / "bundle"
        listed = {f["path"]: f for f in tiny_build.built.report["bundle"]["files"]}
        found = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
        assert set(listed) == found >= {"model.tflite", "manifest.json", "run.py"}
        for name, entry in listed.items():
            assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == entry["sha256"]

    def test_the_bundle_runs_by_itself(self, tiny_build: Any) -> None:
        done = subprocess.run(
            [sys.executable, "run.py"], cwd=tiny_build.built.folder / "bundle", capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def test_events_tell_each_step(self, tiny_build: Any) -> None:
        lines = (tiny_build.built.folder / "events.jsonl").read_text().splitlines()
        events = [json.loads(line) for line in lines]
        started = [e["step"] for e in events if e["kind"] == "step_started"]
        assert started == ["load", *STEPS]
        assert [e["step"] for e in events if e["kind"] == "step_finished"] == started

    def test_again_everything_comes_from_the_cache(self, tiny_build: Any, tmp_path: Path) -> None:
        again = tiny_build.run(out=tmp_path)
        assert all(s["cached"] for s in again.report["stages"])
        assert again.report["digest"] == tiny_build.built.report["digest"]
        for file in again.report["bundle"]["files"]:
            name = Path("bundle") / file["path"]
            assert digest_file(again.folder / name) == digest_file(tiny_build.built.folder / name)

    def test_another_seed_is_another_build(self, tiny_build: Any, tmp_path: Path) -> None:
        emitted: list[Event] = []

        class Enough(Exception):
            pass

        def stop(event: Event) -> None:
            emitted.append(event)
            if event.kind == "step_finished" and event.step == "baseline":
                raise Enough

        with pytest.raises(Enough):
            tiny_build.run(out=tmp_path, seed=1, emit=stop)
        assert emitted[-1].data["cached"] is False
        assert list(tmp_path.iterdir()) == []


def rows_of(report: dict[str, Any], word: str) -> dict[str, Any]:
    return next(r for r in report["numerics"] if word in r["stage"])


class TestGates:
    def test_a_broken_gate_keeps_the_bundle_as_a_candidate(self, tiny_build: Any, tmp_path: Path) -> None:
        request = Request(max_size_bytes=1000, settings=parse_settings(["quantize.calibration=auto"]))
        built = tiny_build.run(out=tmp_path, request=request)
        assert built.status == built.report["status"] == "gate_failed"
        assert [g.name for g in built.failed_gates] == ["file_size"]
        row = next(g for g in built.report["gates"] if g["name"] == "file_size")
        assert row["passed"] is False and row["measured"] > row["limit"] == 1000
        assert (built.folder / "bundle" / "model.tflite").is_file()
        assert load_report(built.folder)["status"] == "gate_failed"

    def test_a_gate_that_was_not_measured_is_not_passed(self, tiny_build: Any) -> None:
        report = tiny_build.built.report
        assert all(g["passed"] is True and g["measured"] is not None for g in report["gates"])


class TestParity:
    """A conversion that computes something else."""

    def tamper(self, monkeypatch: pytest.MonkeyPatch, tiny: Any, factor: float) -> None:
        """Make ``export`` return the tiny model's file with the weights of its second layer scaled."""

        def export(self: Any, *arguments: Any, store: Store, **more: Any) -> Any:
            model, graph = read_model(tiny.artifact.path), read_graph(tiny.artifact.path)
            op = [o for o in graph.ops if o.op == "CONV_2D"][1]
            weights = constant(model, op.inputs[1]) * np.float32(factor)
            buffer = model.buffers[model.subgraphs[0].tensors[op.inputs[1]].buffer]
            buffer.data = np.frombuffer(weights.tobytes(), dtype=np.uint8)
            for sha in (tiny.artifact.meta["onnx_sha256"], tiny.artifact.meta["log_sha256"]):
                store.put_file(tiny.store.get(sha))
            sha = store.put_bytes(write_model(model))
            return replace(tiny.artifact, sha256=sha, path=store.get(sha))

        monkeypatch.setattr(TFLiteBackend, "export", export)

    def test_it_is_named_and_nothing_is_written(
        self,
        tiny_build: Any,
        export_tiny: Callable[[str], Any],
        fresh_store: Callable[[], Store],
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        store, out = fresh_store(), tmp_path / "out"
        tiny = export_tiny("tflite")
        layer = [u.name for u in tiny.backend.units(tiny.artifact) if u.op == "CONV_2D"][1]
        with monkeypatch.context() as patch:
            self.tamper(patch, tiny, 1.01)
            for _ in range(2):  # a failure is not remembered as a result
                with pytest.raises(ParityError) as caught:
                    tiny_build.run(store=store, out=out)
                assert f"the first layer that differs is {layer} " in str(caught.value)
                assert "float32 file differs from the torch model" in str(caught.value)
        assert not out.exists()
        assert store.usage().steps == 3, "preflight, lint and the outputs of the original"

    def test_rounding_is_no_difference(
        self,
        tiny_build: Any,
        export_tiny: Callable[[str], Any],
        fresh_store: Callable[[], Store],
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        self.tamper(monkeypatch, export_tiny("tflite"), 1.0 + 1e-6)
        built = tiny_build.run(store=fresh_store(), out=tmp_path / "out", request=Request(device="local"))
        assert built.status == "ok"

    def test_nan_is_a_difference(
        self,
        tiny_build: Any,
        export_tiny: Callable[[str], Any],
        fresh_store: Callable[[], Store],
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        self.tamper(monkeypatch, export_tiny("tflite"), float("nan"))
        with pytest.raises(ParityError, match="differs from the torch model by inf"):
            tiny_build.run(store=fresh_store(), out=tmp_path / "out")


class TestRefused:
    """Bad input: one sentence, and nothing half-written."""

    @pytest.mark.parametrize(
        ("changes", "kind", "message"),
        [
            ({"calib": "{}:eval"}, DataError, "given for both"),
            ({"model": "{}:nothing"}, UserError, "nothing"),
            ({"input_shapes": ((1, 3, 32, 32),)}, DataError, "samples of"),
            ({"eval": "{}:calib_unlabelled", "calib": "{}:train"}, DataError, "has no labels"),
        ],
    )
    def test_sources_that_cannot_be(
        self,
        tiny_build: Any,
        tiny_model_dir: Path,
        tmp_path: Path,
        changes: dict[str, Any],
        kind: type[Exception],
        message: str,
    ) -> None:
        entry = tiny_model_dir / "model.py"
        named = {k: v.format(entry) if isinstance(v, str) else v for k, v in changes.items()}
        with pytest.raises(kind, match=message):
            tiny_build.run(out=tmp_path / "out", sources=replace(tiny_build.sources, **named))
        assert not (tmp_path / "out").exists()

    def test_a_profile_without_backend(
        self, tiny_build: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("edgekit.plan.RUNTIMES", ("tflite",))
        with pytest.raises(Unsupported, match="jetson_nano"):
            build(tiny_build.sources, "jetson_nano", Request(), out=tmp_path / "out", store=tiny_build.store)
        assert not (tmp_path / "out").exists()

    def test_outputs_that_are_not_finite(self) -> None:
        good = np.ones((3, 2))
        check_finite([good], "the file", hint="h")
        bad = good.copy()
        bad[1, 0] = np.inf
        with pytest.raises(StepFailed, match="the file gives NaN or infinity in output 1 for sample 1"):
            check_finite([good, bad], "the file", hint="h")

    def test_a_full_disk(self, tiny_build: Any, small_disk: Path, tmp_path: Path) -> None:
        with pytest.raises(StoreError, match="the disk is full while"):
            tiny_build.run(store=Store(small_disk / "store"), out=tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_a_full_disk_where_the_bundle_goes(self, tiny_build: Any, small_disk: Path) -> None:
        (small_disk / "filler").write_bytes(bytes(2_000_000))
        with pytest.raises(StoreError, match="the disk is full while"):
            tiny_build.run(out=small_disk / "out")
        left = [p for p in (small_disk / "out").rglob("*") if p.is_file()]
        assert left == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """A file system of 2 MB."""
    import os

    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2000k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("a small file system cannot be mounted here (needs root)")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_planning_runs_no_step(tiny_build: Any) -> None:
    before = tiny_build.store.usage()
    inputs, (plan,) = plan_build(tiny_build.sources, "pi4", Request())
    assert plan.scheme.precision == "int8" and inputs.facts().eval == 150
    assert tiny_build.store.usage() == before


def test_arrays_are_named_by_shape_type_and_values() -> None:
    x = np.arange(6, dtype=np.float32)
    names = {
        digest_arrays([a])
        for a in (x, x.reshape(2, 3), x.reshape(3, 2), x.astype(np.float64), x + 1, x[::-1])
    }
    assert len(names) == 6
    assert digest_arrays([x, x]) != digest_arrays([x])
    assert digest_arrays([np.stack([x, x], 1)[:, 0]]) == digest_arrays([x]), "strides do not count"


def test_sources_default_to_the_demo() -> None:
    assert Sources().model is None
