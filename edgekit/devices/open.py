"""From what the user wrote after ``--device`` to a link."""

from __future__ import annotations

from edgekit.devices.adb import open_adb
from edgekit.devices.base import Link
from edgekit.devices.emulator.link import EmulatorLink
from edgekit.devices.local import LocalLink
from edgekit.devices.ssh import open_ssh
from edgekit.errors import UserError
from edgekit.profiles.schema import DeviceProfile
from edgekit.store import Store

_KINDS = "local, emulator, ssh:[user@]host[:port] or adb:SERIAL"


def open_link(spec: str, profile: DeviceProfile | None, store: Store) -> Link:
    """Open "local", "emulator" (of ``profile``), "ssh:[user@]host[:port]" or "adb:SERIAL".

    Raises UserError for an unknown kind or a missing profile, DeviceError when the device cannot be reached,
    Unsupported for a profile that cannot be emulated or a device that cannot be used, MissingDependency when
    the emulator or a client program is not there.
    """
    kind, colon, _ = spec.partition(":")
    if spec == "local":
        return LocalLink(store)
    if spec == "emulator":
        if profile is None:
            raise UserError("the emulator needs to know which device to be", hint="name one with --profile")
        return EmulatorLink(profile, store)
    if colon and kind == "ssh":
        return open_ssh(spec, store)
    if colon and kind == "adb":
        return open_adb(spec, store)
    raise UserError(f"unknown device {spec!r}", hint=f"use {_KINDS}")
