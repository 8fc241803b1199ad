"""The lint's table of what QEMU's cores implement, against QEMU itself."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from edgekit.profiles.lint import EMULATED

pytestmark = pytest.mark.emulator

# AT_HWCAP and AT_HWCAP2 bits, arch/arm64/include/uapi/asm/hwcap.h; MIDR_EL1 is readable from user space.
PROGRAM = r"""
#include <stdio.h>
#include <sys/auxv.h>
int main(void) {
    unsigned long a = getauxval(AT_HWCAP), b = getauxval(AT_HWCAP2), midr;
    const struct { const char *name; int bit; } first[] = {
        {"neon", 1}, {"aes", 3}, {"sha2", 6}, {"crc32", 7}, {"lse", 8},
        {"fp16", 10}, {"rdm", 12}, {"dotprod", 20}, {"sve", 22}};
    for (unsigned i = 0; i < sizeof first / sizeof *first; i++)
        if (a >> first[i].bit & 1) printf("%s ", first[i].name);
    if (b >> 13 & 1) printf("i8mm ");
    if (b >> 14 & 1) printf("bf16 ");
    __asm__("mrs %0, midr_el1" : "=r"(midr));
    printf("\n%lu\n", midr >> 4 & 0xfff);
    return 0;
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    missing = [tool for tool in ("qemu-aarch64", "aarch64-linux-gnu-gcc") if shutil.which(tool) is None]
    if missing:
        reason = f"{' and '.join(missing)} not found (apt-get install qemu-user gcc-aarch64-linux-gnu)"
        if os.environ.get("EDGEKIT_REQUIRE_EMULATOR") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("isa")
    source, binary = folder / "isa.c", folder / "isa"
    source.write_text(PROGRAM)
    subprocess.run(["aarch64-linux-gnu-gcc", "-static", "-o", binary, source], check=True, timeout=60)
    return binary


@pytest.mark.parametrize("cpu", EMULATED)
def test_the_core_implements_what_the_table_says(cpu: str, program: Path) -> None:
    command = ["qemu-aarch64", "-cpu", cpu, str(program)]
    flags, part = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=60
    ).stdout.splitlines()
    assert (frozenset(flags.split()), int(part)) == EMULATED[cpu]
