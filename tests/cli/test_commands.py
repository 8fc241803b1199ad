"""Every command: its help, its --json, its environment variables, and what it prints for a person."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from edgekit.cli.main import COMMANDS, main

Cli = Callable[..., Any]


def all_commands() -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Path and command of everything that can be called."""
    context = click.Context(main, info_name="edgekit")
    for name in COMMANDS:
        command = main.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from (((name, inner), c) for inner, c in command.commands.items())
        else:
            yield (name,), command


ALL = dict(all_commands())


def options_of(command: click.Command) -> list[click.Option]:
    return [p for p in command.params if isinstance(p, click.Option)]


@pytest.mark.parametrize("path", ALL, ids=" ".join)
class TestEach:
    def test_the_command_and_each_option_has_help(self, path: tuple[str, ...]) -> None:
        command = ALL[path]
        assert command.help and command.help.strip().endswith(".")
        for option in options_of(command):
            assert option.help and option.help.endswith((".", ").")), option.opts

    def test_help_shows_them(self, path: tuple[str, ...], cli: Cli) -> None:
        said = cli(*path, "--help")
        assert said.code == 0 and said.err == ""
        assert said.out.startswith(f"Usage: edgekit {' '.join(path)}")
        for option in options_of(ALL[path]):
            assert max(option.opts, key=len) in said.out

    def test_it_has_json(self, path: tuple[str, ...]) -> None:
        assert any("--json" in option.opts for option in options_of(ALL[path]))

    def test_its_options_have_variables_of_their_own_names(self, path: tuple[str, ...]) -> None:
        start = "EDGEKIT_" + "_".join(path).upper()
        for option in options_of(ALL[path]):
            flag = max(option.opts, key=len).removeprefix("--").replace("-", "_").upper()
            assert option.envvar == f"{start}_{flag}"


# Arguments of each command for --json; BUNDLE stands for a finished build.
JSON: dict[tuple[str, ...], tuple[tuple[str, ...], str | None]] = {
    ("build",): (("model.py:net", "--calib", "model.py:calib", "--eval", "model.py:eval"), "digest"),
    ("plan",): (("model.py:net", "--calib", "model.py:calib"), "steps"),
    ("profiles", "list"): ((), None),
    ("profiles", "show"): (("pi4",), "cores"),
    ("profiles", "check"): (("pi4", "pi5"), None),
    ("profiles", "detect"): (("local",), "toml"),
    ("inspect",): (("BUNDLE",), "units"),
    ("verify",): (("BUNDLE",), "samples"),
    ("bench",): (("BUNDLE", "--runs", "3"), "measurements"),
    ("estimate",): (("BUNDLE",), "interval90"),
    ("calibrate",): (("--device", "local", "--also", "BUNDLE", "--also", "FILE"), "coefficients"),
    ("deploy",): (("BUNDLE", "--device", "local"), "samples"),
    ("devices",): (("local",), None),
    ("doctor",): ((), None),
    ("cache", "size"): ((), "objects"),
    ("cache", "clear"): ((), "objects"),
}


def test_json_is_tried_for_every_command() -> None:
    assert set(JSON) == set(ALL)


@pytest.mark.parametrize("path", JSON, ids=" ".join)
def test_json_is_one_document_on_stdout(
    path: tuple[str, ...],
    tiny_build: Any,
    work: Path,
    cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    if path in (("bench",), ("calibrate",)) and shutil.which("cc") is None:
        pytest.skip("no C compiler")
    if path == ("cache", "clear"):
        monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "store"))
    arguments, key = JSON[path]
    folder = tiny_build.built.folder
    paths = {"BUNDLE": str(folder), "FILE": str(folder / "bundle" / "model.tflite")}
    given = [paths.get(a, a) for a in arguments]
    if path == ("calibrate",):  # generated models take long to convert; the runs of two files do not
        monkeypatch.setattr("edgekit.calibrate.generated_jobs", lambda *args, **options: [])
        given += ["--profile", "pi4", "--max-spread", "100", "--out", str(tmp_path / "board.toml")]
    if path in (("build",), ("plan",)):
        given += ["--profile", "pi4"]
    said = cli(*path, *given, "--json")
    assert said.code == 0, said.err
    document = json.loads(said.out)
    assert isinstance(document, list) if key is None else key in document


