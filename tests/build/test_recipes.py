"""The command in a recipe's comment: it is taken as it stands, and names all that the recipe leaves out."""

from __future__ import annotations

import shlex
from pathlib import Path

from edgekit.build import Request, Sources
from edgekit.build.recipes import command_of
from edgekit.cli.main import main
from edgekit.cli.options import to_request
from edgekit.types import Preprocessing


def test_the_command_gives_the_same_sources_again(tmp_path: Path) -> None:
    weights = tmp_path / "my weights.safetensors"
    weights.touch()
    sources = Sources(
        model="net.py:net",
        weights=weights,
        input_shapes=((1, 3, 8, 8), (1, 4)),
        input_dtypes=(None, "int64"),
        calib="photos of cats",
        eval="net.py:test",
        train="net.py:train",
        task="generic",
        input_range=(0.0, 1.0),
        preprocessing=Preprocessing(scale=255.0, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.1)),
        allow_overlap=True,
    )
    wanted = Request(teacher="big.py:net", student="small.py:net")
    words = shlex.split(command_of(sources, wanted))
    assert words[:2] == ["edgekit", "build"] and words[-2:] == ["--recipe", "recipe.toml"]
    command = main.get_command(main.make_context("edgekit", ["build"]), "build")
    assert command is not None
    context = command.make_context("build", [*words[2:-2], "--profile", "pi4"])
    found, request = to_request(context.params)
    assert found == sources
    assert (request.teacher, request.student) == ("big.py:net", "small.py:net")


def test_the_demo_needs_no_model() -> None:
    assert command_of(Sources(), Request()) == "edgekit build --recipe recipe.toml"
