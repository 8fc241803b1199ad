"""What a machine says of itself: one script that prints it, and what is read from that.

Sources: /proc and /sys as Documentation/ABI of Linux describes them, os-release, Android's system properties
and dumpsys, the Raspberry Pi's vcgencmd, NVIDIA's nvpmodel. Nothing is guessed: what is not told is None.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from edgekit.devices.base import Conditions
from edgekit.devices.remote.battery import read_battery

_CPU = "/sys/devices/system/cpu"

# Each part starts with a line of its own; files that are not there print "-" or nothing. The shell reads them
# itself where it can: starting a program for each would take longer than all the rest.
CONDITIONS = f"""
part() {{ echo; echo "== $1"; }}
get() {{ v=-; [ -r "$1" ] && read -r v <"$1"; }} 2>/dev/null
part thermal
for zone in /sys/class/thermal/thermal_zone*; do
    get "$zone/type"; type=$v; get "$zone/temp"
    echo "$type $v"
done
part clocks
for clock in {_CPU}/cpu[0-9]*/cpufreq/scaling_cur_freq; do get "$clock"; echo "$v"; done
part throttled
command -v vcgencmd >/dev/null 2>&1 && vcgencmd get_throttled 2>/dev/null
part thermalservice
command -v dumpsys >/dev/null 2>&1 && dumpsys thermalservice 2>/dev/null
part battery
command -v dumpsys >/dev/null 2>&1 && dumpsys battery 2>/dev/null
true
"""

FACTS = f"""{CONDITIONS}
part hostname; uname -n
part kernel; uname -r
part model
for model in /proc/device-tree/model /sys/firmware/devicetree/base/model; do
    [ -r "$model" ] && tr '\\0' '\\n' <"$model"
