"""edgekit: from a PyTorch model and a device profile to a verified edge bundle.

The public API; everything is imported on first use, so that ``import edgekit`` costs nothing::

    from edgekit import Request, Sources
    from edgekit.build import build

    built = build(Sources(model="my_model.py:net", calib="my_model.py:calib"), "pi4", Request())
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgekit.build import Built, Request, Sources, plan_build
    from edgekit.errors import EdgekitError
    from edgekit.profiles import DeviceProfile, list_profiles, load_profile
    from edgekit.store import Store

__version__ = "0.1.0"

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # ONNX Runtime reads it when it is imported

__all__ = [
    "Built",
    "DeviceProfile",
    "EdgekitError",
    "Request",
    "Sources",
    "Store",
    "__version__",
    "list_profiles",
    "load_profile",
    "plan_build",
]

_HOMES = {
    "edgekit.build": ("Built", "Request", "Sources", "plan_build"),
    "edgekit.errors": ("EdgekitError",),
    "edgekit.profiles": ("DeviceProfile", "list_profiles", "load_profile"),
    "edgekit.store": ("Store",),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
