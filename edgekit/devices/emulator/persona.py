"""What /proc and /sys of a board show, made from its profile.

Runtimes read these files to learn what the CPU can do and how many cores there are. Under qemu-user they
would see the x86 host's, on which libraries for Arm crash. QEMU looks a file up under its ``-L`` prefix
first, so a copy there takes the place of the host's.

Formats: Documentation/ABI/testing/sysfs-devices-system-cpu and arch/arm64/kernel/cpuinfo.c of Linux.
"""

from __future__ import annotations

from collections.abc import Iterator

from edgekit.profiles.schema import Cache, CoreCluster, DeviceProfile, Emulator

_CPU = "sys/devices/system/cpu"


def persona_files(profile: DeviceProfile, emulator: Emulator) -> dict[str, str]:
    """Contents by path, relative to the root of the prefix."""
    cores = [cluster for cluster in profile.cores for _ in range(cluster.count)]
    files = {
        "proc/cpuinfo": _cpuinfo(cores, emulator),
        "proc/meminfo": _meminfo(profile.memory.mib or 0),
        f"{_CPU}/kernel_max": f"{len(cores) - 1}\n",
    }
    for name in ("possible", "present", "online"):
        files[f"{_CPU}/{name}"] = _range(0, len(cores)) + "\n"
    first = 0
    for package, cluster in enumerate(profile.cores):
        siblings = _range(first, first + cluster.count)
        for index in range(first, first + cluster.count):
            files |= {f"{_CPU}/cpu{index}/{k}": v + "\n" for k, v in _core(cluster, index, package, siblings)}
            files |= {f"{_CPU}/cpu{index}/{k}": v + "\n" for k, v in _caches(profile, index, len(cores))}
        first += cluster.count
    for index, zone in enumerate(emulator.thermal):
        folder = f"sys/class/thermal/thermal_zone{index}"
        files[f"{folder}/type"] = zone.zone + "\n"
        files[f"{folder}/temp"] = f"{round(zone.celsius * 1000)}\n"
    if emulator.model:
        for path in ("proc/device-tree/model", "sys/firmware/devicetree/base/model"):
            files[path] = emulator.model + "\0"  # a device-tree string ends with NUL
    return files


def _cpuinfo(cores: list[CoreCluster], emulator: Emulator) -> str:
    blocks = [
        f"processor\t: {index}\n"
        f"BogoMIPS\t: {emulator.bogomips:.2f}\n"
        f"Features\t: {emulator.features}\n"
        f"CPU implementer\t: 0x{core.midr_implementer:02x}\n"
        "CPU architecture: 8\n"
        f"CPU variant\t: 0x{core.midr_variant or 0:x}\n"
        f"CPU part\t: 0x{core.midr_part or 0:03x}\n"
        f"CPU revision\t: {core.midr_revision or 0}\n\n"
        for index, core in enumerate(cores)
    ]
    tail = {"Hardware\t": emulator.hardware, "Revision\t": emulator.revision, "Model\t\t": emulator.model}
    return "".join(blocks) + "".join(f"{key}: {value}\n" for key, value in tail.items() if value)


def _meminfo(mib: int) -> str:
    """All memory free: the board does nothing else."""
    names = ("MemTotal", "MemFree", "MemAvailable")
    return "".join(f"{name + ':':<16}{mib * 1024} kB\n" for name in names)


def _core(cluster: CoreCluster, index: int, package: int, siblings: str) -> Iterator[tuple[str, str]]:
    if cluster.ghz is not None:
        khz = round(cluster.ghz * 1e6)
        low = round((cluster.min_ghz or cluster.ghz) * 1e6)
        yield "cpufreq/cpuinfo_max_freq", str(khz)
        yield "cpufreq/cpuinfo_min_freq", str(low)
        yield "cpufreq/scaling_max_freq", str(khz)
        yield "cpufreq/scaling_min_freq", str(low)
        yield "cpufreq/scaling_cur_freq", str(khz)
        yield "cpufreq/scaling_governor", "performance"
    yield "topology/core_id", str(index)
    yield "topology/physical_package_id", str(package)
    for name in ("core_siblings_list", "cluster_cpus_list", "package_cpus_list"):
        yield f"topology/{name}", siblings
    yield "topology/thread_siblings_list", str(index)
    yield "regs/identification/midr_el1", f"0x{_midr(cluster):016x}"


def _midr(cluster: CoreCluster) -> int:
    """The Main ID Register: implementer, variant, architecture (15: by features), part, revision."""
    return (
        cluster.midr_implementer << 24
        | (cluster.midr_variant or 0) << 20
        | 0xF << 16
        | (cluster.midr_part or 0) << 4
        | (cluster.midr_revision or 0)
    )


def _caches(profile: DeviceProfile, core: int, cores: int) -> Iterator[tuple[str, str]]:
    c = profile.caches
    levels: list[tuple[int, str, Cache | None]] = [
        (1, "Data", c.l1d),
        (1, "Instruction", c.l1i),
        (2, "Unified", c.l2),
        (3, "Unified", c.l3),
    ]
    present = [(level, kind, cache) for level, kind, cache in levels if cache is not None]
    for index, (level, kind, cache) in enumerate(present):
        folder = f"cache/index{index}"
        first = core - core % cache.shared_by
        yield f"{folder}/level", str(level)
        yield f"{folder}/type", kind
        yield f"{folder}/size", f"{cache.kib}K"
        yield f"{folder}/coherency_line_size", str(cache.line_bytes)
        yield f"{folder}/shared_cpu_list", _range(first, min(first + cache.shared_by, cores))
        if cache.ways is not None:
            yield f"{folder}/ways_of_associativity", str(cache.ways)
            yield f"{folder}/number_of_sets", str(cache.kib * 1024 // cache.line_bytes // cache.ways)


def _range(first: int, end: int) -> str:
    """Cores first..end-1 as sysfs writes lists: "0-3", or "0" for one."""
    return str(first) if end - first == 1 else f"{first}-{end - 1}"
