/* litert_run: run a .tflite file with libLiteRt.so and report what it did as one JSON line.
 *
 *   litert_run [-w WARMUP] [-n RUNS] [-t THREADS] [-p] [-i IN]... [-o OUT]... MODEL
 *
 *   -w N    runs before the measured ones (default 2)
 *   -n N    measured runs (default 5)
 *   -t N    threads of the XNNPACK delegate (default 1)
 *   -p      switch the runtime's profiler on and list its events
 *   -i IN   raw bytes of an input; once per input, in the order of the model's subgraph, which need not be
 *           that of its signature. So are the outputs.
 *           Without any -i the inputs are filled with a fixed pseudo-random sequence.
 *   -o OUT  where to write the raw bytes of an output; once per output, or not at all
 *
 * The first signature of the model is run. Standard output is one JSON object:
 *   machine, load_ms, runs_ms[], start_rss_kb, peak_rss_kb, outputs[{bytes, fnv64}]
 *   and with -p also events[{tag, type, node, subgraph, us}]: the operators of all measured runs
 *   in order of execution. type 1 is a phase of the runtime ("Invoke" is the whole graph), 2 an
 *   operator of the interpreter (node: its index in the graph), 4 and 8 an operator inside a
 *   delegate (node: its index there).
 * peak_rss_kb is the high-water mark of the process; start_rss_kb the mark before the model was
 * loaded, so that the part of the loader (and of an emulator around it) can be told apart.
 *
 * Exit codes: 0 done, 2 usage, 3 LiteRT refused, 4 an input does not fit, 5 an output cannot be
 * written, 6 out of memory. The reason is on standard error.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "litert_api.h"

enum { EXIT_USAGE = 2, EXIT_LITERT = 3, EXIT_INPUT = 4, EXIT_OUTPUT = 5, EXIT_MEMORY = 6 };
enum { MAX_TENSORS = 64 };

/* Two A64 HINT instructions, which every core executes as NOP, bracket each measured run. The
 * instruction counter (ekcount.c) recognises them; on other machines there is nothing to count. */
#ifdef __aarch64__
#define MARK_BEGIN() __asm__ volatile("hint #112" ::: "memory")
#define MARK_END() __asm__ volatile("hint #113" ::: "memory")
#else
#define MARK_BEGIN() ((void)0)
#define MARK_END() ((void)0)
#endif

typedef struct {
    int warmup;
    int runs;
    int threads;
    bool profile;
    const char *model;
    const char *inputs[MAX_TENSORS];
    const char *outputs[MAX_TENSORS];
    size_t input_count;
    size_t output_count;
} Arguments;

typedef struct {
    LiteRtTensorBuffer buffer;
    size_t bytes;
    int element_type;
} Tensor;

typedef struct {
    LiteRtEnvironment environment;
    LiteRtModel model;
    LiteRtOptions options;
    LiteRtCompiledModel compiled;
    LiteRtProfiler profiler;
    LiteRtParamIndex input_count;
    LiteRtParamIndex output_count;
    Tensor inputs[MAX_TENSORS];
    Tensor outputs[MAX_TENSORS];
} Session;

