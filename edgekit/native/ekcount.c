/* ekcount: a QEMU TCG plugin (aarch64, user mode) that counts executed instructions.
 *
 *   -plugin ekcount.so,out=FILE[,l1i=KIB:WAYS][,l1d=KIB:WAYS][,l2=KIB:WAYS][,l3=KIB:WAYS]
 *
 * FILE receives JSON lines. The guest brackets a region with two HINT instructions, NOPs on every
 * core:
 *
 *   hint #112   a region begins          hint #113   the region ends
 *
 * Each region gives {"region", "insns", one count per class, "threads"}; the markers themselves
 * are not in it. At exit one line {"total", ...} covers the whole program. Counts are exact and
 * repeatable for a guest of one thread; "threads" says how many there were so far.
 *
 * With cache geometries given, those levels are modelled (cache_model.h), and each adds
 * "<level>_accesses" and "<level>_misses".
 *
 *   hint #114   the 8-byte store right behind it is overwritten with the number of instructions
 *               executed so far: a clock that ticks in instructions (see ekclock.c).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "a64_classes.h"
#include "cache_model.h"
#include "qemu_plugin_api.h"

EK_EXPORT int qemu_plugin_version = QEMU_PLUGIN_API_VERSION;

enum { INSN_BYTES = 4 };

#define A64_HINT(n) (0xd503201fu | ((uint32_t)(n) << 5))
enum { HINT_BEGIN = 112, HINT_END = 113, HINT_TICK = 114 };

/* ---- modelled caches ---- */

enum { L1I, L1D, L2, L3, CACHE_COUNT };

static Cache caches[CACHE_COUNT] = {{.name = "l1i"}, {.name = "l1d"}, {.name = "l2"}, {.name = "l3"}};
static bool caches_on;

/* Each level passes its misses to the nearest larger level that is modelled. */
static void link_caches(void) {
    Cache *below = NULL;
    for (int level = L3; level >= L2; level--) {
        caches[level].next = below;
        if (cache_present(&caches[level])) {
            below = &caches[level];
        }
    }
    caches[L1I].next = below;
    caches[L1D].next = below;
}

/* ---- counters and regions ---- */

typedef struct {
    uint64_t classes[CLASS_COUNT];
    uint64_t accesses[CACHE_COUNT];
    uint64_t misses[CACHE_COUNT];
} Snapshot;

static uint64_t counts[CLASS_COUNT];
static Snapshot region_start;
static bool region_open;
static unsigned region_count;
static unsigned thread_count;
static FILE *out;

static uint64_t executed(void) {
    uint64_t sum = 0;
    for (int c = 0; c < CLASS_COUNT; c++) {
        sum += counts[c];
    }
    return sum;
}

static Snapshot snapshot(void) {
    Snapshot now;
    memcpy(now.classes, counts, sizeof counts);
    for (int level = 0; level < CACHE_COUNT; level++) {
        now.accesses[level] = caches[level].accesses;
        now.misses[level] = caches[level].misses;
    }
    return now;
}

/* The rest of a JSON line, from the class counts on. */
static void print_since(const Snapshot *start) {
    Snapshot now = snapshot();
    for (int c = 0; c < CLASS_COUNT; c++) {
        fprintf(out, ",\"%s\":%llu", CLASS_NAMES[c], (unsigned long long)(now.classes[c] - start->classes[c]));
    }
    for (int level = 0; level < CACHE_COUNT; level++) {
        if (cache_present(&caches[level])) {
            fprintf(out, ",\"%s_accesses\":%llu,\"%s_misses\":%llu", caches[level].name,
                    (unsigned long long)(now.accesses[level] - start->accesses[level]), caches[level].name,
                    (unsigned long long)(now.misses[level] - start->misses[level]));
        }
    }
    fprintf(out, ",\"threads\":%u}\n", thread_count);
    fflush(out);
}

static void on_begin(unsigned vcpu, void *data) {
    (void)vcpu;
    (void)data;
    counts[CLASS_BRANCH]++;
    region_start = snapshot();
    region_open = true;
}

