"""pydantic's findings in words that name the file, the key and the likely spelling."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from edgekit.errors import ProfileError
from edgekit.profiles.schema import DeviceProfile

_TYPES = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "string_type": "a string in quotes",
    "bool_type": "true or false",
    "tuple_type": "a list in [ ]",
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
    "finite_number": "a finite number",
}


def complain(error: ValidationError, files: Sequence[tuple[Path, Mapping[str, Any]]]) -> ProfileError:
    """A ProfileError about the first finding; further ones are listed in the hint.

    ``files`` are the file that was asked for and what it extends, nearest first, with their own data:
    the finding is blamed on the file that says the offending key.
    """
    details = error.errors(include_url=False)
    # A misspelt key also leaves the right one missing: the spelling explains both, so it comes first.
    details.sort(key=lambda detail: detail["type"] != "extra_forbidden")
    findings = [_finding(dict(detail), files) for detail in details]
    message, hint = findings[0]
    others = "; ".join(text for text, _ in findings[1:])
    hints = [part for part in (hint, f"also: {others}" if others else "") if part]
    return ProfileError(message, hint=". ".join(hints) or None)


def key_path(loc: Iterable[int | str]) -> str:
    """``("targets", 0, "runtime")`` as ``targets[0].runtime``."""
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def fields_at(loc: Sequence[int | str]) -> tuple[str, ...]:
    """The keys that the schema knows in the table at a location; () where it is no such table."""
    model: type[BaseModel] | None = DeviceProfile
    for part in loc:
        if isinstance(part, int):
            continue
        if model is None or part not in model.model_fields:
            return ()
        model = _model_in(model.model_fields[part].annotation)
    return tuple(model.model_fields) if model else ()


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The section class inside ``Section | None`` or ``tuple[Section, ...]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((m for arg in get_args(annotation) if (m := _model_in(arg)) is not None), None)


def _finding(
    detail: Mapping[str, Any], files: Sequence[tuple[Path, Mapping[str, Any]]]
) -> tuple[str, str | None]:
    loc: tuple[int | str, ...] = tuple(detail["loc"])
    kind, given = str(detail["type"]), detail.get("input")
    where, key = f"{_blame(loc, kind, files)}: ", key_path(loc)
    if kind == "extra_forbidden":
        return f"{where}unknown key {key}", _spelling(str(loc[-1]), fields_at(loc[:-1]))
    if kind == "missing":
        return f"{where}{key} is missing", f"add {loc[-1]} = ... to the file or extend a profile that has it"
    if kind == "literal_error":
        choices = _choices(str(detail["ctx"]["expected"]))
        return f"{where}{key} = {given!r} is none of {', '.join(choices)}", _spelling(str(given), choices)
    if kind in _TYPES:
        return f"{where}{key} must be {_TYPES[kind]}, not {_shown(given)}", None
    if kind == "value_error":
        return f"{where}{key + ': ' if key else ''}{detail['ctx']['error']}", None
    said = str(detail["msg"])  # "Input should be ...", "String should match ...", "Tuple should have ..."
    return f"{where}{key} = {_shown(given)} {said[said.find('should') :] if 'should' in said else said}", None


def _blame(loc: Sequence[int | str], kind: str, files: Sequence[tuple[Path, Mapping[str, Any]]]) -> Path:
    """The nearest file that says this key; for a missing key, the one that says the table around it."""
    wanted = loc[:-1] if kind == "missing" else loc
    return next((path for path, data in files if wanted and _says(data, wanted)), files[0][0])


def _says(data: Any, loc: Sequence[int | str]) -> bool:
    for part in loc:
        if isinstance(part, int):
            if not isinstance(data, list) or part >= len(data):
                return False
        elif not isinstance(data, Mapping) or part not in data:
            return False
        data = data[part]
    return True


def _spelling(word: str, choices: Sequence[str]) -> str | None:
    near = difflib.get_close_matches(word, choices, n=2, cutoff=0.6)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"known here: {', '.join(choices)}" if choices else None


def _choices(expected: str) -> tuple[str, ...]:
    """pydantic lists literals as ``'a', 'b' or 'c'``."""
    return tuple(part.strip().strip("'") for part in expected.replace(" or ", ", ").split(","))


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value)