__attribute__((noreturn, format(printf, 2, 3))) static void fail(int code, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("litert_run: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(code);
}

/* libLiteRt.so does not export LiteRtGetStatusString. */
static const char *status_name(LiteRtStatus status) {
    switch (status) {
    case 1: return "invalid argument";
    case 2: return "memory allocation failure";
    case 3: return "runtime failure";
    case 4: return "missing input tensor";
    case 5: return "unsupported";
    case 6: return "not found";
    case 8: return "wrong version";
    case 500: return "file I/O error";
    case 501: return "invalid flatbuffer";
    case 502: return "dynamic loading failed";
    case 504: return "compilation failed";
    case 1000: return "index out of bounds";
    case 4000: return "unsupported runtime version";
    default: return "error";
    }
}

static void check(LiteRtStatus status, const char *call) {
    if (status != LITERT_STATUS_OK) {
        fail(EXIT_LITERT, "%s failed: %s (status %d)", call, status_name(status), status);
    }
}

#define CHECK(function, ...) check(function(__VA_ARGS__), #function)

static double now_ms(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e3 + (double)time.tv_nsec / 1e6;
}

/* High-water mark of this process in KiB, 0 where the kernel does not tell. getrusage would be
 * wrong: its mark survives exec, so it can be that of the (larger) process that started us. */
static long peak_rss_kb(void) {
    char line[256];
    long peak = 0;
    FILE *file = fopen("/proc/self/status", "r");
    if (file == NULL) {
        return 0;
    }
    while (fgets(line, sizeof line, file) != NULL) {
        if (sscanf(line, "VmHWM: %ld kB", &peak) == 1) {
            break;
        }
    }
    fclose(file);
    return peak;
}

/* ---- arguments ---- */

static int number(const char *text, char option, int least) {
    char *end;
    errno = 0;
    long value = strtol(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0' || value < least || value > 1000000) {
        fail(EXIT_USAGE, "-%c needs a whole number of at least %d, not '%s'", option, least, text);
    }
    return (int)value;
}

static void append(const char **list, size_t *count, const char *path, char option) {
    if (*count == MAX_TENSORS) {
        fail(EXIT_USAGE, "at most %d -%c options", MAX_TENSORS, option);
    }
    list[(*count)++] = path;
}

static Arguments parse(int argc, char **argv) {
    Arguments a = {.warmup = 2, .runs = 5, .threads = 1};
    int option;
    while ((option = getopt(argc, argv, "w:n:t:pi:o:")) != -1) {
        switch (option) {
        case 'w': a.warmup = number(optarg, 'w', 0); break;
        case 'n': a.runs = number(optarg, 'n', 1); break;
        case 't': a.threads = number(optarg, 't', 1); break;
        case 'p': a.profile = true; break;
        case 'i': append(a.inputs, &a.input_count, optarg, 'i'); break;
        case 'o': append(a.outputs, &a.output_count, optarg, 'o'); break;
        default: exit(EXIT_USAGE); /* getopt has said why */
        }
    }
    if (optind != argc - 1) {
        fail(EXIT_USAGE, "needs exactly one MODEL "
             "(usage: litert_run [-w N] [-n N] [-t N] [-p] [-i IN]... [-o OUT]... MODEL)");
    }
    a.model = argv[optind];
    return a;
}

/* ---- loading ---- */

static void add_options(LiteRtOptions options, const char *identifier, char *payload) {
    LiteRtOpaqueOptions opaque;
    if (payload == NULL) {
        fail(EXIT_MEMORY, "out of memory");
    }
    CHECK(LiteRtCreateOpaqueOptions, identifier, payload, free, &opaque);
    CHECK(LiteRtAddOpaqueOptions, options, opaque);
}

static Tensor make_tensor(Session *s, LiteRtTensor tensor, const LiteRtLayout *layout,
                          LiteRtTensorBufferRequirements requirements) {
    Tensor result;
    LiteRtRankedTensorType type;
    CHECK(LiteRtGetRankedTensorType, tensor, &type);
    /* The model's own shape may hold a batch of -1; the compiled layout is concrete. */
    type.layout = *layout;
    for (unsigned d = 0; d < type.layout.rank; d++) {
        if (type.layout.dimensions[d] < 0) {
            type.layout.dimensions[d] = 1;
        }
    }
    result.element_type = type.element_type;
    CHECK(LiteRtCreateManagedTensorBufferFromRequirements, s->environment, &type, requirements, &result.buffer);
    CHECK(LiteRtGetTensorBufferPackedSize, result.buffer, &result.bytes);
    return result;
}

static void make_inputs(Session *s, LiteRtSignature signature) {
    for (LiteRtParamIndex k = 0; k < s->input_count; k++) {
        LiteRtTensor tensor;
        LiteRtLayout layout;
        LiteRtTensorBufferRequirements requirements;
        CHECK(LiteRtGetSignatureInputTensorByIndex, signature, k, &tensor);
        CHECK(LiteRtGetCompiledModelInputTensorLayout, s->compiled, 0, k, &layout);
        CHECK(LiteRtGetCompiledModelInputBufferRequirements, s->compiled, 0, k, &requirements);
        s->inputs[k] = make_tensor(s, tensor, &layout, requirements);
    }
}

static void make_outputs(Session *s, LiteRtSignature signature) {
    LiteRtLayout layouts[MAX_TENSORS];
    CHECK(LiteRtGetCompiledModelOutputTensorLayouts, s->compiled, 0, s->output_count, layouts, true);
    for (LiteRtParamIndex k = 0; k < s->output_count; k++) {
        LiteRtTensor tensor;
        LiteRtTensorBufferRequirements requirements;
        CHECK(LiteRtGetSignatureOutputTensorByIndex, signature, k, &tensor);
        CHECK(LiteRtGetCompiledModelOutputBufferRequirements, s->compiled, 0, k, &requirements);
        s->outputs[k] = make_tensor(s, tensor, &layouts[k], requirements);
    }
}

static void load(Session *s, const Arguments *a) {
    LiteRtSignature signature;
    LiteRtParamIndex signatures;
    char *threads = NULL;

    if (access(a->model, R_OK) != 0) {
        fail(EXIT_INPUT, "cannot read model %s: %s", a->model, strerror(errno));
    }
    CHECK(LiteRtCreateEnvironment, 0, NULL, &s->environment);
    CHECK(LiteRtCreateModelFromFile, s->environment, a->model, &s->model);
    CHECK(LiteRtGetNumModelSignatures, s->model, &signatures);
    if (signatures == 0) {
        fail(EXIT_LITERT, "model %s has no signature", a->model);
    }

    CHECK(LiteRtCreateOptions, &s->options);
    CHECK(LiteRtSetOptionsHardwareAccelerators, s->options, LITERT_ACCELERATOR_CPU);
    if (asprintf(&threads, "num_threads = %d\n", a->threads) < 0) {
        fail(EXIT_MEMORY, "out of memory");
    }
    add_options(s->options, "xnnpack", threads);
    if (a->profile) {
        add_options(s->options, "runtime_options_string", strdup("enable_profiling = true\n"));
    }
    CHECK(LiteRtCreateCompiledModel, s->environment, s->model, s->options, &s->compiled);

    CHECK(LiteRtGetModelSignature, s->model, 0, &signature);
    CHECK(LiteRtGetNumSignatureInputs, signature, &s->input_count);
    CHECK(LiteRtGetNumSignatureOutputs, signature, &s->output_count);
    if (s->input_count > MAX_TENSORS || s->output_count > MAX_TENSORS) {
        fail(EXIT_LITERT, "model %s has more than %d inputs or outputs", a->model, MAX_TENSORS);
    }
    if (a->input_count != 0 && a->input_count != s->input_count) {
        fail(EXIT_INPUT, "model %s has %zu inputs, %zu were given", a->model, s->input_count, a->input_count);
    }
    if (a->output_count != 0 && a->output_count != s->output_count) {
        fail(EXIT_OUTPUT, "model %s has %zu outputs, %zu names were given", a->model, s->output_count,
             a->output_count);
    }
    make_inputs(s, signature);
    make_outputs(s, signature);
    if (a->profile) {
        CHECK(LiteRtCompiledModelGetProfiler, s->compiled, &s->profiler);
    }
}

/* ---- inputs and outputs ---- */

static void read_exactly(const char *path, void *data, size_t bytes) {
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        fail(EXIT_INPUT, "cannot open input %s: %s", path, strerror(errno));
    }
    size_t got = fread(data, 1, bytes, file);
    if (ferror(file)) {
        fail(EXIT_INPUT, "cannot read input %s: %s", path, strerror(errno));
    }
    if (got != bytes) {
        fail(EXIT_INPUT, "input %s is too short: %zu bytes, the model needs %zu", path, got, bytes);
    }
    if (fgetc(file) != EOF) {
        fail(EXIT_INPUT, "input %s is too long: the model needs %zu bytes", path, bytes);
    }
    fclose(file);
}

