"""The battery of a phone, from Android's ``dumpsys battery``."""

from __future__ import annotations

import re

from edgekit.devices.base import Battery

# BatteryManager.BATTERY_STATUS_*; 1 is unknown. A full battery on its charger is charged no further.
_CHARGING = {"2": True, "3": False, "4": False, "5": False}
_STOPPED = "UPDATES STOPPED"
"""The service says so when somebody set the figures by hand (``dumpsys battery set``)."""


def read_battery(text: str) -> Battery | None:
    """The battery from BatteryService.dump: level and scale, temperature in tenths of °C, status.

    None where there is no battery, where the shell may not ask, and when the figures were set by hand. Lines
    of a vendor's own log below the service's lines are not looked at.
    """
    if "Battery Service state" not in text or _STOPPED in text:
        return None
    found: dict[str, str] = {}
    for key, value in re.findall(r"^\s+(present|level|scale|temperature|status): (\S+)\s*$", text, re.M):
        found.setdefault(key, value)
    if found.get("present") == "false":
        return None
    level, scale, tenths = (_whole(found.get(key)) for key in ("level", "scale", "temperature"))
    percent = 100.0 * level / scale if level is not None and scale else None
    return Battery(
        percent=percent if percent is not None and 0 <= percent <= 100 else None,
        celsius=tenths / 10 if tenths is not None else None,
        charging=_CHARGING.get(found.get("status", "")),
    )


def _whole(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"-?\d{1,9}", text) else None
