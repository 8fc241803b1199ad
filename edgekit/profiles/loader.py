"""From a name or a path to a ``DeviceProfile``: finds the file, merges what it extends, validates.

``extends = "pi4"`` names a shipped profile; with a slash or ``.toml`` it is a path relative to the
file that says it. Tables merge key by key, everything else (lists too) replaces. ``id``, ``title``,
``description`` and ``abstract`` belong to one file and are not inherited.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edgekit.errors import ProfileError
from edgekit.profiles.complaints import complain
from edgekit.profiles.schema import DeviceProfile

_OWN_KEYS = ("id", "title", "description", "abstract", "extends")
_SHIPPED = "_device_profiles"
_CHECKOUT = "device_profiles"


@dataclass(frozen=True)
class Layer:
    """One file of an ``extends`` chain with its own, unmerged data."""

    path: Path
    data: Mapping[str, Any]


def load_profile(name_or_path: str) -> DeviceProfile:
    """The profile of a shipped name (``pi4``) or of a file (anything with a slash or ending in .toml).

    Raises ProfileError (unknown name: with the nearest names; unknown key, wrong type, cycle: with
    file and key path). What was asked for is never replaced by something similar.
    """
    path = Path(name_or_path).expanduser() if _is_path(name_or_path) else _shipped_path(name_or_path)
    return _validate(_chain(path))


def list_profiles() -> list[DeviceProfile]:
    """All profiles that ship with edgekit, bases included, sorted by id."""
    return [_validate(_chain(path)) for _, path in sorted(shipped_files().items())]


def shipped_files() -> dict[str, Path]:
    """Name to file of every shipped profile."""
    return {path.stem: path for path in profiles_dir().glob("*.toml")}


def profiles_dir() -> Path:
    """The folder of shipped profiles: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / _SHIPPED, package.parent / _CHECKOUT):
        if folder.is_dir():
            return folder
    raise ProfileError(
        f"this installation of edgekit has no device profiles in {package / _SHIPPED}",
        hint="reinstall edgekit, or give a profile by path: --profile my_board.toml",
    )


def deep_merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``over`` on top of ``base``: tables merge, anything else replaces. Neither is changed."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(value, Mapping):
            merged[key] = deep_merge(below if isinstance(below, Mapping) else {}, value)
        else:
            merged[key] = value
    return merged


def _is_path(name: str) -> bool:
    return "/" in name or name.endswith(".toml")


def _shipped_path(name: str, asked_by: Path | None = None) -> Path:
    files = shipped_files()
    if name in files:
        return files[name]
    near = difflib.get_close_matches(name, files, n=3, cutoff=0.5)
    where = f"{asked_by}: extends: " if asked_by else ""
    meant = f"did you mean {' or '.join(near)}? " if near else ""
    raise ProfileError(
        f"{where}there is no profile named {name!r}",
        hint=f"{meant}`edgekit profiles list` shows all; a file of your own is given by path (./{name}.toml)",
    )


def _chain(path: Path) -> list[Layer]:
    """The file and all that it extends, the file itself first."""
    layers: list[Layer] = []
    seen: list[Path] = []
    while True:
        layer = _read(path)
        layers.append(layer)
        seen.append(path.resolve())
        parent = layer.data.get("extends")
        if parent is None:
            return layers
        if not isinstance(parent, str) or not parent:
            raise ProfileError(
                f"{path}: extends must be the name or the path of one profile, not {parent!r}",
                hint='write for example extends = "generic_arm64"',
            )
        following = path.parent / parent if _is_path(parent) else _shipped_path(parent, asked_by=path)
        if following.resolve() in seen:
            names = " -> ".join(p.name for p in [*(layer.path for layer in layers), following])
            raise ProfileError(
                f"{path}: extends makes a circle ({names})",
                hint="remove one of the extends lines",
            )
        path = following


def _read(path: Path) -> Layer:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as exc:
        raise ProfileError(
            f"there is no profile file {path}",
            hint="`edgekit profiles list` shows the profiles that can be given by name",
        ) from exc
    except (OSError, UnicodeDecodeError) as exc:
        raise ProfileError(f"profile {path} cannot be read: {_reason(exc)}", hint=None) from exc
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise ProfileError(
            f"{path} is not valid TOML: {exc}",
            hint="strings need quotes, tables a [name] line of their own; see toml.io",
        ) from exc
    sources = data.get("sources")
    if isinstance(sources, dict):
        data["sources"] = dict(_flatten(sources))
    return Layer(path, data)


def _reason(exc: Exception) -> str:
    return exc.strerror or str(exc) if isinstance(exc, OSError) else "it is not UTF-8 text"


def _flatten(table: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Source keys with dots, whether written "memory.mib" = ... or memory.mib = ... (a nested table)."""
    flat: list[tuple[str, Any]] = []
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat.extend(_flatten(value, f"{prefix}{key}."))
        else:
            flat.append((prefix + key, value))
    return flat


def _validate(layers: Sequence[Layer]) -> DeviceProfile:
    merged: dict[str, Any] = {}
    for layer in reversed(layers):
        inherited = {key: value for key, value in merged.items() if key not in _OWN_KEYS}
        merged = deep_merge(inherited, layer.data)
    try:
        return DeviceProfile.model_validate(merged)
    except ValidationError as exc:
        raise complain(exc, [(layer.path, layer.data) for layer in layers]) from exc
