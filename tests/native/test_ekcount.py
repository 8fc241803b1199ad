"""The counter against programs whose instructions are known one by one."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from edgekit.native import counter_plugin
from edgekit.store import Store

pytestmark = [pytest.mark.emulator, pytest.mark.usefixtures("arm64_tools")]

CLASSES = ("int_alu", "branch_system", "load_store_int", "load_store_simd", "float", "simd_int", "other")
EXIT = "mov x0, #0\n mov x8, #93\n svc #0\n"


def count(
    source: str, folder: Path, store: Store, *options: str
) -> tuple[list[dict[str, int]], dict[str, int]]:
    """Assemble, run under the counter; the regions and the totals."""
    (folder / "p.S").write_text(".arch armv8.2-a+fp16+dotprod+crypto\n.global _start\n_start:\n" + source)
    program = folder / "p"
    subprocess.run(
        ["aarch64-linux-gnu-gcc", "-nostdlib", "-static", "-o", str(program), str(folder / "p.S")], check=True
    )
    out = folder / "counts.jsonl"
    plugin = ",".join([str(counter_plugin(store)), f"out={out}", *options])
    subprocess.run(["qemu-aarch64", "-cpu", "cortex-a76", "-plugin", plugin, str(program)], check=True)
    records = [json.loads(line) for line in out.read_text().splitlines()]
    return records[:-1], records[-1]


def split(record: dict[str, int]) -> dict[str, int]:
    """The classes that occur."""
    return {name: record[name] for name in CLASSES if record[name]}


def test_a_loop_of_known_length_is_counted_exactly(tmp_path: Path, native_store: Store) -> None:
    loop = (
        "mov x1, #1000\n hint #112\n"
        "1: fmla v0.4s, v1.4s, v2.4s\n sdiv x3, x1, x1\n subs x1, x1, #1\n b.ne 1b\n"
        "hint #113\n"
    )
    regions, totals = count(loop + EXIT, tmp_path, native_store)

    assert len(regions) == 1
    assert regions[0]["insns"] == 4000
    assert split(regions[0]) == {"float": 1000, "int_alu": 2000, "branch_system": 1000}
    assert regions[0]["threads"] == 1
    # mov, the loop, two markers, mov, mov, svc
    assert totals["total"] == 1 + 4000 + 2 + 3


def test_markers_split_a_basic_block_where_they_stand(tmp_path: Path, native_store: Store) -> None:
    block = (
        "nop\n add x1, x1, #1\n hint #112\n add x1, x1, #1\n fadd s0, s0, s1\n hint #113\n add x1, x1, #1\n"
    )
    regions, _ = count(block + EXIT, tmp_path, native_store)
    assert [split(region) for region in regions] == [{"int_alu": 1, "float": 1}]


def test_regions_are_told_apart_and_an_end_without_begin_is_none(tmp_path: Path, native_store: Store) -> None:
    source = "hint #113\n hint #112\n nop\n hint #113\n nop\n hint #112\n nop\n nop\n hint #113\n"
    regions, _ = count(source + EXIT, tmp_path, native_store)
    assert [(region["region"], region["insns"]) for region in regions] == [(0, 1), (1, 2)]


INSTRUCTIONS = {
    "int_alu": """
        add x1, x2, x3; madd x1, x2, x3, x4; ubfx w1, w2, #3, #4; csel x1, x2, x3, eq; movz x1, #7
        adr x1, .; crc32w w1, w2, w3; udiv w1, w2, w3; eor x1, x2, x3, lsl #3; clz x1, x2
    """,
    "branch_system": """
        nop; mrs x1, nzcv; dmb ish; b .+4; cbz xzr, .+4; tbz xzr, #0, .+4; hint #20
    """,
    "load_store_int": """
        ldr x1, [sp]; str w1, [sp]; ldp x1, x2, [sp]; ldrsb w1, [sp]; ldadd x1, x2, [sp]
        prfm pldl1keep, [sp]; ldxr x1, [sp]; ldr w1, .-4
    """,
    "load_store_simd": """
        ldr q1, [sp]; str s1, [sp]; ldp d1, d2, [sp]; ld1 {v1.16b}, [sp]; ld4r {v0.8b-v3.8b}, [sp]
        ldr d1, .-8
    """,
    "float": """
        fadd s0, s1, s2; fmadd d0, d1, d2, d3; fcvtzs w1, s1; scvtf d0, x1; fmov s0, w1; fcmp s0, s1
        fmla v0.4s, v1.4s, v2.4s; fmla v0.4s, v1.4s, v2.s[1]; fmul v0.2d, v1.2d, v2.d[1]
        fmulx s0, s1, v2.s[1]; fmax v0.4s, v1.4s, v2.4s; fadd v0.8h, v1.8h, v2.8h
        fmla v0.8h, v1.8h, v2.h[3]; faddp s0, v1.2s; fmaxv s0, v1.4s; scvtf v0.4s, v1.4s
        scvtf v0.4s, v1.4s, #4; fcvtzs v0.4s, v1.4s, #4; fcvtns v0.4s, v1.4s; fcvtn v0.4h, v1.4s
        fcvtl v0.4s, v1.4h; frintn v0.4s, v1.4s; fabs v0.4s, v1.4s; fcmgt v0.4s, v1.4s, #0.0
        frecpe v0.4s, v1.4s; fsqrt v0.4s, v1.4s; fmov v0.4s, #1.0; fabs v0.8h, v1.8h
        fcvtxn v0.2s, v1.2d
    """,
    "simd_int": """
        add v0.4s, v1.4s, v2.4s; mla v0.4s, v1.4s, v2.4s; mla v0.4s, v1.4s, v2.s[1]
        mul v0.8h, v1.8h, v2.h[3]; smlal v0.4s, v1.4h, v2.4h; smlal v0.4s, v1.4h, v2.h[2]
        smull v0.8h, v1.8b, v2.8b; sadalp v0.4s, v1.8h; sqdmulh v0.4s, v1.4s, v2.s[0]
        sqrdmulh v0.4s, v1.4s, v2.4s; sqrdmlah v0.4s, v1.4s, v2.4s; sdot v0.4s, v1.16b, v2.16b
        sdot v0.4s, v1.16b, v2.4b[1]; udot v0.4s, v1.16b, v2.16b; srshl v0.4s, v1.4s, v2.4s
        sshr v0.4s, v1.4s, #3; sqxtn v0.4h, v1.4s; sqrshrn v0.4h, v1.4s, #3; addv s0, v1.4s
        addp d0, v1.2d; smaxv b0, v1.16b; saddlv s0, v1.8h; movi v0.4s, #1; mvni v0.4s, #1
        dup v0.4s, w1; umov w1, v0.s[1]; ins v0.s[1], w1; tbl v0.16b, {v1.16b}, v2.16b
        ext v0.16b, v1.16b, v2.16b, #3; zip1 v0.4s, v1.4s, v2.4s; uzp2 v0.16b, v1.16b, v2.16b
        and v0.16b, v1.16b, v2.16b; bsl v0.16b, v1.16b, v2.16b; cmgt v0.4s, v1.4s, #0; abs v0.4s, v1.4s
        neg v0.4s, v1.4s; cnt v0.16b, v1.16b; rev64 v0.4s, v1.4s; sqdmlal s0, h1, v2.h[1]
        urecpe v0.4s, v1.4s; aese v0.16b, v1.16b; sha256h q0, q1, v2.4s; pmull v0.8h, v1.8b, v2.8b
        xtn v0.8b, v1.8h
    """,
}


@pytest.mark.parametrize("expected", INSTRUCTIONS)
def test_each_instruction_falls_into_its_class(expected: str, tmp_path: Path, native_store: Store) -> None:
    instructions = [text.strip() for text in re.split("[;\n]", INSTRUCTIONS[expected].strip())]
    marked = "".join(f"hint #112\n {text}\n hint #113\n" for text in instructions)
    regions, _ = count("sub sp, sp, #64\n" + marked + EXIT, tmp_path, native_store)
    found = {text: split(region) for text, region in zip(instructions, regions, strict=True)}
    assert found == {text: {expected: 1} for text in instructions}


STREAM = """
    adrp x0, buffer
    add x0, x0, :lo12:buffer
    mov x2, #{passes}
    hint #112
