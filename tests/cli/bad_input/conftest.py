"""What a refused command may have left in the store."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def only_steps() -> Callable[..., bool]:
    """Whether a store holds at most as many steps as may have been done, and none with a model file:
    ``only_steps(root, *allowed)``."""

    def check(root: Path, *allowed: str) -> bool:
        records = [json.loads(p.read_text()) for p in (root / "steps").glob("*/*.json")]
        return len(records) <= len(allowed) and not any("artifact" in r for r in records)

    return check
