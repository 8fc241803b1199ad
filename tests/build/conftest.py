"""Stores of their own that share the compiled programs of the session's store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgekit.store import Store


@pytest.fixture
def fresh_store(tiny_build: Any, tmp_path: Path) -> Callable[[], Store]:
    """An empty store; compiling the runner and fetching LiteRT for arm64 is not what is tested here."""

    def make() -> Store:
        store = Store(tmp_path / f"store{len(list(tmp_path.glob('store*')))}")
        store.root.mkdir()
        native = tiny_build.store.root / "native"
        if native.is_dir():
            (store.root / "native").symlink_to(native)
        return store

    return make