static void on_end(unsigned vcpu, void *data) {
    (void)vcpu;
    (void)data;
    if (region_open) {
        uint64_t before = 0;
        for (int c = 0; c < CLASS_COUNT; c++) {
            before += region_start.classes[c];
        }
        fprintf(out, "{\"region\":%u,\"insns\":%llu", region_count, (unsigned long long)(executed() - before));
        print_since(&region_start);
        region_count++;
        region_open = false;
    }
    counts[CLASS_BRANCH]++;
}

/* Guest memory lies at a fixed distance in user mode; learnt from the first instruction seen. */
static uint64_t guest_base;
static bool guest_base_known;

static void learn_guest_base(struct qemu_plugin_insn *insn) {
    void *host = qemu_plugin_insn_haddr(insn);
    if (!guest_base_known && host != NULL) {
        guest_base = (uint64_t)(uintptr_t)host - qemu_plugin_insn_vaddr(insn);
        guest_base_known = true;
    }
}

static void on_tick(unsigned vcpu, qemu_plugin_meminfo_t info, uint64_t address, void *data) {
    (void)vcpu;
    (void)data;
    if (guest_base_known && qemu_plugin_mem_size_shift(info) == 3) {
        uint64_t now = executed();
        memcpy((void *)(uintptr_t)(address + guest_base), &now, sizeof now);
    }
}

/* ---- instrumentation ---- */

static uint32_t insn_word(struct qemu_plugin_insn *insn) {
    uint32_t word = 0;
    memcpy(&word, qemu_plugin_insn_data(insn), sizeof word);
    return word;
}

static void on_memory(unsigned vcpu, qemu_plugin_meminfo_t info, uint64_t address, void *data) {
    (void)vcpu;
    (void)data;
    touch_range(&caches[L1D], address, 1ull << qemu_plugin_mem_size_shift(info));
}

typedef struct {
    uint64_t address;
    uint64_t bytes;
} Code;

static void on_fetch(unsigned vcpu, void *data) {
    const Code *code = data;
    (void)vcpu;
    touch_range(&caches[L1I], code->address, code->bytes);
}

static void on_one(unsigned vcpu, void *data) {
    (void)vcpu;
    ++*(uint64_t *)data;
}

/* A block without markers is counted at its start in one go: once entered, it runs to its end. */
static void count_block(struct qemu_plugin_tb *tb, const uint64_t *added) {
    for (int c = 0; c < CLASS_COUNT; c++) {
        if (added[c] != 0) {
            qemu_plugin_register_vcpu_tb_exec_inline(tb, QEMU_PLUGIN_INLINE_ADD_U64, &counts[c], added[c]);
        }
    }
}

/* A block with a marker is counted instruction by instruction, so that the part of the block
 * before the marker and the part behind it fall on their own sides. */
static void count_insn(struct qemu_plugin_insn *insn, uint32_t word, Class class) {
    qemu_plugin_vcpu_udata_cb_t callback = on_one;
    void *data = &counts[class];
    if (word == A64_HINT(HINT_BEGIN)) {
        callback = on_begin;
    } else if (word == A64_HINT(HINT_END)) {
        callback = on_end;
    }
    qemu_plugin_register_vcpu_insn_exec_cb(insn, callback, QEMU_PLUGIN_CB_NO_REGS, data);
}

static bool is_marker(uint32_t word) {
    return word == A64_HINT(HINT_BEGIN) || word == A64_HINT(HINT_END) || word == A64_HINT(HINT_TICK);
}

