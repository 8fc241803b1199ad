"""Folders made once and kept under ``<store>/native/<digest>/``: compiled programs, libraries, sysroots."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekit.store import Store, digest_json, translate_os_errors


def cached_folder(
    store: Store, key: Mapping[str, Any], names: Sequence[str], make: Callable[[Path], None]
) -> Path:
    """The folder of ``key`` (JSON data), filled by ``make`` unless it is there with all of ``names``.

    ``make`` gets an empty folder, which is renamed when it is done: a killed or failing ``make``
    leaves nothing behind, and of two processes one makes it while the other waits.
    """
    digest = digest_json(dict(key))
    final = store.root / "native" / digest
    if _complete(final, names):
        return final
    with store.lock(f"native-{digest}"):
        if _complete(final, names):
            return final
        with store.scratch() as scratch, translate_os_errors("filling the store"):
            folder = scratch / "folder"
            folder.mkdir()
            make(folder)
            missing = [name for name in names if not (folder / name).exists()]
            if missing:
                raise RuntimeError(f"{make} did not make {', '.join(missing)}")
            final.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(final, ignore_errors=True)
            folder.rename(final)
    return final


def _complete(folder: Path, names: Sequence[str]) -> bool:
    return folder.is_dir() and all((folder / name).exists() for name in names)
