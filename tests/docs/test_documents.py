"""README, CONTRIBUTING and CHANGELOG say what is so: commands parse, paths exist, codes and layers agree."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import tomllib
from pathlib import Path

import click
import pytest

import edgekit
from edgekit import errors
from edgekit.cli.main import EXIT_INTERRUPTED, main, run
from edgekit.cli.options import to_request
from edgekit.profiles import load_profile

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/devices.md")
_FILES = (
    "my_model.py",
    "my_weights.safetensors",
    "photos.npz",
    "model.onnx",
    "out/net/pi4/bundle/manifest.json",
    "out/net/pi4/recipe.toml",
    "out/net/android_gpu/bundle/manifest.json",
    "benchmark_model",
)


def commands(name: str, marker: str = "") -> list[str]:
    """Lines after "$ " in a document's console blocks; with ``marker``, in those behind <!-- marker -->."""
    before = rf"<!-- {re.escape(marker)} -->\n" if marker else ""
    blocks = re.findall(before + r"```console\n(.*?)```", (ROOT / name).read_text(), re.DOTALL)
    return [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]


def all_commands() -> list[str]:
    found = [command for name in DOCUMENTS for command in commands(name)]
    assert len(found) > 10, "the documents have lost their commands, or this test no longer finds them"
    return found


def parse(arguments: list[str]) -> None:
    """Take a command line as `edgekit` would, up to running it. Raises what click raises."""
    command: click.Command = main
    context = command.make_context("edgekit", list(arguments))
    while isinstance(command, click.Group):
        rest = [*context._protected_args, *context.args]
        name, found, rest = command.resolve_command(context, rest)
        assert found is not None, f"no command {name}"
        command, context = found, found.make_context(name, rest, parent=context)
    if command.name in ("build", "plan"):
        to_request(context.params)
    if context.params.get("profile"):
        load_profile(context.params["profile"])


@pytest.mark.parametrize("command", [c for c in all_commands() if c.startswith("edgekit ")])
def test_each_edgekit_command_parses(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in _FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "out/net/pi4/recipe.toml").write_text("schema_version = 1\n")
    monkeypatch.chdir(tmp_path)
    parse(shlex.split(command)[1:])


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["build", "--profile", "pi4", "--no-such-option"], click.UsageError),
        (["biuld", "--profile", "pi4"], click.UsageError),
        (["build", "--profile", "pi44"], errors.ProfileError),
        (["plan", "--profile", "pi4", "--set", "prune.ration=1"], errors.UserError),
    ],
)
def test_a_command_that_is_wrong_would_be_found(arguments: list[str], error: type[Exception]) -> None:
    with pytest.raises(error):
        parse(arguments)


@pytest.mark.parametrize(
    "command", sorted({c.split()[0] for c in all_commands() if not c.startswith("edgekit ")})
)
def test_each_script_of_the_documents_is_there(command: str) -> None:
    assert os.access(ROOT / command, os.X_OK), f"{command} is missing or not executable"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_each_path_and_link_of_the_documents_is_there(name: str) -> None:
    text = (ROOT / name).read_text()
    rooms = r"(?:edgekit|tests|scripts|device_profiles|\.ci)/[\w./-]*"
    named = re.findall(rf"(?<![\w/.])({rooms})", text)
    linked = [target for target in re.findall(r"\]\(([^)]+)\)", text) if "://" not in target]
    patterns = {"NAME", "RUNTIME"}  # files that the reader makes
    named = [p.rstrip(".") for p in named if not patterns & set(re.split(r"[/.]", p))]
    places = [*(ROOT / p for p in named), *((ROOT / name).parent / p for p in linked)]
    assert sorted(str(p) for p in places if not p.exists()) == []


def test_the_changelog_has_this_version() -> None:
    headings = re.findall(r"^## \[([^]]+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] in (edgekit.__version__, "Unreleased")
    assert edgekit.__version__ in headings


def test_the_readme_has_every_exit_code() -> None:
    (line,) = [
        line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("Exit codes:")
    ]
    written = {int(code) for code in re.findall(r"\b(\d+) ", line)}
    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, errors.EdgekitError)]
    assert written == {c.exit_code for c in classes} | {errors.EXIT_OK, errors.EXIT_BUG, EXIT_INTERRUPTED}


