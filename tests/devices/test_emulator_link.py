from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from edgekit.devices import open_link
from edgekit.devices.emulator import link as link_module
from edgekit.devices.emulator import sysroot as sysroot_module
from edgekit.devices.emulator.link import EmulatorLink
from edgekit.devices.emulator.persona import persona_files
from edgekit.errors import DeviceError, MissingDependency, Unsupported
from edgekit.profiles.loader import list_profiles, load_profile
from edgekit.profiles.schema import DeviceProfile
from edgekit.store import Store
from edgekit.types import DeviceCommand

Compile = Callable[[str], Path]

COUNTED = """
#include <stdio.h>
int main(void) {
    volatile int sum = 0;
    for (int run = 0; run < 2; run++) {
        __asm__ volatile("hint #112" ::: "memory");
        for (int i = 0; i < 100; i++) sum += i;
        __asm__ volatile("hint #113" ::: "memory");
    }
    printf("%d\\n", sum);
    return 0;
}
"""


def command(program: Path, *arguments: str, **rest) -> DeviceCommand:
    return DeviceCommand(argv=("program", *arguments), files={"program": program}, **rest)


def without(profile: DeviceProfile, **changes: object) -> DeviceProfile:
    return profile.model_copy(update=changes)


# ---- the persona, as data ----


def test_persona_of_the_pi4_reads_like_its_files() -> None:
    pi4 = load_profile("pi4")
    assert pi4.emulator is not None
    files = persona_files(pi4, pi4.emulator)
    assert files["proc/cpuinfo"].count("CPU part\t: 0xd08\n") == 4
    assert "\nModel\t\t: Raspberry Pi 4 Model B" in files["proc/cpuinfo"]
    assert files["sys/devices/system/cpu/possible"] == "0-3\n"
    assert files["sys/devices/system/cpu/cpu3/cache/index2/shared_cpu_list"] == "0-3\n"
    assert files["sys/devices/system/cpu/cpu3/cache/index0/shared_cpu_list"] == "3\n"
    assert files["sys/devices/system/cpu/cpu0/cache/index0/size"] == "32K\n"
    assert files["sys/devices/system/cpu/cpu0/cache/index1/number_of_sets"] == "256\n"
    assert files["sys/devices/system/cpu/cpu0/regs/identification/midr_el1"] == "0x00000000410fd083\n"


EMULATED = [profile for profile in list_profiles() if profile.emulator is not None]


@pytest.mark.parametrize("profile", EMULATED, ids=lambda p: p.id)
def test_every_emulated_profile_has_a_whole_persona(profile: DeviceProfile) -> None:
    assert profile.emulator is not None
    files = persona_files(profile, profile.emulator)
    cpuinfo = files["proc/cpuinfo"]
    assert cpuinfo.count("processor\t: ") == profile.core_count
    assert cpuinfo.count(f"Features\t: {profile.emulator.features}\n") == profile.core_count
    memory = re.search(r"^MemTotal: +(\d+) kB$", files["proc/meminfo"], re.MULTILINE)
    assert memory is not None
    assert int(memory[1]) == (profile.memory.mib or 0) * 1024
    for core in range(profile.core_count):
        assert files[f"sys/devices/system/cpu/cpu{core}/topology/core_id"] == f"{core}\n"
    assert all(not path.startswith("/") and ".." not in path for path in files)


def test_clusters_are_packages_of_their_own() -> None:
    pi4 = load_profile("pi4")
    big = pi4.cores[0].model_copy(update={"count": 1, "midr_part": 0xD0B})
    little = pi4.cores[0].model_copy(update={"count": 2, "midr_part": 0xD05})
    assert pi4.emulator is not None
    files = persona_files(without(pi4, cores=(little, big)), pi4.emulator)
    siblings = [files[f"sys/devices/system/cpu/cpu{i}/topology/core_siblings_list"] for i in range(3)]
    assert siblings == ["0-1\n", "0-1\n", "2\n"]
    parts = re.findall(r"CPU part\t: (\S+)", files["proc/cpuinfo"])
    assert parts == ["0xd05", "0xd05", "0xd0b"]


# ---- what is missing ----


def test_a_profile_without_emulator_is_unsupported(device_store: Store) -> None:
    profile = without(load_profile("pi4"), emulator=None)
    with pytest.raises(Unsupported, match="pi4 cannot be emulated"):
        open_link("emulator", profile, device_store)


