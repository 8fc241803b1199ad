"""What the ExecuTorch runner reports: its JSON line, and its ETDump with the time of each operator."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from typing import Any

from edgekit.backends.executorch.toolchain import quiet, require_executorch
from edgekit.errors import DeviceError

_NS_PER_US = 1000.0
_PHASES = ("Program::", "Method::", "Module::", "OPERATOR_CALL", "DELEGATE_CALL", "Execute", "Load", "Init")
"""Events that enclose others or are no part of an inference."""


def parse_report(stdout: str) -> Mapping[str, Any]:
    """The last JSON object with "runs_ms" on standard output. Raises DeviceError without one."""
    for line in reversed(stdout.splitlines()):
        found: Any = None
        if line.startswith("{"):
            with contextlib.suppress(json.JSONDecodeError):
                found = json.loads(line)
        if isinstance(found, dict) and "runs_ms" in found:
            return found
    raise DeviceError("the ExecuTorch runner printed no report", hint=f"it printed: {stdout[-200:]!r}")
