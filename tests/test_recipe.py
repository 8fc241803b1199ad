"""Recipes: what is written can be read, and what is wrong is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgekit.errors import UserError
from edgekit.recipe import Recipe, load_recipe, to_toml
from edgekit.settings import SETTINGS, resolved


def written(folder: Path, recipe: Recipe, comment: str = "a recipe") -> Path:
    path = folder / "recipe.toml"
    path.write_text(to_toml(recipe, comment=comment))
    return path


def test_a_recipe_is_read_as_it_was_written(tmp_path: Path) -> None:
    recipe = Recipe(
        profile="pi4",
        target="onnx/cpu",
        seed=3,
        max_drop=0.5,
        max_size_bytes=1234,
        keep_nchw=True,
        settings={
            "prune.ratio": 0.25,
            "quantize.keep": ("a,b;c", "conv\\2", 'say "x"'),
            "quantize.per_channel": False,
            "search.rungs": (),
            "calib.samples": 64,
        },
    )
    assert load_recipe(written(tmp_path, recipe)) == recipe


def test_every_setting_survives(tmp_path: Path) -> None:
    recipe = Recipe(profile="pi4", settings=resolved({}))
    found = load_recipe(written(tmp_path, recipe))
    assert resolved(found.settings) == resolved({})
    assert set(found.settings) == {k for k, s in SETTINGS.items() if s.default is not None}


def test_a_comment_cannot_break_out(tmp_path: Path) -> None:
    path = written(tmp_path, Recipe(profile="pi4"), comment='one\nprofile = "pi5"\x00\x1b[0m\rtwo')
    assert load_recipe(path).profile == "pi4"


HEAD = "schema_version = 1\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("profile = ", "not TOML"),
        ("profile = 'pi4'", "no recipe of schema_version 1"),
        ("schema_version = 2", "no recipe of schema_version 1"),
        (HEAD + "profil = 'pi4'", "no 'profil'"),
        (HEAD + "seed = 'x'", "seed = 'x' is no int"),
        (HEAD + "seed = true", "seed = True is no int"),
        (HEAD + "seed = -1", "seed = -1 must be at least 0"),
        (HEAD + "max_drop = nan", "max_drop = nan must be between 0 and 100"),
        (HEAD + "max_size_bytes = 0", "max_size_bytes = 0 must be greater than 0"),
        (HEAD + "latency_ms = inf", "latency_ms = inf must be a finite number greater than 0"),
        (HEAD + "speedup = -2.0", "speedup = -2.0 must be a finite number greater than 0"),
        (HEAD + "settings = 3", "settings is no table"),
        (HEAD + "[settings]\n'prune.ration' = 0.1", "no 'prune.ration'"),
        (HEAD + "[settings]\n'prune.ratio' = 'much'", "must be a number"),
        (HEAD + "[settings]\n'prune.ratio' = [0.1]", "must be one value"),
        (HEAD + "[settings]\n'quantize.keep' = [1]", "list of names"),
        (HEAD + "[settings]\n'search.rungs' = ['sideways']", "must be none, or some of"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        load_recipe(path)
    assert said in str(caught.value) and "recipe.toml" in str(caught.value)


def test_a_recipe_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot read"):
        load_recipe(path)


def test_null_stays_with_the_planner() -> None:
    settings: dict[str, Any] = {"quantize.precision": None}
    assert "quantize.precision" not in to_toml(Recipe(settings=settings), comment="")
