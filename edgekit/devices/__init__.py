"""Links: ways to run a command on a device, on an emulator of it, or on this host."""

from edgekit.devices.base import Link, RunResult
from edgekit.devices.open import open_link

__all__ = ["Link", "RunResult", "open_link"]