def test_the_layers_of_contributing_are_those_that_are_enforced() -> None:
    table = (ROOT / "CONTRIBUTING.md").read_text().partition("| layer |")[2].partition("\n\n")[0]
    rows = [line.split("|")[2] for line in table.splitlines() if re.match(r"\| \d", line)]
    written = [
        {p.removesuffix(".py").replace("/", ".") for p in re.findall(r"`([^`]+)`", row)} for row in rows
    ]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    layers = project["tool"]["importlinter"]["contracts"][0]["layers"]
    assert written == [set(re.split(r"\s*\|\s*", layer)) for layer in layers]


def test_the_commands_of_the_readme_are_all_there_is() -> None:
    from edgekit.cli.main import COMMANDS

    shown = {shlex.split(c)[1] for c in all_commands() if c.startswith("edgekit ")}
    mentioned = set(re.findall(r"`edgekit (\w+)", "".join((ROOT / d).read_text() for d in DOCUMENTS)))
    assert set(COMMANDS) <= shown | mentioned
    assert shown | mentioned <= set(COMMANDS)


@pytest.mark.parametrize(
    "name",
    [*DOCUMENTS, ".ci/run", *(f"scripts/{p.name}" for p in (ROOT / "scripts").iterdir() if p.is_file())],
)
def test_no_path_of_one_machine_and_no_registry_is_named(name: str) -> None:
    text = (ROOT / name).read_text()
    assert re.findall(r"(?<![\w.])/(?:work|tmp|root|home)/", text) == []
    hosts = set(re.findall(r"https?://([\w.-]+)", text))
    assert hosts <= {"keepachangelog.com", "semver.org"}


@pytest.mark.slow
@pytest.mark.emulator
def test_the_example_of_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arm64_tools: None, capsys: pytest.CaptureFixture[str]
) -> None:
    import numpy as np
    import torch
    from safetensors.torch import save_file

    (source,) = re.findall(
        r"<!-- my_model.py -->\n```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL
    )
    (tmp_path / "my_model.py").write_text(source)
    spec = importlib.util.spec_from_file_location("my_model", tmp_path / "my_model.py")
    assert spec is not None and spec.loader is not None
    user = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(user)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = user.net()
        x, y = _waves(360)
        optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
        for _ in range(30):
            loss = torch.nn.functional.cross_entropy(net(x[:200]), y[:200])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    save_file(net.state_dict(), tmp_path / "my_weights.safetensors")
    parts = {"calib": slice(200, 260), "test": slice(260, 360)}
    arrays = {f"{p}_{k}": v[s].numpy() for p, s in parts.items() for k, v in (("x", x), ("y", y))}
    np.savez(tmp_path / "photos.npz", **arrays)
    monkeypatch.chdir(tmp_path)
    lines = commands("README.md", "own model")
    wanted = ["plan", "build", "inspect", "verify", "bench", "plan", "inspect"]
    assert [line.split()[1] for line in lines] == wanted
    for line in lines:
        code = run(shlex.split(line)[1:])
        told = capsys.readouterr()
        assert code == 0, f"{line}\n{told.out}\n{told.err}"
        assert told.out.strip()


def _waves(n: int) -> tuple[object, object]:
    """Horizontal, vertical and diagonal waves of any phase, under noise."""
    import torch

    g = torch.Generator().manual_seed(1)
    labels = torch.arange(n) % 3
    rows, columns = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    planes = torch.stack([rows, columns, (rows + columns) / 1.4])[labels]
    waves = torch.sin(planes * 1.3 + 6.3 * torch.rand(n, 1, 1, generator=g))[:, None].expand(n, 3, 32, 32)
    return waves + 0.5 * torch.randn(n, 3, 32, 32, generator=g), labels
