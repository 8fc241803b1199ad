"""TorchScript files as zip archives: written so that equal modules give equal bytes, and read with care."""

from __future__ import annotations

import hashlib
import io
import json
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekit.errors import Unsupported, UserError

SIGNATURE = "edgekit.json"
"""Extra file of the archive: what the file itself does not tell. python_run.py reads it too."""

_MANGLED = re.compile(rb"___torch_mangle_(\d+)")
_EPOCH = (1980, 1, 1, 0, 0, 0)


def pack(script: Any, signature: Mapping[str, Any]) -> bytes:
    """Bytes of a traced module with ``signature`` in it.

    What torch writes is made repeatable: class names hold a counter of the process, which is counted anew;
    debug files hold paths of this machine and are left out, as is code without a line.
    """
    import torch

    text = json.dumps(signature, sort_keys=True, separators=(",", ":"))
    raw = io.BytesIO()
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        torch.jit.save(script, raw, _extra_files={SIGNATURE: text})
    with zipfile.ZipFile(raw) as source:
        members = {
            info.filename: source.read(info)
            for info in source.infolist()
            if not info.filename.endswith(".debug_pkl") and (info.file_size or "/code/" not in info.filename)
        }
    texts = [n.encode() + b"\n" + d for n, d in members.items() if _is_text(n)]
    found = sorted({int(m) for t in texts for m in _MANGLED.findall(t)})
    numbers = {number: i for i, number in enumerate(found)}

    def rename(data: bytes) -> bytes:
        return _MANGLED.sub(lambda m: b"___torch_mangle_%d" % numbers[int(m[1])], data)

    plain = {rename(n.encode()).decode(): rename(d) if _is_text(n) else d for n, d in members.items()}
    identity = next((n for n in plain if n.endswith("/.data/serialization_id")), None)
    if identity is not None:  # torch makes it of a hash of the class names before they are counted anew
        plain[identity] = b""
        digest = hashlib.sha256(b"".join(n.encode() + plain[n] for n in sorted(plain)))
        plain[identity] = b"%040d" % (int(digest.hexdigest(), 16) % 10**40)
    return _zip(plain)


def _is_text(name: str) -> bool:
    """Members with class names: code, and the pickles, where such a name ends with its line."""
    return name.endswith((".py", ".pkl", ".json"))


def _zip(members: Mapping[str, bytes]) -> bytes:
    """An archive without dates. Its members are not aligned: torch.jit.load copies them into memory."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in sorted(members):
            info = zipfile.ZipInfo(name, _EPOCH)
            # Code and the like are text, which packs well; tensors do not.
            info.compress_type = zipfile.ZIP_DEFLATED if _is_text(name) else zipfile.ZIP_STORED
            archive.writestr(info, members[name])
    return out.getvalue()


def signature_of(path: Path) -> dict[str, Any]:
    """The signature in a file. UserError for what is no TorchScript, Unsupported without one."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if not any("/code/" in name for name in names):
                raise UserError(
                    f"{path.name} is not a TorchScript file",
                    hint="weights and pickled modules are no programs: build the model with `edgekit build`",
                )
            member = next((name for name in names if name.endswith(f"/extra/{SIGNATURE}")), None)
            found: Any = json.loads(archive.read(member)) if member else None
    except (zipfile.BadZipFile, ValueError, OSError) as exc:
        raise UserError(
            f"{path.name} is not a TorchScript file or is damaged: {exc}", hint="copy or build the file again"
        ) from exc
    if not isinstance(found, dict) or "inputs" not in found:
        raise Unsupported(
            f"{path.name} does not tell the shapes of its inputs",
            hint="a TorchScript file of other origin is a model: build it with --input-shape",
        )
    return found


def load(path: Path) -> Any:
    """The module of a file, for the engine that is set. UserError for a damaged file."""
    import torch

    try:
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
            return torch.jit.load(str(path), map_location="cpu").eval()  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError, OSError) as exc:
        first = next((line for line in str(exc).splitlines() if line.strip()), "no reason given")
        raise UserError(
            f"{path.name} cannot be loaded: {first}", hint="copy or build the file again"
        ) from exc