/* A fixed sequence: floats in [-1, 1), any byte for 8-bit types, zeros for the rest (an index or
 * a length must not be random). Linear congruential generator of Numerical Recipes. */
static void invent(Tensor *tensor, void *data) {
    uint32_t state = 1;
    if (tensor->element_type == LITERT_FLOAT32) {
        float *values = data;
        for (size_t i = 0; i < tensor->bytes / sizeof *values; i++) {
            state = state * 1664525u + 1013904223u;
            values[i] = (float)(state >> 8) / 8388608.0f - 1.0f;
        }
    } else if (tensor->element_type == LITERT_INT8 || tensor->element_type == LITERT_UINT8) {
        uint8_t *values = data;
        for (size_t i = 0; i < tensor->bytes; i++) {
            state = state * 1664525u + 1013904223u;
            values[i] = (uint8_t)(state >> 24);
        }
    } else {
        memset(data, 0, tensor->bytes);
    }
}

static void fill_inputs(Session *s, const Arguments *a) {
    for (LiteRtParamIndex k = 0; k < s->input_count; k++) {
        void *data;
        CHECK(LiteRtLockTensorBuffer, s->inputs[k].buffer, &data, LITERT_LOCK_WRITE);
        if (a->input_count != 0) {
            read_exactly(a->inputs[k], data, s->inputs[k].bytes);
        } else {
            invent(&s->inputs[k], data);
        }
        CHECK(LiteRtUnlockTensorBuffer, s->inputs[k].buffer);
    }
}