def test_without_qemu_the_mending_command_is_given(
    device_store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingDependency, match="qemu-aarch64 is not installed") as caught:
        open_link("emulator", load_profile("pi4"), device_store)
    assert "apt-get install" in (caught.value.hint or "")
    assert "qemu-user" in (caught.value.hint or "")


def fake_qemu(folder: Path, version: str, help_text: str) -> None:
    program = folder / "qemu-aarch64"
    program.write_text(
        f"#!/bin/sh\n[ \"$1\" = --version ] && echo 'qemu-aarch64 version {version}' || echo '{help_text}'\n"
    )
    program.chmod(0o755)


@pytest.mark.parametrize(
    ("version", "help_text"), [("10.0.3", "-plugin QEMU_PLUGIN"), ("8.2.2", "-cpu model")]
)
def test_a_qemu_that_cannot_count_says_so(
    version: str, help_text: str, device_store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if not sysroot_module.CROSS_LIBRARIES.is_dir():
        pytest.skip("the arm64 C library is not installed")
    fake_qemu(tmp_path, version, help_text)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    link = open_link("emulator", load_profile("pi4"), device_store)
    assert link.facts()["counts_instructions"] is False
    with pytest.raises(MissingDependency, match="cannot count instructions"):
        link.run(command(tmp_path / "qemu-aarch64"), timeout_s=20, count=True)


def test_without_the_arm64_c_library_the_mending_command_is_given(
    device_store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake_qemu(tmp_path, "7.2.0", "-plugin QEMU_PLUGIN")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(sysroot_module, "CROSS_LIBRARIES", tmp_path / "absent")
    monkeypatch.setattr(sysroot_module.platform, "machine", lambda: "x86_64")
    with pytest.raises(MissingDependency, match="arm64 C library") as caught:
        open_link("emulator", load_profile("pi4"), device_store)
    assert "gcc-aarch64-linux-gnu" in (caught.value.hint or "")


def test_loader_variables_reach_the_guest_alone() -> None:
    options, shared = link_module._environment({"LD_PRELOAD": "a.so", "X": "1,2"}, preload="./clock.so")
    assert options == ["-E", "LD_PRELOAD=./clock.so a.so"]
    assert shared["X"] == "1,2"
    assert not [name for name in shared if name.startswith("LD_")]


# ---- running ----


@pytest.fixture
def pi4(arm64_program: Compile, device_store: Store) -> EmulatorLink:
    return EmulatorLink(load_profile("pi4"), device_store)


@pytest.mark.emulator
def test_a_program_sees_the_board(pi4: EmulatorLink, arm64_program: Compile) -> None:
    program = arm64_program(
        """
        #include <stdio.h>
        int main(int argc, char **argv) {
            for (int i = 1; i < argc; i++) {
                char line[4096];
                FILE *f = fopen(argv[i], "r");
                if (!f) return 1;
                while (fgets(line, sizeof line, f)) fputs(line, stdout);
            }
            return 0;
        }
        """
    )
    paths = ["/proc/cpuinfo", "/sys/devices/system/cpu/online", "/proc/device-tree/model"]
    result = pi4.run(command(program, *paths), timeout_s=20)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("0xd08") == 4
    assert "\n0-3\n" in result.stdout
    assert "Raspberry Pi 4" in result.stdout


@pytest.mark.emulator
def test_facts_say_that_it_is_emulated(pi4: EmulatorLink) -> None:
    facts = pi4.facts()
    assert facts["emulated"] is True
    assert facts["profile"] == "pi4"
    assert facts["cpu"] == "cortex-a72"
    assert re.fullmatch(r"qemu-aarch64 \d+\.\d+.*", facts["emulator"])
    assert facts["cache_model"] == {
        "l1i": "48 KiB, 3 ways",
        "l1d": "32 KiB, 2 ways",
        "l2": "1024 KiB, 16 ways",
    }
    assert (pi4.arch, pi4.source) == ("aarch64", "emulator")


@pytest.mark.emulator
def test_regions_are_counted_when_asked(pi4: EmulatorLink, arm64_program: Compile) -> None:
    program = arm64_program(COUNTED)
    counted = pi4.run(command(program), timeout_s=20, count=True)
    plain = pi4.run(command(program), timeout_s=20)
    assert plain.stdout == counted.stdout == "9900\n"
    assert plain.regions == ()
    assert plain.totals == {}
    first, second = counted.regions
    assert first["insns"] == second["insns"]
    assert 500 <= first["insns"] <= 1500
    assert first["load_store_int"] >= 200
    assert counted.totals["total"] > first["insns"] + second["insns"]
    assert counted.outputs == {}


@pytest.mark.emulator
def test_per_op_makes_the_clock_tick_in_instructions(pi4: EmulatorLink, arm64_program: Compile) -> None:
    program = arm64_program(
        """
        #include <stdio.h>
        #include <time.h>
        static long us(void) {
            struct timespec t;
            clock_gettime(CLOCK_MONOTONIC, &t);
            return t.tv_sec * 1000000 + t.tv_nsec / 1000;
        }
        int main(void) {
            long start = us();
            for (int i = 0; i < 10000; i++) __asm__ volatile("nop\\n nop\\n nop\\n nop\\n");
            printf("%ld\\n", us() - start);
            return 0;
        }
        """
    )
    first = pi4.run(command(program), timeout_s=20, per_op=True)
    again = pi4.run(command(program), timeout_s=20, per_op=True)
    assert first.stdout == again.stdout
    # Four nops, a decrement and a branch per turn, and the clock itself.
    assert 60_000 <= int(first.stdout) <= 60_100


@pytest.mark.emulator
def test_caches_of_the_profile_are_modelled(pi4: EmulatorLink, arm64_program: Compile) -> None:
    result = pi4.run(command(arm64_program(COUNTED)), timeout_s=20, caches=True)
    region = result.regions[1]
    assert region["l1d_accesses"] >= 200
    assert region["l1d_misses"] == 0
    assert "l3_accesses" not in region


@pytest.mark.emulator
def test_caches_that_are_not_known_are_not_modelled(arm64_program: Compile, device_store: Store) -> None:
    pi4 = load_profile("pi4")
    assert pi4.caches.l2 is not None
    assert pi4.caches.l1d is not None
    program = arm64_program(COUNTED)

    no_l2_ways = pi4.caches.model_copy(update={"l2": pi4.caches.l2.model_copy(update={"ways": None})})
    link = EmulatorLink(without(pi4, caches=no_l2_ways), device_store)
    region = link.run(command(program), timeout_s=20, caches=True).regions[0]
    assert "l1d_misses" in region
    assert "l2_misses" not in region

    no_l1_ways = pi4.caches.model_copy(update={"l1d": pi4.caches.l1d.model_copy(update={"ways": None})})
    link = EmulatorLink(without(pi4, caches=no_l1_ways), device_store)
    with pytest.raises(Unsupported, match="caches cannot be modelled"):
        link.run(command(program), timeout_s=20, caches=True)


@pytest.mark.emulator
def test_a_guest_crash_is_a_device_error(pi4: EmulatorLink, arm64_program: Compile) -> None:
    program = arm64_program(
        """
        #include <stdio.h>
        int main(void) {
            fputs("near the end\\n", stderr);
            *(volatile int *)8 = 1;
            return 0;
        }
        """
    )
    for count in (False, True):
        with pytest.raises(DeviceError, match=r"SIGSEGV on the emulated cortex-a72") as caught:
            pi4.run(command(program), timeout_s=20, count=count)
        assert "near the end" in (caught.value.hint or "")


@pytest.mark.emulator
def test_a_program_for_another_machine_is_reported(pi4: EmulatorLink) -> None:
    with pytest.raises(DeviceError, match="is a program for x86_64, but emulator runs programs for aarch64"):
        pi4.run(command(Path("/bin/true").resolve()), timeout_s=20)


@pytest.mark.emulator
def test_counting_threads_is_refused(pi4: EmulatorLink, arm64_program: Compile) -> None:
    program = arm64_program(
        """
        #include <pthread.h>
        static void *work(void *p) { return p; }
        int main(void) { pthread_t t; pthread_create(&t, 0, work, 0); return pthread_join(t, 0); }
        """
    )
    assert pi4.run(command(program), timeout_s=20).returncode == 0
    with pytest.raises(DeviceError, match="ran 2 threads"):
        pi4.run(command(program), timeout_s=20, count=True)


@pytest.mark.emulator
def test_the_sysroot_is_made_once_per_persona(device_store: Store, arm64_program: Compile) -> None:
    pi4 = load_profile("pi4")
    assert pi4.emulator is not None
    first = sysroot_module.sysroot(pi4, pi4.emulator, device_store)
    assert sysroot_module.sysroot(pi4, pi4.emulator, device_store) == first
    other = pi4.emulator.model_copy(update={"bogomips": 1.0})
    assert sysroot_module.sysroot(pi4, other, device_store) != first
