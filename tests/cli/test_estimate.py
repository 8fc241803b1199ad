"""`edgekit estimate` and `edgekit calibrate`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgekit.devices.fake import FakeLink
from edgekit.store import Store

Cli = Callable[..., Any]


class TestEstimate:
    def test_a_bundle_knows_its_device(self, tiny_build: Any, cli: Cli) -> None:
        said = cli("estimate", tiny_build.built.folder)
        assert said.code == 0, said.err
        rows = dict(line.split("  ", 1) for line in said.out.splitlines() if not line.startswith("Warning"))
        assert "ms, 90 % interval" in rows["Estimate"] and "with 4 threads" in rows["Estimate"]
        assert "Raspberry Pi 4" in rows["Device"] and "tflite/xnnpack" in rows["Device"]
        assert rows["Basis"].strip().startswith("public points; LiteRT")
        assert "54 published" in rows["Checked on"]

    def test_its_json_is_the_reports_estimate(self, tiny_build: Any, cli: Cli) -> None:
        said = cli("estimate", tiny_build.built.folder, "--per-op", "--json")
        assert said.code == 0, said.err
        found = json.loads(said.out)
        (built,) = (m for m in tiny_build.built.report["measurements"] if m["source"] == "estimate")
        assert (found["ms"], found["interval90"]) == (built["median"], built["detail"]["interval90"])
        assert found["ms"] == float(f"{found['ms']:.2g}")
        assert found["interval90"][0] < found["ms"] < found["interval90"][1]
        assert sum(o["ms"] for o in found["ops"]) == pytest.approx(found["ms"], rel=0.1)
        assert found["within_validated_range"] is False, "a tiny net is smaller than any that was checked"
        assert any("less than any network" in w for w in found["warnings"])

    def test_threads_and_device_can_be_chosen(self, tiny_build: Any, cli: Cli) -> None:
        file = tiny_build.built.folder / "bundle" / "model.tflite"
        one = json.loads(cli("estimate", file, "--profile", "pi3b", "--threads", "1", "--json").out)
        assert (one["profile"], one["threads"], one["basis"]) == ("pi3b", 1, "spec")
        four = json.loads(cli("estimate", file, "--profile", "pi3b", "--json").out)
        assert four["threads"] == 4 and four["ms"] < one["ms"]

    def test_operators_are_listed(self, tiny_build: Any, cli: Cli) -> None:
        said = cli("estimate", tiny_build.built.folder, "--per-op")
        head = next(line for line in said.out.splitlines() if line.startswith("#"))
        assert head.split() == ["#", "operator", "op", "kind", "ms", "compute", "memory"]
        assert "CONV_2D" in said.out and "dense" in said.out

    @pytest.mark.parametrize(
        ("profile", "code", "says"),
        [
            (None, 2, "does not say which device"),
            ("generic_arm64", 2, "describes no device"),
            ("android_xnnpack", 4, "has no coefficients for tflite/xnnpack"),
            ("jetson_orin_nano", 4, "no target that runs tflite files"),
        ],
    )
    def test_what_cannot_be_estimated_is_refused(
        self, profile: str | None, code: int, says: str, tiny_build: Any, cli: Cli
    ) -> None:
        file = tiny_build.built.folder / "bundle" / "model.tflite"
        said = cli("estimate", file, *(("--profile", profile) if profile else ()))
        assert said.code == code and says in said.refusal()[0]

    def test_a_file_that_hides_its_operators_is_refused(
        self, tiny_build: Any, cli: Cli, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As a bare .pte does: its delegate's part is in a form of the delegate's own."""
        from edgekit.backends.tflite.backend import TFLiteBackend

        real = TFLiteBackend.units
        monkeypatch.setattr(
            TFLiteBackend,
            "units",
            lambda self, artifact: [replace(u, precision="unknown") for u in real(self, artifact)],
        )
        said = cli("estimate", tiny_build.built.folder)
        assert said.code == 4 and "does not tell what its delegate computes" in said.refusal()[0]

    @pytest.mark.emulator
    def test_the_emulator_adds_instructions(self, tiny_build: Any, cli: Cli, arm64_tools: None) -> None:
        said = cli("estimate", tiny_build.built.folder, "--emulate", "--json")
        assert said.code == 0, said.err
        ops = json.loads(said.out)["instructions"]
        assert len(ops) > 2 and sum(o["instructions"] for o in ops) > 10_000


def test_the_report_shows_the_estimate_with_its_interval(tiny_build: Any) -> None:
    (found,) = (m for m in tiny_build.built.report["measurements"] if m["source"] == "estimate")
    low, high = found["detail"]["interval90"]
    page = (tiny_build.built.folder / "report.html").read_text()
    assert f"{found['median']:g} ms" in page
    assert f"90 % interval {low:g} to {high:g}" in page
    assert "54 published LiteRT" in page


class TestCalibrate:
    @pytest.fixture
    def emulated(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeLink:
        link = FakeLink([], store=Store(tmp_path / "store"), name="emulator", source="emulator")
        monkeypatch.setattr("edgekit.devices.open_link", lambda *args: link)
        return link

    def test_an_emulator_is_refused_at_once(self, emulated: FakeLink, cli: Cli, tmp_path: Path) -> None:
        out = tmp_path / "board.toml"
        said = cli("calibrate", "--device", "emulator", "--profile", "pi4", "--out", out)
        sentence, hint = said.refusal()
        assert said.code == 4 and "no milliseconds" in sentence and "--device" in hint
        assert emulated.calls == [] and not out.exists()

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (("--profile", "android_xnnpack", "--out", "x.toml"), "no estimate section to start from"),
            (("--profile", "pi4", "--out", "x.txt"), "must end in .toml"),
            (("--profile", "pi4", "--out", "no/x.toml"), "there is no folder"),
            (("--profile", "pi4", "--runtime", "caffe", "--out", "x.toml"), "no target of runtime 'caffe'"),
            (("--profile", "generic_arm64", "--out", "x.toml"), "describes no device"),
        ],
    )
    def test_mistakes_are_found_before_anything_runs(
        self, arguments: tuple[str, ...], says: str, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        said = cli("calibrate", "--device", "local", *arguments)
        assert said.code == 2 and says in said.refusal()[0]
        assert list(tmp_path.iterdir()) == []

    def test_a_model_for_another_runtime_is_refused(
        self, tiny_build: Any, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("edgekit.calibrate.generated_jobs", lambda *args, **options: [])
        link = FakeLink([], store=Store(tmp_path / "store"))
        monkeypatch.setattr("edgekit.devices.open_link", lambda *args: link)
        arguments = ("--profile", "pi4", "--runtime", "onnx", "--also", tiny_build.built.folder)
        said = cli("calibrate", "--device", "fake", *arguments, "--out", tmp_path / "x.toml")
        assert said.code == 2 and "is for tflite, the calibration for onnx" in said.refusal()[0]