static void model_caches(struct qemu_plugin_tb *tb, size_t insns) {
    if (cache_present(&caches[L1I])) {
        Code *code = malloc(sizeof *code);
        if (code == NULL) {
            abort();
        }
        code->address = qemu_plugin_insn_vaddr(qemu_plugin_tb_get_insn(tb, 0));
        code->bytes = insns * INSN_BYTES;
        qemu_plugin_register_vcpu_tb_exec_cb(tb, on_fetch, QEMU_PLUGIN_CB_NO_REGS, code);
    }
    if (cache_present(&caches[L1D])) {
        for (size_t i = 0; i < insns; i++) {
            struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
            Class class = classify(insn_word(insn));
            if (class == CLASS_LOAD_STORE || class == CLASS_SIMD_LOAD_STORE) {
                qemu_plugin_register_vcpu_mem_cb(insn, on_memory, QEMU_PLUGIN_CB_NO_REGS, QEMU_PLUGIN_MEM_RW, NULL);
            }
        }
    }
}

static void on_translate(qemu_plugin_id_t id, struct qemu_plugin_tb *tb) {
    size_t insns = qemu_plugin_tb_n_insns(tb);
    uint64_t added[CLASS_COUNT] = {0};
    bool marked = false;
    (void)id;

    for (size_t i = 0; i < insns; i++) {
        struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
        uint32_t word = insn_word(insn);
        learn_guest_base(insn);
        added[classify(word)]++;
        marked = marked || is_marker(word);
    }
    if (marked) {
        bool tick = false;
        for (size_t i = 0; i < insns; i++) {
            struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
            uint32_t word = insn_word(insn);
            count_insn(insn, word, classify(word));
            if (tick && classify(word) == CLASS_LOAD_STORE) {
                qemu_plugin_register_vcpu_mem_cb(insn, on_tick, QEMU_PLUGIN_CB_NO_REGS, QEMU_PLUGIN_MEM_W, NULL);
            }
            tick = word == A64_HINT(HINT_TICK);
        }
    } else {
        count_block(tb, added);
    }
    if (caches_on) {
        model_caches(tb, insns);
    }
}

static void on_thread(qemu_plugin_id_t id, unsigned vcpu) {
    (void)id;
    if (vcpu + 1 > thread_count) {
        thread_count = vcpu + 1;
    }
}

static void on_program_end(qemu_plugin_id_t id, void *data) {
    Snapshot nothing = {0};
    (void)id;
    (void)data;
    fprintf(out, "{\"total\":%llu", (unsigned long long)executed());
    print_since(&nothing);
    fclose(out);
}

/* ---- arguments ---- */

static bool parse_cache(const char *argument, bool *known) {
    for (int level = 0; level < CACHE_COUNT; level++) {
        size_t length = strlen(caches[level].name);
        if (strncmp(argument, caches[level].name, length) == 0 && argument[length] == '=') {
            unsigned kib;
            unsigned ways;
            char rest;
            *known = true;
            caches_on = true;
            return sscanf(argument + length + 1, "%u:%u%c", &kib, &ways, &rest) == 2
                   && cache_init(&caches[level], kib, ways);
        }
    }
    *known = false;
    return false;
}

static bool parse_argument(const char *argument) {
    bool is_cache = false;
    if (strncmp(argument, "out=", 4) == 0) {
        out = fopen(argument + 4, "w");
        if (out == NULL) {
            perror(argument + 4);
        }
        return out != NULL;
    }
    if (parse_cache(argument, &is_cache)) {
        return true;
    }
    const char *complaint = is_cache ? "no such cache geometry (KIB:WAYS):" : "unknown argument";
    fprintf(stderr, "ekcount: %s '%s'\n", complaint, argument);
    return false;
}

EK_EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc, char **argv) {
    if (strcmp(info->target_name, "aarch64") != 0 || info->system_emulation) {
        fprintf(stderr, "ekcount: counts aarch64 programs in user mode only\n");
        return -1;
    }
    for (int i = 0; i < argc; i++) {
        if (!parse_argument(argv[i])) {
            return -1;
        }
    }
    if (out == NULL) {
        fprintf(stderr, "ekcount: needs out=FILE\n");
        return -1;
    }
    link_caches();
    qemu_plugin_register_vcpu_init_cb(id, on_thread);
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translate);
    qemu_plugin_register_atexit_cb(id, on_program_end, NULL);
    return 0;
}
