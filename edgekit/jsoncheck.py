"""Check JSON data against a JSON Schema shipped with edgekit. report/ and bundle/ both use it."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from importlib.resources import files
from typing import Any


@functools.cache
def load_schema(package: str, name: str) -> dict[str, Any]:
    """The JSON Schema ``name`` that lies as package data in ``package``. Treat it as read-only."""
    schema: dict[str, Any] = json.loads(files(package).joinpath(name).read_text(encoding="utf-8"))
    return schema


def first_problem(data: Any, schema: Mapping[str, Any]) -> str | None:
    """The most telling violation as "place: what is wrong", or None when ``data`` fits.

    Draft 2020-12. ``place`` is a JSON path such as ``$.units[3].macs``.
    """
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    error = best_match(Draft202012Validator(schema).iter_errors(data))
    if error is None:
        return None
    message = str(error.message)
    return f"{error.json_path}: {message if len(message) <= 300 else message[:297] + '...'}"