static void write_exactly(const char *path, const void *data, size_t bytes) {
    FILE *file = fopen(path, "wb");
    if (file == NULL) {
        fail(EXIT_OUTPUT, "cannot open output %s: %s", path, strerror(errno));
    }
    size_t put = fwrite(data, 1, bytes, file);
    if (fclose(file) != 0 || put != bytes) {
        fail(EXIT_OUTPUT, "cannot write output %s: %s", path, strerror(errno));
    }
}

/* FNV-1a, 64 bits. */
static uint64_t fnv64(const uint8_t *data, size_t bytes) {
    uint64_t hash = 14695981039346656037ull;
    for (size_t i = 0; i < bytes; i++) {
        hash ^= data[i];
        hash *= 1099511628211ull;
    }
    return hash;
}

/* ---- running ---- */

static void run_once(Session *s, LiteRtTensorBuffer *inputs, LiteRtTensorBuffer *outputs) {
    MARK_BEGIN();
    LiteRtStatus status = LiteRtRunCompiledModel(s->compiled, 0, s->input_count, inputs, s->output_count, outputs);
    MARK_END();
    check(status, "LiteRtRunCompiledModel");
}

static void warm_up(Session *s, LiteRtTensorBuffer *inputs, LiteRtTensorBuffer *outputs, int runs) {
    for (int i = 0; i < runs; i++) {
        CHECK(LiteRtRunCompiledModel, s->compiled, 0, s->input_count, inputs, s->output_count, outputs);
    }
}

static double *measure(Session *s, const Arguments *a) {
    LiteRtTensorBuffer inputs[MAX_TENSORS];
    LiteRtTensorBuffer outputs[MAX_TENSORS];
    double *times = calloc((size_t)a->runs, sizeof *times);
    if (times == NULL) {
        fail(EXIT_MEMORY, "out of memory");
    }
    for (LiteRtParamIndex k = 0; k < s->input_count; k++) {
        inputs[k] = s->inputs[k].buffer;
    }
    for (LiteRtParamIndex k = 0; k < s->output_count; k++) {
        outputs[k] = s->outputs[k].buffer;
    }
    warm_up(s, inputs, outputs, a->warmup);
    if (s->profiler != NULL) {
        CHECK(LiteRtStartProfiler, s->profiler);
    }
    for (int i = 0; i < a->runs; i++) {
        double start = now_ms();
        run_once(s, inputs, outputs);
        times[i] = now_ms() - start;
    }
    if (s->profiler != NULL) {
        CHECK(LiteRtStopProfiler, s->profiler);
    }
    return times;
}

/* ---- report ---- */