def test_json_of_a_broken_gate_is_still_the_report(
    tiny_build: Any, tiny_command: list[str], cli: Cli, tmp_path: Path
) -> None:
    said = cli(*tiny_command, "--max-size", "0.001", "--json", "--out", tmp_path)
    assert said.code == 6
    assert json.loads(said.out)["status"] == "gate_failed"
    assert "error: " in said.err


def test_what_the_users_code_prints_stays_out_of_the_result(work: Path, cli: Cli) -> None:
    said = cli("plan", "bad.py:chatty", "--profile", "pi4", "--calib", "model.py:calib", "--json")
    assert said.code == 0, said.err
    assert json.loads(said.out)["profile"] == "pi4"
    assert "printed by the user's code\n" in said.err
    assert "printed by a child process\n" in said.err


def test_quiet_prints_results_only(
    tiny_build: Any, tiny_command: list[str], cli: Cli, tmp_path: Path
) -> None:
    said = cli("-q", *tiny_command, "--out", tmp_path)
    assert said.code == 0 and said.err == ""
    assert "Accuracy" in said.out and str(tmp_path / "net" / "pi4" / "report.html") in said.out
    loud = cli(*tiny_command, "--out", tmp_path)
    assert "convert: cached" in loud.err, "the next run is not quiet"


