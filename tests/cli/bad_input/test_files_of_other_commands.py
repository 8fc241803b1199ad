"""Files and bundles that inspect, bench and verify cannot take."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar

import pytest

Cli = Callable[..., Any]


class TestFilesGivenToOtherCommands:
    JUNK: ClassVar[dict[str, Callable[[bytes], bytes]]] = {
        "text": lambda whole: b"this is text",
        "empty": lambda whole: b"",
        "cut in half": lambda whole: whole[: len(whole) // 2],
        "cut after the magic": lambda whole: whole[:8],
        "no offsets": lambda whole: whole[:8] + b"\xff" * 400,
        "names that are no text": lambda whole: whole.replace(b"PartitionedCall", b"\xff\xfe" * 7 + b"\xff"),
    }

    @pytest.mark.parametrize("command", ["inspect", "bench", "verify", "estimate"])
    @pytest.mark.parametrize("name", JUNK)
    def test_a_file_that_is_no_model(
        self, name: str, command: str, tiny_build: Any, cli: Cli, tmp_path: Path
    ) -> None:
        whole = (tiny_build.built.folder / "bundle" / "model.tflite").read_bytes()
        path = tmp_path / "junk.tflite"
        path.write_bytes(self.JUNK[name](whole))
        said = cli(command, path)
        assert said.code == 2, said.err
        assert "junk.tflite" in said.refusal()[0]

    @pytest.mark.parametrize("command", ["inspect", "bench", "verify", "estimate"])
    def test_a_folder_that_is_no_bundle(self, command: str, cli: Cli, tmp_path: Path) -> None:
        said = cli(command, tmp_path)
        assert said.code == 2
        assert said.refusal()[0] == f"{tmp_path} is no bundle: it has no manifest.json"

    @pytest.mark.parametrize("command", ["inspect", "bench", "verify", "estimate"])
    def test_nothing_there(self, command: str, cli: Cli, tmp_path: Path) -> None:
        said = cli(command, tmp_path / "gone")
        assert said.code == 2 and "does not exist" in said.refusal()[0]

    def test_another_kind_of_file(self, cli: Cli, work: Path) -> None:
        said = cli("bench", "model.py")
        assert said.code == 2 and "model.py is not a model file or a bundle" in said.refusal()[0]

    def test_a_bare_file_has_no_golden_samples(self, tiny_build: Any, cli: Cli) -> None:
        said = cli("verify", tiny_build.built.folder / "bundle" / "model.tflite")
        assert said.code == 2 and "without golden samples" in said.refusal()[0]

    @pytest.mark.parametrize("command", ["inspect", "bench", "verify", "estimate"])
    @pytest.mark.parametrize(
        ("damage", "code", "words"),
        [
            ("tampered model", 5, "model.tflite is damaged or was changed"),
            ("missing model", 2, "lacks the file 'model.tflite'"),
            ("missing golden sample", 2, "lacks the file 'golden/0_input_0.npy'"),
            ("manifest that is no JSON", 2, "manifest.json is not JSON"),
            ("manifest that lacks keys", 2, "is not a valid manifest"),
            ("path that leads out", 2, "lies outside the bundle"),
        ],
    )
    def test_a_damaged_bundle(
        self,
        damage: str,
        code: int,
        words: str,
        command: str,
        tiny_build: Any,
        cli: Cli,
        tmp_path: Path,
    ) -> None:
        bundle = tmp_path / "bundle"
        shutil.copytree(tiny_build.built.folder / "bundle", bundle)
        damage_bundle(bundle, damage)
        said = cli(command, bundle)
        assert said.code == code, said.err
        assert words in said.refusal()[0]

    @pytest.mark.parametrize(
        ("arguments", "code", "words"),
        [
            (("--device", "pigeon"), 2, "unknown device 'pigeon'"),
            (("--device", "ssh:-oProxyCommand=id"), 2, "is not ssh:"),
            (("--device", "emulator", "--profile", "pi44"), 2, "no profile named 'pi44'"),
            (("--device", "emulator", "--profile", "jetson_nano"), 4, "cannot be emulated"),
            (("--runs", "0"), 2, "'--runs'"),
        ],
    )
    def test_bench_that_cannot_be(
        self, arguments: Iterable[str], code: int, words: str, tiny_build: Any, cli: Cli
    ) -> None:
        said = cli("bench", tiny_build.built.folder, *arguments)
        assert said.code == code, said.err
        assert words in said.refusal()[0]

    def test_a_bare_file_needs_a_profile_to_be_emulated(self, tiny_build: Any, cli: Cli) -> None:
        said = cli("bench", tiny_build.built.folder / "bundle" / "model.tflite", "--device", "emulator")
        assert said.code == 2 and "--profile" in said.refusal()[1]


def damage_bundle(bundle: Path, damage: str) -> None:
    manifest = bundle / "manifest.json"
    match damage:
        case "tampered model":
            with (bundle / "model.tflite").open("ab") as model:
                model.write(b"x")
        case "missing model":
            (bundle / "model.tflite").unlink()
        case "missing golden sample":
            (bundle / "golden" / "0_input_0.npy").unlink()
        case "manifest that is no JSON":
            manifest.write_text("{")
        case "manifest that lacks keys":
            manifest.write_text('{"schema_version": 1}')
        case "path that leads out":
            manifest.write_text(manifest.read_text().replace('"model.tflite"', '"../model.tflite"'))
        case _:
            raise ValueError(damage)
