"""Links: ways to run a command on a device, on an emulator of it, or on this host."""

from edgekit.devices.base import Battery, Conditions, Link, RunResult, Workspace
from edgekit.devices.open import open_link

__all__ = ["Battery", "Conditions", "Link", "RunResult", "Workspace", "open_link"]