class TestVariables:
    """Each option can come from the environment."""

    def test_build_takes_them(
        self, tiny_build: Any, tiny_model_dir: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        entry = tiny_model_dir / "model.py"
        for name, value in {
            "PROFILE": "pi4",
            "CALIB": f"{entry}:calib",
            "EVAL": f"{entry}:eval",
            "OUT": str(tmp_path / "elsewhere"),
            "JSON": "1",
        }.items():
            monkeypatch.setenv(f"EDGEKIT_BUILD_{name}", value)
        said = cli("build", f"{entry}:net")
        assert said.code == 0, said.err
        assert json.loads(said.out)["digest"] == tiny_build.built.report["digest"]
        assert (tmp_path / "elsewhere" / "net" / "pi4" / "report.html").exists()

    def test_several_values_are_separated_by_spaces(
        self, work: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("EDGEKIT_PLAN_SET", "prune.ratio=0 calib.samples=7")
        monkeypatch.setenv("EDGEKIT_PLAN_INPUT_SHAPE", "1,3,16,16")
        said = cli("plan", "model.py:net", "--profile", "pi4", "--calib", "model.py:calib", "--json")
        assert said.code == 0, said.err
        plan = json.loads(said.out)
        (quantize,) = (s for s in plan["steps"] if s["name"] == "quantize")
        assert quantize["config"]["samples"] == 7
        assert {"alternative": "structured pruning", "reason": "prune.ratio=0 was set"} in plan["rejected"]

    def test_of_one_command_they_do_not_reach_another(
        self, work: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("EDGEKIT_BUILD_PROFILE", "pi4")
        said = cli("plan", "model.py:net")
        assert said.code == 2 and "Missing option '--profile'" in said.err

    def test_quiet(self, work: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
        command = ["plan", "model.py:net", "--profile", "pi4", "--calib", "model.py:calib"]
        assert "load: done" in cli(*command).err
        monkeypatch.setenv("EDGEKIT_QUIET", "1")
        assert cli(*command).err == ""
        monkeypatch.setenv("EDGEKIT_QUIET", "0")
        assert "load: done" in cli(*command).err

    def test_cache(self, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "mine"))
        assert json.loads(cli("cache", "size", "--json").out)["root"] == str(tmp_path / "mine")
        said = cli("--cache", tmp_path / "other", "cache", "size", "--json")
        assert json.loads(said.out)["root"] == str(tmp_path / "other")
        assert list(tmp_path.iterdir()) == [], "to look makes nothing"


class TestDemo:
    """Without MODEL, the built-in demo."""

    def test_plan_prunes_it(self, work: Path, cli: Cli) -> None:
        said = cli("plan", "--profile", "pi4", "--json")
        assert said.code == 0, said.err
        plan = json.loads(said.out)
        assert [s["name"] for s in plan["steps"]][:2] == ["prune", "finetune"]
        assert [g["name"] for g in plan["gates"]] == ["accuracy_drop", "int8_share"]

    @pytest.mark.slow
    def test_build_builds_it(self, tiny_build: Any, work: Path, cli: Cli) -> None:
        said = cli(
            *("build", "--profile", "pi4", "--set", "prune.ratio=0", "--json"),
            *("--calib", "digits", "--eval", "digits"),
        )
        assert said.code == 0, said.err
        report = json.loads(said.out)
        assert report["model"]["name"] == "digits_demo" and report["model"]["source"] == "demo"
        assert report["accuracy"]["baseline"] > 97 and report["accuracy"]["final"] > 97
        assert (work / "out" / "digits_demo" / "pi4" / "bundle" / "run.py").exists()


class TestForAPerson:
    def test_plan_says_what_is_done_and_what_is_not(self, work: Path, cli: Cli) -> None:
        said = cli("plan", "model.py:net", "--profile", "pi4", "--calib", "model.py:calib")
        assert said.code == 0
        for words in ("tflite/xnnpack, int8", "step 1: convert", "gate agreement", "not: structured pruning"):
            assert words in said.out

    def test_inspect_lists_operators(self, tiny_build: Any, cli: Cli) -> None:
        said = cli("inspect", tiny_build.built.folder)
        assert said.code == 0
        lines = said.out.splitlines()
        assert any(line.startswith("Operators") and "100 % int8" in line for line in lines)
        table = lines[next(i for i, line in enumerate(lines) if line.startswith("#")) + 1 :]
        assert len(table) == len(tiny_build.built.report["units"])
        assert sum("CONV_2D" in line and " int8 " in line for line in table) == 3

    def test_verify_tells_of_each_sample(self, tiny_build: Any, cli: Cli) -> None:
        said = cli("verify", tiny_build.built.folder / "bundle")
        assert said.code == 0
        assert [line.split() for line in said.out.splitlines()[1:]] == [
            [str(i), "equal", "0", "ok"] for i in range(3)
        ]

    def test_verify_fails_where_the_file_computes_something_else(
        self, tiny_build: Any, cli: Cli, tmp_path: Path
    ) -> None:
        """Golden outputs of another sample, with the manifest made to fit."""
        from edgekit.store import digest_file

        bundle = tmp_path / "bundle"
        shutil.copytree(tiny_build.built.folder / "bundle", bundle)
        changed = bundle / "golden" / "0_output_0.npy"
        shutil.copyfile(bundle / "golden" / "1_output_0.npy", changed)
        manifest = json.loads((bundle / "manifest.json").read_text())
        manifest["golden"]["samples"][0]["outputs"][0]["sha256"] = digest_file(changed)
        (bundle / "manifest.json").write_text(json.dumps(manifest))
        said = cli("verify", bundle)
        assert said.code == 6
        assert "FAILED" in said.out.splitlines()[1] and "ok" in said.out.splitlines()[2]
        assert "error: 1 of 3 golden samples differ" in said.err

    def test_bench_on_this_host(self, tiny_build: Any, cli: Cli, require_tools: Callable[..., None]) -> None:
        require_tools("cc")
        said = cli("bench", tiny_build.built.folder, "--runs", "7")
        assert said.code == 0, said.err
        (latency,) = (line.split() for line in said.out.splitlines() if line.startswith("latency"))
        assert latency[2] == "ms" and latency[-2:] == ["7", "host"]

    @pytest.mark.emulator
    def test_bench_and_verify_on_the_emulator(self, tiny_build: Any, cli: Cli, arm64_tools: None) -> None:
        said = cli("bench", tiny_build.built.folder, "--device", "emulator", "--json")
        assert said.code == 0, said.err
        found = {m["metric"]: m for m in json.loads(said.out)["measurements"]}
        assert found["instructions"]["median"] > 10_000 and found["latency"]["median"] is None
        (built,) = (
            m
            for m in tiny_build.built.report["measurements"]
            if m["metric"] == "instructions" and m["subject"] == "final"
        )
        assert found["instructions"]["median"] == built["median"], "counts repeat exactly"
        assert cli("verify", tiny_build.built.folder, "--device", "emulator").code == 0

    def test_cache_clear_empties_it(self, own_store: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
        from edgekit.store import Store

        store = Store(own_store)
        sha = store.put_bytes(b"kept")
        store.save_step("k" * 64, {"objects": [sha]})
        assert "1 objects, 1 steps" in cli("cache", "size").out
        (own_store / "native").unlink(missing_ok=True)
        assert "held, now empty: 0.0 MB, 1 objects, 1 steps" in cli("cache", "clear").out
        assert store.usage().objects == 0 and store.load_step("k" * 64) is None


def test_the_console_script_runs(script: list[str]) -> None:
    done = subprocess.run([*script, "--version"], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.startswith("edgekit, version ")
