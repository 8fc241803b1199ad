"""Programs and downloads that are not there: found before the work starts."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Cli = Callable[..., Any]


class TestMissingParts:
    @pytest.fixture(autouse=True)
    def built(self, tiny_build: Any) -> None:
        """Steps come from the cache."""

    @pytest.fixture
    def without_qemu(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "bin").mkdir()
        monkeypatch.setenv("PATH", str(tmp_path / "bin"))

    @pytest.fixture
    def offline(self, copied_store: Path, monkeypatch: pytest.MonkeyPatch, arm64_tools: None) -> None:
        """No package index, and a store without the arm64 library."""
        (copied_store / "native").unlink()
        monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/")
        monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
        monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
        monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
        monkeypatch.setenv("PIP_RETRIES", "1")
        monkeypatch.delenv("EDGEKIT_LITERT_AARCH64_WHEEL", raising=False)

    def asked_for(self, cli: Cli, command: list[str], out: Path) -> tuple[str, str]:
        said = cli(*command, "--device", "emulator", "--out", out)
        assert said.code == 3, said.err
        assert "convert" not in said.err, "found before the work starts"
        assert not out.exists()
        refusal: tuple[str, str] = said.refusal()
        return refusal

    def not_asked_for(self, cli: Cli, command: list[str], out: Path) -> str:
        said = cli(*command, "--json", "--out", out)
        assert said.code == 0, said.err
        report = json.loads(said.out)
        assert {m["source"] for m in report["measurements"]} == {"estimate"}
        (warning,) = (w for w in report["warnings"] if w.startswith("nothing was measured"))
        assert warning in said.err
        return str(warning)

    def test_no_qemu(self, without_qemu: None, tiny_command: list[str], cli: Cli, tmp_path: Path) -> None:
        sentence, hint = self.asked_for(cli, tiny_command, tmp_path / "out")
        assert sentence == "qemu-aarch64 is not installed"
        assert hint.startswith("apt-get install --no-install-recommends qemu-user ")

    def test_no_qemu_but_none_asked_for(
        self, without_qemu: None, tiny_command: list[str], cli: Cli, tmp_path: Path
    ) -> None:
        warning = self.not_asked_for(cli, tiny_command, tmp_path / "out")
        assert "qemu-aarch64 is not installed; apt-get install" in warning

    @pytest.mark.parametrize("command", ["bench", "verify"])
    def test_no_qemu_for_a_bundle(self, command: str, without_qemu: None, tiny_build: Any, cli: Cli) -> None:
        said = cli(command, tiny_build.built.folder, "--device", "emulator")
        assert said.code == 3 and "qemu-aarch64 is not installed" in said.refusal()[0]

    @pytest.mark.emulator
    def test_no_network(self, offline: None, tiny_command: list[str], cli: Cli, tmp_path: Path) -> None:
        sentence, hint = self.asked_for(cli, tiny_command, tmp_path / "out")
        assert "the package index cannot be reached" in sentence
        assert "pip download" in hint and "EDGEKIT_LITERT_AARCH64_WHEEL" in hint

    @pytest.mark.emulator
    def test_no_network_but_no_emulator_asked_for(
        self, offline: None, tiny_command: list[str], cli: Cli, tmp_path: Path
    ) -> None:
        warning = self.not_asked_for(cli, tiny_command, tmp_path / "out")
        assert "the package index cannot be reached" in warning
