"""Folders made once and kept under ``<store>/native/<digest>/``: compiled programs, libraries, sysroots."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekit.store import Store, digest_file, digest_json, translate_os_errors, write_atomic

_DIGESTS = ".sha256.json"


def cached_folder(
    store: Store, key: Mapping[str, Any], names: Sequence[str], make: Callable[[Path], None]
) -> Path:
    """The folder of ``key`` (JSON data), filled by ``make`` unless all of ``names`` are there unchanged.

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
            write_atomic(folder / _DIGESTS, json.dumps({n: digest_file(folder / n) for n in names}))
            final.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(final, ignore_errors=True)
            folder.rename(final)
    return final


def _complete(folder: Path, names: Sequence[str]) -> bool:
    """Whether all of ``names`` are there as they were made: a crash of the machine may cut files short."""
    try:
        digests = json.loads((folder / _DIGESTS).read_bytes())
        return all(digest_file(folder / name) == digests[name] for name in names)
    except (OSError, ValueError, KeyError):
        return False