2:  mov x1, #0
1:  ldr x3, [x0, x1]
    add x1, x1, #64
    cmp x1, #{bytes}
    b.ne 1b
    subs x2, x2, #1
    b.ne 2b
    hint #113
"""
BUFFER = ".bss\n.balign 4096\nbuffer: .skip 65536\n"


def stream(folder: Path, store: Store, *, kib: int, passes: int) -> dict[str, int]:
    """One load per line over ``kib``, ``passes`` times, with L1D 1 KiB of 2 ways and L2 8 KiB of 4."""
    source = STREAM.format(passes=passes, bytes=kib * 1024) + EXIT + BUFFER
    regions, _ = count(source, folder, store, "l1i=1:2", "l1d=1:2", "l2=8:4")
    return regions[0]


def test_cache_model_hits_what_fits_and_misses_what_does_not(tmp_path: Path, native_store: Store) -> None:
    fits = stream(tmp_path, native_store, kib=1, passes=10)
    assert (fits["l1d_accesses"], fits["l1d_misses"]) == (160, 16)

    # LRU over a cyclic stream larger than the cache never hits: L1 misses all, L2 only the first pass.
    l2_only = stream(tmp_path, native_store, kib=4, passes=10)
    assert (l2_only["l1d_accesses"], l2_only["l1d_misses"]) == (640, 640)
    code_lines = l2_only["l1i_misses"]
    assert l2_only["l2_accesses"] == 640 + code_lines
    assert l2_only["l2_misses"] == 64 + code_lines

    nowhere = stream(tmp_path, native_store, kib=16, passes=10)
    assert nowhere["l1d_misses"] == nowhere["l1d_accesses"] == 2560
    assert nowhere["l2_misses"] >= 2560


def test_an_access_across_two_lines_touches_both(tmp_path: Path, native_store: Store) -> None:
    source = (
        "adrp x0, buffer\n hint #112\n ldr x1, [x0, #60]\n ldr x1, [x0, #64]\n hint #113\n" + EXIT + BUFFER
    )
    source = source.replace("ldr x1, [x0, #60]", "ldur x1, [x0, #60]")
    regions, _ = count(source, tmp_path, native_store, "l1i=1:2", "l1d=1:2")
    assert (regions[0]["l1d_accesses"], regions[0]["l1d_misses"]) == (3, 2)


def test_tick_gives_the_instructions_executed_so_far(tmp_path: Path, native_store: Store) -> None:
    # Two ticks 8 instructions apart (str, ldr, 4 nops, hint, str); the difference decides the exit code.
    source = (
        "sub sp, sp, #16\n hint #114\n str xzr, [sp]\n ldr x5, [sp]\n nop\n nop\n nop\n nop\n"
        "hint #114\n str xzr, [sp]\n ldr x6, [sp]\n sub x0, x6, x5\n sub x0, x0, #7\n"
        "mov x8, #93\n svc #0\n"
    )
    count(source, tmp_path, native_store)  # check=True: exit code 0


@pytest.mark.parametrize("option", ["l1d=32", "l1d=32:0", "l1d=3:7", "l1d=32:2x", "speed=1"])
def test_bad_options_stop_the_program(option: str, tmp_path: Path, native_store: Store) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        count("nop\n" + EXIT, tmp_path, native_store, option)
