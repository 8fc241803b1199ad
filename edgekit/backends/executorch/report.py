"""What the ExecuTorch runner reports in its ETDump: the time of each operator."""

from __future__ import annotations

from typing import Any

from edgekit.backends.executorch.toolchain import quiet, require_executorch
from edgekit.errors import DeviceError

_NS_PER_US = 1000.0
_KERNEL = "native_call_"
"""Beginning of the names of events around kernels outside delegates."""


def parse_profile(etdump: bytes) -> list[dict[str, Any]]:
    """{"name", "us"} of each operator of the last inference in an ETDump, in order of execution.

    Operators inside a delegate bear XNNPACK's own names, those outside their kernel's. Raises DeviceError
    for a damaged file.
    """
    require_executorch()
    from executorch.devtools.etdump.serialize import deserialize_from_etdump_flatcc

    try:
        with quiet():
            blocks = deserialize_from_etdump_flatcc(etdump).run_data
    except Exception as exc:  # whatever flatc and the reader behind it meet
        raise DeviceError(f"the ExecuTorch runner's profile is damaged: {exc}") from exc
    found: list[dict[str, Any]] = []
    for block in blocks:
        events = [e.profile_event for e in block.events or () if e.profile_event is not None]
        ops = [(name, e) for e in events if (name := _operator(e))]
        if ops:
            found = [{"name": name, "us": (e.end_time - e.start_time) / _NS_PER_US} for name, e in ops]
    if not found:
        raise DeviceError("the ExecuTorch runner's profile holds no operators")
    return found


def _operator(event: Any) -> str:
    """The operator that an event timed, "" for what encloses operators."""
    if event.name is None:
        return str(event.delegate_debug_id_str or "")
    name = str(event.name)
    return name.removeprefix(_KERNEL) if name.startswith(_KERNEL) else ""