static void print_string(const char *text) {
    putchar('"');
    for (const unsigned char *c = (const unsigned char *)text; *c != '\0'; c++) {
        if (*c == '"' || *c == '\\') {
            printf("\\%c", *c);
        } else if (*c < 0x20 || *c >= 0x7f) {
            printf("\\u%04x", *c);
        } else {
            putchar(*c);
        }
    }
    putchar('"');
}

static void print_outputs(Session *s, const Arguments *a) {
    printf(",\"outputs\":[");
    for (LiteRtParamIndex k = 0; k < s->output_count; k++) {
        void *data;
        CHECK(LiteRtLockTensorBuffer, s->outputs[k].buffer, &data, LITERT_LOCK_READ);
        if (a->output_count != 0) {
            write_exactly(a->outputs[k], data, s->outputs[k].bytes);
        }
        printf("%s{\"bytes\":%zu,\"fnv64\":\"%016llx\"}", k == 0 ? "" : ",", s->outputs[k].bytes,
               (unsigned long long)fnv64(data, s->outputs[k].bytes));
        CHECK(LiteRtUnlockTensorBuffer, s->outputs[k].buffer);
    }
    putchar(']');
}

/* Types above 8 are telemetry: settings and statuses packed into the time fields. */
static void print_events(Session *s) {
    int count;
    const char *separator = "";
    CHECK(LiteRtGetNumProfilerEvents, s->profiler, &count);
    LiteRtProfilerEvent *events = calloc((size_t)count + 1, sizeof *events);
    if (events == NULL) {
        fail(EXIT_MEMORY, "out of memory");
    }
    CHECK(LiteRtGetProfilerEvents, s->profiler, count, events);
    printf(",\"events\":[");
    for (int i = 0; i < count; i++) {
        if (events[i].type > LITERT_EVENT_DELEGATE_PROFILED_OPERATOR) {
            continue;
        }
        printf("%s{\"tag\":", separator);
        separator = ",";
        print_string(events[i].tag == NULL ? "" : events[i].tag);
        printf(",\"type\":%d,\"node\":%llu,\"subgraph\":%llu,\"us\":%llu}", events[i].type,
               (unsigned long long)events[i].metadata1, (unsigned long long)events[i].metadata2,
               (unsigned long long)events[i].elapsed_us);
    }
    putchar(']');
    free(events);
}

static void report(Session *s, const Arguments *a, const double *times, double load_time, long start_rss) {
    struct utsname machine;
    uname(&machine);
    printf("{\"machine\":");
    print_string(machine.machine);
    printf(",\"load_ms\":%.4f,\"runs_ms\":[", load_time);
    for (int i = 0; i < a->runs; i++) {
        printf("%s%.6f", i == 0 ? "" : ",", times[i]);
    }
    printf("],\"start_rss_kb\":%ld,\"peak_rss_kb\":%ld", start_rss, peak_rss_kb());
    print_outputs(s, a);
    if (s->profiler != NULL) {
        print_events(s);
    }
    printf("}\n");
}

static void close_session(Session *s) {
    for (LiteRtParamIndex k = 0; k < s->input_count; k++) {
        LiteRtDestroyTensorBuffer(s->inputs[k].buffer);
    }
    for (LiteRtParamIndex k = 0; k < s->output_count; k++) {
        LiteRtDestroyTensorBuffer(s->outputs[k].buffer);
    }
    LiteRtDestroyCompiledModel(s->compiled);
    LiteRtDestroyOptions(s->options);
    LiteRtDestroyModel(s->model);
    LiteRtDestroyEnvironment(s->environment);
}

int main(int argc, char **argv) {
    Arguments arguments = parse(argc, argv);
    Session session = {0};
    long start_rss = peak_rss_kb();

    double start = now_ms();
    load(&session, &arguments);
    double load_time = now_ms() - start;

    fill_inputs(&session, &arguments);
    double *times = measure(&session, &arguments);
    report(&session, &arguments, times, load_time, start_rss);
    free(times);
    close_session(&session);
    if (fflush(stdout) != 0) {
        fail(EXIT_OUTPUT, "cannot write the report: %s", strerror(errno));
    }
    return 0;
}
