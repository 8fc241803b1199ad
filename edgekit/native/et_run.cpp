/* et_run: run a .pte file with the ExecuTorch runtime and report what it did as one JSON line.
 *
 *   et_run [-w WARMUP] [-n RUNS] [-t THREADS] [-p -e ETDUMP] [-i IN]... [-o OUT]... MODEL
 *
 *   -w N    runs before the measured ones (default 2)
 *   -n N    measured runs (default 5)
 *   -t N    threads of XNNPACK and of the optimized kernels (default 1)
 *   -p      switch the runtime's profiler on; -e names the file for its ETDump of the measured runs
 *   -i IN   raw bytes of an input; once per input, in the order of the method "forward".
 *           Without any -i the inputs are filled with a fixed pseudo-random sequence.
 *   -o OUT  where to write the raw bytes of an output; once per output, or not at all
 *
 * Standard output is one JSON object:
 *   machine, load_ms, runs_ms[], start_rss_kb, peak_rss_kb, outputs[{bytes, fnv64}]
 * as litert_run writes it. peak_rss_kb is the high-water mark of the process; start_rss_kb the mark before
 * the model was loaded.
 *
 * Exit codes: 0 done, 2 usage, 3 ExecuTorch refused, 4 an input does not fit, 5 an output cannot be
 * written. The reason is on standard error.
 */
#include <executorch/devtools/etdump/etdump_flatcc.h>
#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor.h>
#include <executorch/runtime/platform/log.h>
#include <executorch/runtime/platform/platform.h>
#include <executorch/runtime/platform/runtime.h>

#include <cerrno>
#include <chrono>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include <sys/utsname.h>
#include <unistd.h>

namespace {
size_t thread_count = 1;
}

/* The runtime's own get_threadpool() makes a thread per core at its first call, and only then could their number
 * be changed: threads that never work but count as such. This definition takes its place, since the libraries
 * call it through their symbol tables. The wheel holds the library but not extension/threadpool/threadpool.h:
 * the class is declared as far as it is used, and lives in more room than it needs. */
namespace executorch::extension::threadpool {
class ThreadPool {
 public:
  explicit ThreadPool(size_t count);
};

ThreadPool* get_threadpool();
ThreadPool* get_threadpool() {
  alignas(64) static unsigned char room[4096];
  static ThreadPool* pool = new (room) ThreadPool(thread_count);
  return pool;
}
} // namespace executorch::extension::threadpool

