"""libLiteRt.so for the host and for arm64, both of the ai-edge-litert release installed here."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
from pathlib import Path

from edgekit.errors import MissingDependency
from edgekit.native.arm64_wheel import Arm64Wheel
from edgekit.store import Store

LIBRARY = "libLiteRt.so"
WHEEL_VARIABLE = "EDGEKIT_LITERT_AARCH64_WHEEL"
"""Environment variable that names an aarch64 wheel of ai-edge-litert, for machines without network."""

_DISTRIBUTION = "ai-edge-litert"


def litert_library(arch: str, store: Store) -> Path:
    """Path of libLiteRt.so for ``arch``: the installed one on the host, that of the arm64 wheel else.

    The wheel is the file named by EDGEKIT_LITERT_AARCH64_WHEEL or comes from the package index that pip is
    configured for; it is asked for once, the library is kept in the store. Raises MissingDependency when
    ai-edge-litert is not installed or the wheel cannot be had, UserError for a wheel that does not fit,
    Unsupported for other machines.
    """
    version = litert_version()
    if arch == platform.machine():
        return _installed_library()
    wheel = Arm64Wheel(
        distribution=_DISTRIBUTION,
        version=version,
        runtime="LiteRT",
        folder="ai_edge_litert",
        libraries=(LIBRARY,),
        platform="manylinux_2_27_aarch64",
        variable=WHEEL_VARIABLE,
    )
    return wheel.unpacked(arch, store) / LIBRARY


def litert_version() -> str:
    """Version of the installed ai-edge-litert. Raises MissingDependency without it."""
    try:
        return importlib.metadata.version(_DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError as exc:
        raise MissingDependency(
            f"the package {_DISTRIBUTION} is not installed", hint=f"pip install {_DISTRIBUTION}"
        ) from exc


def _installed_library() -> Path:
    found = importlib.util.find_spec("ai_edge_litert")  # locates, does not import
    path = Path(found.origin).parent / LIBRARY if found and found.origin else None
    if path is None or not path.is_file():
        raise MissingDependency(
            f"the installed {_DISTRIBUTION} has no {LIBRARY}",
            hint=f"pip install --force-reinstall {_DISTRIBUTION}=={litert_version()}",
        )
    return path
