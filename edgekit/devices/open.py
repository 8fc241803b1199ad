"""From what the user wrote after ``--device`` to a link."""

from __future__ import annotations

from edgekit.devices.base import Link
from edgekit.devices.emulator.link import EmulatorLink
from edgekit.devices.local import LocalLink
from edgekit.errors import Unsupported, UserError
from edgekit.profiles.schema import DeviceProfile
from edgekit.store import Store

_PLANNED = ("adb", "ssh")


def open_link(spec: str, profile: DeviceProfile | None, store: Store) -> Link:
    """Open "local" or "emulator"; the emulator is that of ``profile``.

    Raises UserError for an unknown kind or a missing profile, Unsupported for adb and ssh (not in this
    version) and for a profile that cannot be emulated, MissingDependency when the emulator is not there.
    """
    kind = spec.partition(":")[0]
    if spec == "local":
        return LocalLink(store)
    if spec == "emulator":
        if profile is None:
            raise UserError("the emulator needs to know which device to be", hint="name one with --profile")
        return EmulatorLink(profile, store)
    if kind in _PLANNED:
        raise Unsupported(
            f"this version of edgekit cannot reach devices over {kind} yet ({spec})",
            hint="measure on this host with --device local, or count instructions with --device emulator",
        )
    raise UserError(f"unknown device {spec!r}", hint="use local or emulator")
