"""recipe.toml: all wishes and settings of a build, to be repeated or changed.

A recipe holds what was asked for and what a search found, never the data or the model: the same recipe on
the same sources, seed and machine gives the same file, bit for bit.
"""

from __future__ import annotations

import difflib
import json
import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from edgekit.errors import UserError
from edgekit.settings import SETTINGS, parse_value

SCHEMA_VERSION = 1
NAME = "recipe.toml"
_HINT = "a build writes recipe.toml beside its bundle"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Values as `edgekit build` takes them; None where the recipe says nothing."""

    profile: str | None = None
    target: str | None = None
    seed: int | None = None
    max_drop: float | None = None
    max_size_bytes: int | None = None
    latency_ms: float | None = None
    speedup: float | None = None
    keep_nchw: bool = False
    settings: Mapping[str, Any] = field(default_factory=dict)


_LIMITS: Mapping[str, tuple[str, Callable[[float], bool]]] = {
    "seed": ("at least 0", lambda v: v >= 0),
    "max_drop": ("between 0 and 100", lambda v: 0 <= v <= 100),
    "max_size_bytes": ("greater than 0", lambda v: v > 0),
    "latency_ms": ("a finite number greater than 0", lambda v: 0 < v < math.inf),
    "speedup": ("a finite number greater than 0", lambda v: 0 < v < math.inf),
}
"""What `edgekit build` demands of the same values; not a number is outside of each."""

_KINDS: Mapping[str, tuple[type, ...]] = {
    "profile": (str,),
    "target": (str,),
    "seed": (int,),
    "max_drop": (int, float),
    "max_size_bytes": (int,),
    "latency_ms": (int, float),
    "speedup": (int, float),
    "keep_nchw": (bool,),
}


def to_toml(recipe: Recipe, *, comment: str) -> str:
    """The file's text. ``comment`` stands above it, line by line."""
    lines = ["# " + "".join(c if c.isprintable() else "?" for c in line) for line in comment.splitlines()]
    lines += ["", f"schema_version = {SCHEMA_VERSION}"]
    for name in _KINDS:
        value = getattr(recipe, name)
        if value is not None:
            lines.append(f"{name} = {json.dumps(value)}")
    lines += ["", "[settings]"]
    for key, value in sorted(recipe.settings.items()):
        if value is not None:  # TOML has no null: what is not there is left to the planner
            lines.append(f'"{key}" = {json.dumps(_plain(value))}')
    return "\n".join(lines) + "\n"


def _plain(value: Any) -> Any:
    """Pairs are written as "name=value", as ``--set`` takes them."""
    if not isinstance(value, (list, tuple)):
        return value
    return [f"{v[0]}={v[1]!r}" if isinstance(v, (list, tuple)) else v for v in value]


def load_recipe(path: Path) -> Recipe:
    """Read and check a recipe. Raises UserError naming file and key."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as exc:
        raise UserError(f"cannot read the recipe {path}: {exc}", hint=_HINT) from exc
    except tomllib.TOMLDecodeError as exc:
        raise UserError(f"{path} is not TOML: {exc}", hint=_HINT) from exc
    if data.pop("schema_version", None) != SCHEMA_VERSION:
        raise UserError(
            f"{path} is no recipe of schema_version {SCHEMA_VERSION}",
            hint=_HINT,
        )
    settings = data.pop("settings", {})
    if not isinstance(settings, dict):
        raise UserError(f"{path}: settings is no table", hint="write [settings] and one key = value a line")
    for key, value in data.items():
        _check_key(path, key, [f.name for f in fields(Recipe)])
        if not isinstance(value, _KINDS[key]) or (isinstance(value, bool) and bool not in _KINDS[key]):
            wanted = " or ".join(k.__name__ for k in _KINDS[key])
            raise UserError(f"{path}: {key} = {value!r} is no {wanted}")
        text, holds = _LIMITS.get(key, ("", lambda _: True))
        if not holds(value):
            raise UserError(f"{path}: {key} = {value!r} must be {text}")
    parsed = {}
    for key, value in settings.items():
        _check_key(path, key, list(SETTINGS))
        try:
            parsed[key] = parse_value(key, value)
        except ValueError as exc:
            raise UserError(f"{path}: {key} = {value!r}: {exc}", hint=SETTINGS[key].help) from exc
    return Recipe(**data, settings=parsed)


def _check_key(path: Path, key: str, known: list[str]) -> None:
    if key in known:
        return
    near = difflib.get_close_matches(key, known, n=3, cutoff=0.4)
    raise UserError(
        f"{path}: there is no {key!r} in a recipe",
        hint=f"did you mean {' or '.join(near)}?" if near else f"it has: {', '.join(known)}",
    )
