"""Reading ``tegrastats``: memory, load, clocks, temperatures and power of a Jetson, line by line.

The format differs by board and JetPack: with or without a time, power with or without "mW" and a maximum, the
load of the GPU as "10%@1300", "12%@[1300,1300]", "0%" or, on Thor, without a percentage.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgekit.errors import DeviceError

_TIME = re.compile(r"^(\d\d-\d\d-\d{4} \d\d:\d\d:\d\d) ")
_RAM = re.compile(r"\bRAM (\d+)/(\d+)MB")
_SWAP = re.compile(r"\bSWAP (\d+)/(\d+)MB")
_CPU = re.compile(r"\bCPU \[([^\]]*)\]")
_GPU = re.compile(r"\bGR3D_FREQ(?: (?P<percent>\d+)%)?(?: ?@\[?(?P<mhz>[\d,]+)\]?)?")
_EMC = re.compile(r"\bEMC_FREQ (\d+)%(?:@(\d+))?")
_TEMPERATURE = re.compile(r"\b([A-Za-z]\w*)@(-?\d+(?:\.\d+)?)C")
_RAIL = re.compile(r"(?:^|\s)([A-Z][A-Z0-9_]*) (\d+)(?:mW)?/(\d+)(?:mW)?(?:/(\d+)(?:mW)?)?(?=\s|$)")
_TOTAL = ("VDD_IN", "VIN", "POM_5V_IN")
_NO_SENSOR = -100.0
"""Sensors of parts that are switched off read -256."""


@dataclass(frozen=True, kw_only=True)
class Rail:
    """Power of one rail in mW: now, averaged since tegrastats started, and the most, where it is told."""

    now_mw: int
    average_mw: int
    max_mw: int | None = None


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One line. ``cpu`` has (percent, MHz) for each core, None for one that is off; ``gpu_percent`` is None
    where the board does not tell; temperatures are °C."""

    time: str | None
    ram_used_mb: int
    ram_total_mb: int
    swap_used_mb: int | None
    cpu: tuple[tuple[int, int] | None, ...]
    gpu_percent: int | None
    gpu_mhz: tuple[int, ...]
    memory_controller_percent: int | None
    celsius: Mapping[str, float]
    rails: Mapping[str, Rail]

    @property
    def total(self) -> Rail | None:
        """The rail that feeds the whole board, None where there is no single one (AGX Orin)."""
        return next((self.rails[name] for name in _TOTAL if name in self.rails), None)


def parse(text: str) -> tuple[Reading, ...]:
    """All readings of a log. A last line without its end is left out: tegrastats is stopped by a signal.

    Raises DeviceError when there is no reading, or a line is none.
    """
    whole = text if text.endswith("\n") or "\n" not in text else text[: text.rindex("\n") + 1]
    readings = tuple(parse_line(line) for line in whole.splitlines() if line.strip())
    if not readings:
        raise DeviceError("tegrastats gave no reading", hint="the run was shorter than its interval")
    return readings


def parse_line(line: str) -> Reading:
    """One line of tegrastats. Raises DeviceError when it tells neither memory nor the GPU."""
    ram, gpu = _RAM.search(line), _GPU.search(line)
    if ram is None or gpu is None:
        raise DeviceError(f"this is no line of tegrastats: {line[:80]!r}", hint="run bench.sh again")
    time, swap, emc, cpu = _TIME.match(line), _SWAP.search(line), _EMC.search(line), _CPU.search(line)
    percent, mhz = gpu.group("percent"), gpu.group("mhz")
    return Reading(
        time=time.group(1) if time else None,
        ram_used_mb=int(ram.group(1)),
        ram_total_mb=int(ram.group(2)),
        swap_used_mb=int(swap.group(1)) if swap else None,
        cpu=tuple(_core(word) for word in cpu.group(1).split(",")) if cpu else (),
        gpu_percent=int(percent) if percent is not None else None,
        gpu_mhz=tuple(int(word) for word in mhz.split(",") if word) if mhz else (),
        memory_controller_percent=int(emc.group(1)) if emc else None,
        celsius={
            name: float(value) for name, value in _TEMPERATURE.findall(line) if float(value) > _NO_SENSOR
        },
        rails={
            name: Rail(now_mw=int(now), average_mw=int(average), max_mw=int(most) if most else None)
            for name, now, average, most in _RAIL.findall(line)
        },
    )


def _core(word: str) -> tuple[int, int] | None:
    found = re.fullmatch(r"\s*(\d+)%@(\d+)\s*", word)
    if found is not None:
        return int(found.group(1)), int(found.group(2))
    if word.strip() == "off":
        return None
    raise DeviceError(f"tegrastats shows a core as {word!r}", hint="run bench.sh again")


def mean_power_mw(readings: Sequence[Reading], rail: str | None = None) -> float:
    """Mean of the power of a rail, by default of the one that feeds the board, over all readings.

    Raises DeviceError where a reading lacks it.
    """
    found = [reading.total if rail is None else reading.rails.get(rail) for reading in readings]
    known = [one.now_mw for one in found if one is not None]
    if not known or len(known) != len(found):
        raise DeviceError(
            f"tegrastats does not tell the power of {rail or 'the whole board'}",
            hint=f"it tells {', '.join(readings[0].rails) or 'none'}" if readings else None,
        )
    return sum(known) / len(known)