namespace {

using executorch::aten::ScalarType;
using executorch::extension::Module;
using executorch::extension::TensorPtr;
using executorch::runtime::Error;
using executorch::runtime::EValue;

enum Exit { kUsage = 2, kRuntime = 3, kInput = 4, kOutput = 5 };

/* Two A64 HINT instructions, which every core executes as NOP, bracket each measured run. The
 * instruction counter (ekcount.c) recognises them; on other machines there is nothing to count. */
#ifdef __aarch64__
#define MARK_BEGIN() __asm__ volatile("hint #112" ::: "memory")
#define MARK_END() __asm__ volatile("hint #113" ::: "memory")
#else
#define MARK_BEGIN() ((void)0)
#define MARK_END() ((void)0)
#endif

[[noreturn]] __attribute__((format(printf, 2, 3))) void fail(int code, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  std::fputs("et_run: ", stderr);
  std::vfprintf(stderr, format, arguments);
  std::fputc('\n', stderr);
  va_end(arguments);
  std::exit(code);
}

void check(Error error, const char* what) {
  if (error != Error::Ok) {
    fail(kRuntime, "%s failed: %s (error 0x%x)", what, executorch::runtime::to_string(error),
         static_cast<unsigned>(error));
  }
}

double now_ms() {
  using std::chrono::steady_clock;
  return std::chrono::duration<double, std::milli>(steady_clock::now().time_since_epoch()).count();
}

/* High-water mark of this process in KiB, 0 where the kernel does not tell. getrusage would be
 * wrong: its mark survives exec, so it can be that of the (larger) process that started us. */
long peak_rss_kb() {
  char line[256];
  long peak = 0;
  std::FILE* file = std::fopen("/proc/self/status", "r");
  if (file == nullptr) {
    return 0;
  }
  while (std::fgets(line, sizeof line, file) != nullptr) {
    if (std::sscanf(line, "VmHWM: %ld kB", &peak) == 1) {
      break;
    }
  }
  std::fclose(file);
  return peak;
}

/* The runtime tells of every file of an ARM board that this machine does not have. */
void log_problems_only(et_timestamp_t, et_pal_log_level_t level, const char* file, const char*, size_t line,
                       const char* message, size_t) {
  if (level != kDebug && level != kInfo) {
    std::fprintf(stderr, "et_run: %s:%zu: %s\n", file, line, message);
  }
}

/* ---- arguments ---- */

struct Arguments {
  int warmup = 2;
  int runs = 5;
  int threads = 1;
  bool profile = false;
  std::string etdump;
  std::vector<std::string> inputs;
  std::vector<std::string> outputs;
  std::string model;
};

int number(const char* text, char option, int least) {
  char* end;
  errno = 0;
  long value = std::strtol(text, &end, 10);
  if (errno != 0 || end == text || *end != '\0' || value < least || value > 1000000) {
    fail(kUsage, "-%c needs a whole number of at least %d, not '%s'", option, least, text);
  }
  return static_cast<int>(value);
}

Arguments parse(int argc, char** argv) {
  Arguments a;
  int option;
  while ((option = getopt(argc, argv, "w:n:t:pe:i:o:")) != -1) {
    switch (option) {
      case 'w': a.warmup = number(optarg, 'w', 0); break;
      case 'n': a.runs = number(optarg, 'n', 1); break;
      case 't': a.threads = number(optarg, 't', 1); break;
      case 'p': a.profile = true; break;
      case 'e': a.etdump = optarg; break;
      case 'i': a.inputs.emplace_back(optarg); break;
      case 'o': a.outputs.emplace_back(optarg); break;
      default: std::exit(kUsage); /* getopt has said why */
    }
  }
  if (optind != argc - 1) {
    fail(kUsage, "needs exactly one MODEL (usage: et_run [-w N] [-n N] [-t N] [-p -e ETDUMP] [-i IN]... "
                 "[-o OUT]... MODEL)");
  }
  if (a.profile == a.etdump.empty()) {
    fail(kUsage, "-p and -e ETDUMP belong together");
  }
  a.model = argv[optind];
  return a;
}

/* ---- inputs and outputs ---- */

void read_exactly(const std::string& path, std::vector<uint8_t>& data) {
  std::FILE* file = std::fopen(path.c_str(), "rb");
  if (file == nullptr) {
    fail(kInput, "cannot open input %s: %s", path.c_str(), std::strerror(errno));
  }
  size_t got = std::fread(data.data(), 1, data.size(), file);
  if (std::ferror(file)) {
    fail(kInput, "cannot read input %s: %s", path.c_str(), std::strerror(errno));
  }
  if (got != data.size()) {
    fail(kInput, "input %s is too short: %zu bytes, the model needs %zu", path.c_str(), got, data.size());
  }
  if (std::fgetc(file) != EOF) {
    fail(kInput, "input %s is too long: the model needs %zu bytes", path.c_str(), data.size());
  }
  std::fclose(file);
}

/* A fixed sequence: floats in [-1, 1), zeros for the rest (an index or a length must not be random).
 * Linear congruential generator of Numerical Recipes. */
void invent(ScalarType type, std::vector<uint8_t>& data) {
  uint32_t state = 1;
  if (type != ScalarType::Float) {
    return;
  }
  for (size_t i = 0; i + sizeof(float) <= data.size(); i += sizeof(float)) {
    state = state * 1664525u + 1013904223u;
    float value = static_cast<float>(state >> 8) / 8388608.0f - 1.0f;
    std::memcpy(data.data() + i, &value, sizeof value);
  }
}

void write_exactly(const std::string& path, const void* data, size_t bytes) {
  std::FILE* file = std::fopen(path.c_str(), "wb");
  if (file == nullptr) {
    fail(kOutput, "cannot open output %s: %s", path.c_str(), std::strerror(errno));
  }
  size_t put = std::fwrite(data, 1, bytes, file);
  if (std::fclose(file) != 0 || put != bytes) {
    fail(kOutput, "cannot write output %s: %s", path.c_str(), std::strerror(errno));
  }
}

/* FNV-1a, 64 bits. */
uint64_t fnv64(const uint8_t* data, size_t bytes) {
  uint64_t hash = 14695981039346656037ull;
  for (size_t i = 0; i < bytes; i++) {
    hash ^= data[i];
    hash *= 1099511628211ull;
  }
  return hash;
}

std::vector<TensorPtr> make_inputs(Module& module, const Arguments& a) {
  auto meta = module.method_meta("forward");
  check(meta.error(), "reading the method's signature");
  if (!a.inputs.empty() && a.inputs.size() != meta->num_inputs()) {
    fail(kInput, "model %s has %zu inputs, %zu were given", a.model.c_str(), meta->num_inputs(),
         a.inputs.size());
  }
  if (!a.outputs.empty() && a.outputs.size() != meta->num_outputs()) {
    fail(kOutput, "model %s has %zu outputs, %zu names were given", a.model.c_str(), meta->num_outputs(),
         a.outputs.size());
  }
  std::vector<TensorPtr> inputs;
  for (size_t i = 0; i < meta->num_inputs(); i++) {
    auto info = meta->input_tensor_meta(i);
    check(info.error(), "reading an input's shape");
    std::vector<executorch::aten::SizesType> sizes(info->sizes().begin(), info->sizes().end());
    std::vector<uint8_t> data(info->nbytes());
    if (a.inputs.empty()) {
      invent(info->scalar_type(), data);
    } else {
      read_exactly(a.inputs[i], data);
    }
    inputs.push_back(executorch::extension::make_tensor_ptr(sizes, std::move(data), info->scalar_type()));
  }
  return inputs;
}

/* ---- report ---- */

void report(const Arguments& a, double load_time, const std::vector<double>& times, long start_rss,
            const std::vector<EValue>& outputs) {
  struct utsname machine;
  uname(&machine);
  std::printf("{\"machine\":\"%s\",\"load_ms\":%.4f,\"runs_ms\":[", machine.machine, load_time);
  for (size_t i = 0; i < times.size(); i++) {
    std::printf("%s%.6f", i == 0 ? "" : ",", times[i]);
  }
  std::printf("],\"start_rss_kb\":%ld,\"peak_rss_kb\":%ld,\"outputs\":[", start_rss, peak_rss_kb());
  for (size_t k = 0; k < outputs.size(); k++) {
    if (!outputs[k].isTensor()) {
      fail(kRuntime, "output %zu of model %s is not a tensor", k, a.model.c_str());
    }
    const auto tensor = outputs[k].toTensor();
    const auto* data = static_cast<const uint8_t*>(tensor.const_data_ptr());
    if (!a.outputs.empty()) {
      write_exactly(a.outputs[k], data, tensor.nbytes());
    }
    std::printf("%s{\"bytes\":%zu,\"fnv64\":\"%016llx\"}", k == 0 ? "" : ",", tensor.nbytes(),
                static_cast<unsigned long long>(fnv64(data, tensor.nbytes())));
  }
  std::printf("]}\n");
}

} // namespace

