"""The folder that a device or an app needs: model, manifest, golden samples, a checking program."""

from __future__ import annotations

from edgekit.bundle.golden import (
    GoldenSample,
    SampleResult,
    Tolerance,
    compare,
    golden_samples,
    verify_bundle,
)
from edgekit.bundle.manifest import Manifest, load_manifest
from edgekit.bundle.write import RuntimeTarget, write_bundle

__all__ = [
    "GoldenSample",
    "Manifest",
    "RuntimeTarget",
    "SampleResult",
    "Tolerance",
    "compare",
    "golden_samples",
    "load_manifest",
    "verify_bundle",
    "write_bundle",
]
