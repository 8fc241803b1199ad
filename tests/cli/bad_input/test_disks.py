"""Output folders and stores that cannot be written, fill up or are damaged."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgekit.store import Store

Cli = Callable[..., Any]
OnlySteps = Callable[..., bool]
DATA = ("--profile", "pi4", "--calib", "model.py:calib", "--eval", "model.py:eval")


class TestOutput:
    @pytest.fixture(autouse=True)
    def built(self, tiny_build: Any) -> None:
        """Steps come from the cache: only the output is at stake here."""

    def test_a_file_in_the_way(self, tiny_command: list[str], cli: Cli, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("mine")
        for out in (tmp_path / "file", tmp_path / "file" / "below"):
            said = cli(*tiny_command, "--out", out)
            assert said.code == 2
            assert "file" in said.refusal()[0]
        assert (tmp_path / "file").read_text() == "mine"

    def test_a_read_only_folder(
        self, tiny_command: list[str], cli: Cli, small_disk: Callable[..., Path]
    ) -> None:
        out = small_disk(40, read_only=True) / "out"
        said = cli(*tiny_command, "--out", out)
        assert said.code == 2
        sentence, hint = said.refusal()
        assert sentence == f"the output folder {out}/net/pi4 cannot be written: the file system is read-only"
        assert "--out" in hint
        assert "baseline" not in said.err, "found before the work starts"

    def test_a_folder_without_permission(self, tiny_command: list[str], cli: Cli, tmp_path: Path) -> None:
        if os.geteuid() == 0:
            pytest.skip("root may write everywhere")
        (tmp_path / "closed").mkdir(mode=0o500)
        said = cli(*tiny_command, "--out", tmp_path / "closed" / "out")
        assert said.code == 2 and "no permission" in said.refusal()[0]

    @pytest.mark.parametrize("kilobytes", [20, 60, 100])
    def test_a_full_disk_leaves_nothing(
        self, kilobytes: int, tiny_command: list[str], cli: Cli, small_disk: Callable[..., Path]
    ) -> None:
        disk = small_disk(kilobytes)
        said = cli(*tiny_command, "--out", disk / "out")
        assert said.code == 5
        sentence, hint = said.refusal()
        assert sentence.startswith("the disk is full while writing") and "free some space" in hint
        assert list(disk.iterdir()) == []

    def test_a_full_disk_leaves_the_former_build_as_it_was(
        self, tiny_command: list[str], cli: Cli, small_disk: Callable[..., Path]
    ) -> None:
        disk = small_disk(400)
        assert cli(*tiny_command, "--out", disk / "out").code == 0
        before = contents(disk / "out")
        free = shutil.disk_usage(disk).free
        (disk / "filler").write_bytes(b"\0" * max(0, free - 24_000))
        said = cli(*tiny_command, "--max-size", "1", "--out", disk / "out")
        assert said.code == 5 and "the disk is full" in said.refusal()[0]
        assert contents(disk / "out") == before


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


class TestStore:
    def test_a_full_disk(
        self, cli: Cli, work: Path, small_disk: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        root = small_disk(16) / "store"
        monkeypatch.setenv("EDGEKIT_CACHE", str(root))
        said = cli("build", "model.py:net", *DATA)
        assert said.code == 5
        sentence, hint = said.refusal()
        assert sentence.startswith("the disk is full while") and "EDGEKIT_CACHE" in hint
        assert not (work / "out").exists()
        assert all_whole(root)

    def test_a_disk_that_fills_up_while_the_converter_runs(
        self,
        tiny_build: Any,
        cli: Cli,
        work: Path,
        small_disk: Callable[..., Path],
        monkeypatch: pytest.MonkeyPatch,
        only_steps: OnlySteps,
    ) -> None:
        root = small_disk(2000) / "store"
        root.mkdir()
        (root / "native").symlink_to(tiny_build.store.root / "native")
        monkeypatch.setenv("EDGEKIT_CACHE", str(root))
        said = cli("build", "model.py:net", *DATA)
        assert said.code == 5
        assert said.refusal()[0] == "the disk is full while converting the model"
        assert not (work / "out").exists()
        assert all_whole(root) and only_steps(root, "preflight", "lint", "baseline")
        assert list((root / "tmp").iterdir()) == [], "scratch is cleared away"

    def test_a_read_only_folder(
        self, cli: Cli, work: Path, small_disk: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("EDGEKIT_CACHE", str(small_disk(40, read_only=True)))
        said = cli("build", "model.py:net", *DATA)
        assert said.code == 5 and "EDGEKIT_CACHE" in said.refusal()[1]

    def test_a_file_in_the_way(
        self, cli: Cli, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "file").write_text("mine")
        monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "file" / "store"))
        said = cli("build", "model.py:net", *DATA)
        assert said.code == 5 and "a file is in the way" in said.refusal()[0]

    def test_a_cut_object_is_made_again(
        self,
        tiny_build: Any,
        tiny_command: list[str],
        copied_store: Path,
        cli: Cli,
        tmp_path: Path,
    ) -> None:
        model = next(f["sha256"] for f in tiny_build.built.report["bundle"]["files"] if "tflite" in f["path"])
        damaged = Store(copied_store).object_path(model)
        whole = damaged.read_bytes()
        damaged.chmod(0o644)
        damaged.write_bytes(whole[:100])
        said = cli(*tiny_command, "--json", "--out", tmp_path / "out")
        assert said.code == 0, said.err
        report = json.loads(said.out)
        assert report["digest"] == tiny_build.built.report["digest"]
        cached = {s["name"]: s["cached"] for s in report["stages"]}
        assert cached["convert"] and not cached["quantize"]
        assert damaged.read_bytes() == whole


def all_whole(root: Path) -> bool:
    """Whether every stored object has the bytes that its name promises."""
    from edgekit.store import digest_file

    return all(digest_file(p) == p.name for p in (root / "objects").glob("*/*"))
