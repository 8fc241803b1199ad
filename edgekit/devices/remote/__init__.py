"""Machines that are reached by a system client (ssh, adb): what both have in common."""

from edgekit.devices.remote.link import RemoteLink

__all__ = ["RemoteLink"]