done
part compatible
[ -r /proc/device-tree/compatible ] && tr '\\0' '\\n' </proc/device-tree/compatible
part cpuinfo; cat /proc/cpuinfo 2>/dev/null
part meminfo; cat /proc/meminfo 2>/dev/null
part osrelease; cat /etc/os-release 2>/dev/null
part cores
for cpu in {_CPU}/cpu[0-9]*; do
    line=${{cpu##*/}}
    for file in cpufreq/cpuinfo_max_freq cpufreq/cpuinfo_min_freq cpufreq/scaling_governor \\
        regs/identification/midr_el1; do
        get "$cpu/$file"; line="$line $v"
    done
    echo "$line"
done
part caches
for cache in {_CPU}/cpu0/cache/index*; do
    line=
    for file in level type size ways_of_associativity coherency_line_size shared_cpu_list; do
        get "$cache/$file"; line="$line $v"
    done
    echo "$line"
done
part properties
command -v getprop >/dev/null 2>&1 && for name in ro.product.manufacturer ro.product.model ro.soc.model \\
    ro.soc.manufacturer ro.board.platform ro.product.cpu.abi ro.build.version.release ro.build.version.sdk; do
    echo "$name=$(getprop "$name")"
done
part nvidia
[ -r /etc/nv_tegra_release ] && cat /etc/nv_tegra_release
command -v nvpmodel >/dev/null 2>&1 && nvpmodel -q 2>/dev/null
part programs
for name in python3 trtexec tegrastats taskset; do command -v "$name" 2>/dev/null; done
[ -x /usr/src/tensorrt/bin/trtexec ] && echo /usr/src/tensorrt/bin/trtexec
true
"""

# cpuinfo's names for what edgekit's profiles call by other names (arch/arm64/kernel/cpuinfo.c).
_ISA = {
    "asimd": "neon",
    "neon": "neon",
    "crc32": "crc32",
    "aes": "aes",
    "sha2": "sha2",
    "atomics": "lse",
    "asimdrdm": "rdm",
    "asimdhp": "fp16",
    "asimddp": "dotprod",
    "i8mm": "i8mm",
    "bf16": "bf16",
    "sve": "sve",
    "avx2": "avx2",
    "avx512_vnni": "avx512vnni",
}
_CORES = {
    **{0xD03: "cortex-a53", 0xD04: "cortex-a35", 0xD05: "cortex-a55", 0xD07: "cortex-a57"},
    **{0xD08: "cortex-a72", 0xD09: "cortex-a73", 0xD0A: "cortex-a75", 0xD0B: "cortex-a76"},
    **{0xD0C: "neoverse-n1", 0xD0D: "cortex-a77", 0xD41: "cortex-a78", 0xD42: "cortex-a78ae"},
    **{0xD44: "cortex-x1", 0xD46: "cortex-a510", 0xD47: "cortex-a710", 0xD48: "cortex-x2"},
    **{0xD4D: "cortex-a715", 0xD4E: "cortex-x3", 0xD80: "cortex-a520", 0xD81: "cortex-a720"},
    0xD82: "cortex-x4",
}
"""Part numbers of Arm (implementer 0x41): the Main ID Register in the cores' reference manuals."""
_ARM = 0x41
_CPU_ZONE = re.compile(r"cpu|soc|^cluster|big|little|tsens|x86_pkg", re.IGNORECASE)
_THROTTLED_NOW = 0xE  # bits 1 to 3 of get_throttled: arm frequency capped, throttled, soft temperature limit
_SANE_CELSIUS = (-40.0, 150.0)


def sections(text: str) -> dict[str, str]:
    """The parts of what the scripts above print, by name."""
    found: dict[str, str] = {}
    for part in re.split(r"^== ", text.replace("\r\n", "\n"), flags=re.MULTILINE)[1:]:
        name, _, body = part.partition("\n")
        found[name.strip()] = body.strip("\n")
    return found


def read_conditions(text: str) -> Conditions:
    """Conditions from the output of :data:`CONDITIONS`.

    The temperature is the hottest zone of a processor; when no zone is called so, the hottest of all.
    """
    parts = sections(text)
    zones = [*_zones(parts.get("thermal", "")), *_android_zones(parts.get("thermalservice", ""))]
    of_cpu = [celsius for zone, celsius in zones if _CPU_ZONE.search(zone)] or [c for _, c in zones]
    clocks = [int(word) / 1000 for word in parts.get("clocks", "").split() if word.isdigit()]
    return Conditions(
        celsius=max(of_cpu, default=None),
        throttled=_throttled(parts),
        mhz=tuple(clocks),
        battery=read_battery(parts.get("battery", "")),
    )


def read_facts(text: str, *, name: str, arch: str) -> dict[str, Any]:
    """Facts from the output of :data:`FACTS`, as plain JSON data.

    "clusters" has one {"microarchitecture", "midr_*", "count", "max_mhz", "min_mhz", "cpus"} per kind of
    core in the order of their numbers; "isa" the extensions by the names that profiles use.
    """
    parts = sections(text)
    properties = dict(_pairs(parts.get("properties", ""), "="))
    release = {k: v.strip("\"'") for k, v in _pairs(parts.get("osrelease", ""), "=")}
    cpus = _cpuinfo(parts.get("cpuinfo", ""))
    rows = _core_rows(parts.get("cores", ""), cpus)
    memory = re.search(r"^MemTotal:\s+(\d+) kB", parts.get("meminfo", ""), re.MULTILINE)
    now = read_conditions(text)
    android = properties.get("ro.build.version.release")
    model: str | None = " ".join(
        filter(None, (properties.get(f"ro.product.{k}") for k in ("manufacturer", "model")))
    )
    model = model or _first_line(parts.get("model", ""))
    sdk = properties.get("ro.build.version.sdk", "")
    return {
        "name": model or _first_line(parts.get("hostname", "")) or name,
        "link": name,
        "soc": _soc(parts, properties),
        "arch": arch,
        "cores": len(rows) or len(cpus) or None,
        "clusters": _clusters(rows),
        "isa": _isa(cpus),
        "governor": next((row["governor"] for row in rows if row["governor"]), None),
        "mhz": list(now.mhz),
        "caches": _caches(parts.get("caches", "")),
        "memory_mib": int(memory[1]) // 1024 if memory else None,
        "os": f"Android {android}" if android else release.get("PRETTY_NAME"),
        "api_level": int(sdk) if sdk.isdigit() else None,
        "abi": properties.get("ro.product.cpu.abi") or None,
        "kernel": _first_line(parts.get("kernel", "")),
        "jetson": _first_line(parts.get("nvidia", "")),
        "celsius": now.celsius,
        "throttled": now.throttled,
        "battery": now.battery_data,
        "programs": sorted({line.strip() for line in parts.get("programs", "").splitlines() if line.strip()}),
        "emulated": False,
    }


def _soc(parts: Mapping[str, str], properties: Mapping[str, str]) -> str | None:
    """The chip: Android's property, else the last entry of the device tree ("brcm,bcm2711")."""
    named = properties.get("ro.soc.model") or properties.get("ro.board.platform")
    if named:
        return named
    tree = parts.get("compatible", "").split()
    hardware = re.search(r"^Hardware\s*:\s*(.+)$", parts.get("cpuinfo", ""), re.MULTILINE)
    return tree[-1] if tree else hardware[1].strip() if hardware else None


def _zones(text: str) -> list[tuple[str, float]]:
    found = []
    for line in text.splitlines():
        zone, _, value = line.rpartition(" ")
        with contextlib.suppress(ValueError):
            celsius = float(value) / 1000
            if _SANE_CELSIUS[0] < celsius < _SANE_CELSIUS[1]:
                found.append((zone, celsius))
    return found


def _android_zones(text: str) -> list[tuple[str, float]]:
    """Temperatures of ``dumpsys thermalservice``; of type 0 (CPU), 9 (SoC) by IThermal's numbers."""
    pattern = r"Temperature\{mValue=([-\d.]+), mType=(\d+), mName=([^,]+)"
    return [
        (f"cpu {zone}" if kind in ("0", "9") else zone, float(value))
        for value, kind, zone in re.findall(pattern, text)
        if _SANE_CELSIUS[0] < float(value) < _SANE_CELSIUS[1]
    ]


def _throttled(parts: Mapping[str, str]) -> bool | None:
    found = re.search(r"throttled=0x([0-9a-fA-F]+)", parts.get("throttled", ""))
    if found:
        return bool(int(found[1], 16) & _THROTTLED_NOW)
    status = re.search(r"^\s*Thermal Status: (\d+)", parts.get("thermalservice", ""), re.MULTILINE)
    return int(status[1]) > 0 if status else None


def _cpuinfo(text: str) -> list[dict[str, str]]:
    """One mapping per "processor" block."""
    found: list[dict[str, str]] = []
    for key, value in _pairs(text, ":"):
        if key == "processor":
            found.append({})
        if found:
            found[-1][key] = value
    return found


def _core_rows(text: str, cpus: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    by_number = {cpu["processor"]: cpu for cpu in cpus}
    rows = []
    for line in text.splitlines():
        words = line.split()
        if len(words) != 5 or not re.fullmatch(r"cpu\d+", words[0]):
            continue
        number = words[0][3:]
        midr = _midr(words[4], by_number.get(number, {}))
        rows.append(
            {
                "cpu": int(number),
                "max_mhz": int(words[1]) / 1000 if words[1].isdigit() else None,
                "min_mhz": int(words[2]) / 1000 if words[2].isdigit() else None,
                "governor": None if words[3] == "-" else words[3],
                **midr,
            }
        )
    return sorted(rows, key=lambda row: row["cpu"])


def _midr(register: str, cpu: Mapping[str, str]) -> dict[str, int | None]:
    """Implementer, part, variant and revision, from the register or from cpuinfo's lines."""
    names = ("midr_implementer", "midr_variant", "midr_part", "midr_revision")
    if re.fullmatch(r"0x[0-9a-fA-F]{8,16}", register):
        value = int(register, 16)
        parts: tuple[int | None, ...] = (
            value >> 24 & 0xFF,
            value >> 20 & 0xF,
            value >> 4 & 0xFFF,
            value & 0xF,
        )
    else:
        keys = ("CPU implementer", "CPU variant", "CPU part", "CPU revision")
        parts = tuple(_integer(cpu.get(key)) for key in keys)
    return dict(zip(names, parts, strict=True))


def _clusters(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Runs of equal cores."""
    keys = ("midr_implementer", "midr_part", "midr_variant", "midr_revision", "max_mhz", "min_mhz")
    found: list[dict[str, Any]] = []
    for row in rows:
        kind = {key: row[key] for key in keys}
        if found and all(found[-1][key] == kind[key] for key in keys):
            found[-1]["count"] += 1
            found[-1]["cpus"].append(row["cpu"])
        else:
            core = _CORES.get(row["midr_part"]) if row["midr_implementer"] == _ARM else None
            found.append({"microarchitecture": core, **kind, "count": 1, "cpus": [row["cpu"]]})
    return found


def _isa(cpus: Sequence[Mapping[str, str]]) -> list[str]:
    """Extensions that every core has."""
    words = [set((cpu.get("Features") or cpu.get("flags") or "").split()) for cpu in cpus]
    common = set.intersection(*words) if words else set()
    return sorted({_ISA[word] for word in common if word in _ISA})


def _caches(text: str) -> list[dict[str, Any]]:
    """Caches of the first core."""
    found: list[dict[str, Any]] = []
    for line in text.splitlines():
        words = line.split()
        size = re.fullmatch(r"(\d+)K", words[2]) if len(words) == 6 else None
        if size:
            found.append(
                {
                    "level": _integer(words[0]),
                    "type": words[1],
                    "kib": int(size[1]),
                    "ways": _integer(words[3]),
                    "line_bytes": _integer(words[4]),
                    "shared_by": _count(words[5]),
                }
            )
    return found


def _count(cpu_list: str) -> int | None:
    """How many cores a sysfs list such as "0-3,6" names."""
    total = 0
    for part in cpu_list.split(","):
        low, _, high = part.partition("-")
        if not low.isdigit() or (high and not high.isdigit()):
            return None
        total += int(high or low) - int(low) + 1
    return total


def _integer(text: str | None) -> int | None:
    try:
        return int(text, 0) if text is not None else None
    except ValueError:
        return None


def _pairs(text: str, separator: str) -> list[tuple[str, str]]:
    found = []
    for line in text.splitlines():
        key, sep, value = line.partition(separator)
        if sep:
            found.append((key.strip(), value.strip()))
    return found


def _first_line(text: str) -> str | None:
    return next((line.strip() for line in text.splitlines() if line.strip()), None)