int main(int argc, char** argv) {
  const Arguments a = parse(argc, argv);
  thread_count = static_cast<size_t>(a.threads);
  const long start_rss = peak_rss_kb();
  executorch::runtime::runtime_init();
  executorch::runtime::register_pal(executorch::runtime::PalImpl::create(log_problems_only, __FILE__));
  if (access(a.model.c_str(), R_OK) != 0) {
    fail(kInput, "cannot read model %s: %s", a.model.c_str(), std::strerror(errno));
  }

  const double start = now_ms();
  std::unique_ptr<executorch::etdump::ETDumpGen> tracer;
  if (a.profile) {
    tracer = std::make_unique<executorch::etdump::ETDumpGen>();
  }
  auto* etdump = tracer.get();
  Module module(a.model, Module::LoadMode::File, std::move(tracer));
  check(module.load_method("forward"), "loading the model");
  const double load_time = now_ms() - start;

  const std::vector<TensorPtr> tensors = make_inputs(module, a);
  std::vector<EValue> inputs;
  for (const auto& tensor : tensors) {
    inputs.emplace_back(*tensor);
  }
  for (int i = 0; i < a.warmup; i++) {
    check(module.forward(inputs).error(), "running the model");
  }
  if (etdump != nullptr) {
    etdump->reset();
  }
  std::vector<double> times;
  std::vector<EValue> outputs;
  for (int i = 0; i < a.runs; i++) {
    const double before = now_ms();
    MARK_BEGIN();
    auto result = module.forward(inputs);
    MARK_END();
    times.push_back(now_ms() - before);
    check(result.error(), "running the model");
    outputs = std::move(result.get());
  }
  report(a, load_time, times, start_rss, outputs);
  if (etdump != nullptr) {
    const auto dump = etdump->get_etdump_data();
    if (dump.buf == nullptr || dump.size == 0) {
      fail(kRuntime, "the runtime gave no ETDump");
    }
    write_exactly(a.etdump, dump.buf, dump.size);
    std::free(dump.buf);
  }
  if (std::fflush(stdout) != 0) {
    fail(kOutput, "cannot write the report: %s", std::strerror(errno));
  }
  return 0;
}
