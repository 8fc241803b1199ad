/* Into which class an A64 instruction falls, from its encoding. */
#ifndef EDGEKIT_A64_CLASSES_H
#define EDGEKIT_A64_CLASSES_H

#include <stdbool.h>
#include <stdint.h>

typedef enum {
    CLASS_INT,
    CLASS_BRANCH,
    CLASS_LOAD_STORE,
    CLASS_SIMD_LOAD_STORE,
    CLASS_FLOAT,
    CLASS_SIMD_INT,
    CLASS_OTHER,
    CLASS_COUNT,
} Class;

static const char *const CLASS_NAMES[CLASS_COUNT] = {
    "int_alu", "branch_system", "load_store_int", "load_store_simd", "float", "simd_int", "other",
};

static uint32_t bits(uint32_t word, unsigned high, unsigned low) {
    return (word >> low) & ((1u << (high - low + 1)) - 1);
}

/* Advanced SIMD, two registers, miscellaneous: opcode in 16..12, size in 23..22. */
static bool two_register_is_float(uint32_t w) {
    uint32_t opcode = bits(w, 16, 12);
    bool high_size = bits(w, 23, 23) == 1;
    if (opcode >= 0x0c && opcode <= 0x0f) { /* FCMGT, FCMEQ, FCMLT, FABS and so on */
        return high_size;
    }
    if (opcode == 0x16 || opcode == 0x17) { /* FCVTN, FCVTXN, BFCVTN, FCVTL */
        return true;
    }
    if (opcode == 0x1c && high_size) { /* URECPE, URSQRTE: estimates of integers */
        return false;
    }
    return opcode >= 0x18;
}

/* Advanced SIMD, vector by element: opcode in 15..12, U in 29, size in 23..22. */
static bool by_element_is_float(uint32_t w) {
    uint32_t size = bits(w, 23, 22);
    bool u = bits(w, 29, 29) == 1;
    switch (bits(w, 15, 12)) {
    case 0x0: /* FMLAL, or MLA with U */
    case 0x4: /* FMLSL, or MLS with U */
        return !u;
    case 0x8: /* MUL, or FMLAL2 with U */
    case 0xc: /* SQDMULH, or FMLSL2 with U */
        return u;
    case 0x1: /* FMLA, FCMLA */
    case 0x5: /* FMLS, FCMLA */
    case 0x9: /* FMUL, FMULX */
        return true;
    case 0x3: /* SQDMLAL, or FCMLA with U */
    case 0x7: /* SQDMLSL, or FCMLA with U */
        return u;
    case 0xf: /* SUDOT (00), BFDOT (01), USDOT (10), BFMLAL (11); with U SQRDMLSH */
        return !u && (size == 1 || size == 3);
    default:
        return false;
    }
}

/* Advanced SIMD on whole registers (bit 24 clear). */
static bool vector_is_float(uint32_t w) {
    uint32_t two_register_group = bits(w, 21, 17);
    uint32_t opcode = bits(w, 16, 12);
    if (bits(w, 10, 10) == 1) {
        if (bits(w, 21, 21) == 1) { /* three same */
            return bits(w, 15, 11) >= 0x18;
        }
        if (bits(w, 15, 15) == 1) { /* three same, extra: dot products, FCMLA, FCADD, BFDOT, BFMMLA */
            return bits(w, 14, 11) >= 0x8;
        }
        return bits(w, 22, 22) == 1 && bits(w, 14, 14) == 0; /* three same of half precision, else copy */
    }
    if (bits(w, 11, 11) == 0) { /* three different, table, extract */
        return false;
    }
    switch (two_register_group) {
    case 0x10: return two_register_is_float(w);
    case 0x1c: return true; /* two registers, half precision */
    case 0x18: return opcode >= 0x0c && opcode <= 0x0f; /* across lanes, scalar pairwise */
    default: return false; /* permute, AES, SHA */
    }
}

/* Advanced SIMD with an element or an immediate (bit 24 set). */
static bool element_or_immediate_is_float(uint32_t w) {
    uint32_t opcode = bits(w, 15, 11);
    if (bits(w, 10, 10) == 0) {
        return by_element_is_float(w);
    }
    if (bits(w, 22, 19) == 0) { /* modified immediate: FMOV has cmode 1111 */
        return bits(w, 15, 12) == 0xf;
    }
    return opcode == 0x1c || opcode == 0x1f; /* SCVTF, UCVTF, FCVTZS, FCVTZU with fraction bits */
}

static Class classify_simd(uint32_t w) {
    if (bits(w, 28, 25) == 0xf && bits(w, 30, 30) == 0) {
        return CLASS_FLOAT; /* scalar floating point */
    }
    if (bits(w, 31, 31) == 1) {
        return CLASS_SIMD_INT; /* SHA-512, SHA-3, SM3, SM4 */
    }
    bool is_float = bits(w, 24, 24) == 1 ? element_or_immediate_is_float(w) : vector_is_float(w);
    return is_float ? CLASS_FLOAT : CLASS_SIMD_INT;
}

/* Arm ARM, "A64 instruction set encoding": the main groups are told by bits 28..25. */
static Class classify(uint32_t w) {
    uint32_t group = bits(w, 28, 25);
    if ((group & 0x5) == 0x4) {
        return bits(w, 26, 26) == 1 ? CLASS_SIMD_LOAD_STORE : CLASS_LOAD_STORE;
    }
    if ((group & 0xe) == 0x8 || (group & 0x7) == 0x5) {
        return CLASS_INT;
    }
    if ((group & 0xe) == 0xa) {
        return CLASS_BRANCH;
    }
    if ((group & 0x7) == 0x7) {
        return classify_simd(w);
    }
    return CLASS_OTHER; /* SVE, SME, reserved */
}

#endif
