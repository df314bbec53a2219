// Plans random and damaged problem strings. Each must be refused with std::invalid_argument or be a
// problem that survives its own text. Every kernel must state a reason and a workspace for it.
// Sanitizers run this program; many sizes are those at which products overflow.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <stdexcept>

#include "cpu/kernel_list.h"
#include "programs.h"

using namespace convkern;

namespace {

class Source {
 public:
  explicit Source(unsigned seed) : engine_(seed) {}
  int64_t below(int64_t n) { return std::uniform_int_distribution<int64_t>(0, n - 1)(engine_); }
  int64_t size() {
    switch (below(20)) {
      case 0:
        return below(2);
      case 1:  // around a power of two
        return static_cast<int64_t>((uint64_t{1} << below(63)) - 1 + below(3));
      case 2:
        return below(INT64_MAX);
      case 3:
      case 4:
        return below(70000);
      default:
        return 1 + below(20);
    }
  }
  // Returns the size of a kernel, mostly one that fits the input.
  int64_t extent() { return below(4) == 0 ? size() : 1 + below(3); }
  std::string text() {
    static const char* const tails[] = {"fwd", "fwd+bias", "fwd+relu", "fwd+bias+relu", "gx", "gw"};
    static const char* const dtypes[] = {"f32", "f64", "bf16", "f16"};
    std::string text;
    const uint64_t groups = below(3) == 0 ? size() : 1;
    for (const char letter : std::string("nchwkrspquvdeg")) {
      const bool optional = std::string("pquvde").find(letter) != std::string::npos;
      if (optional && below(2) == 0) continue;
      uint64_t value = letter == 'r' || letter == 's' ? extent() : size();
      // These are mostly multiples of the groups. Otherwise few problems would get past that rule.
      if (letter == 'c' || letter == 'k') value = below(30) == 0 ? 0 : (value % 1000 + 1) * groups;
      if (letter == 'g') value = groups;
      text += letter + std::to_string(value);
    }
    text +=
        std::string("_") + dtypes[below(4)] + (below(2) ? "_nchw_" : "_nhwc_") + tails[below(6)];
    if (below(4) == 0) damage(text);
    return text;
  }

 private:
  void damage(std::string& text) {
    for (int64_t i = below(4); i >= 0 && !text.empty(); --i) {
      const size_t at = below(text.size());
      switch (below(3)) {
        case 0:
          text.erase(at, 1 + below(3));
          break;
        case 1:
          text[at] = static_cast<char>(below(256));
          break;
        default:
          text.insert(at, text.substr(below(text.size()), below(5)));
      }
    }
  }
  std::mt19937_64 engine_;
};

// Returns what is wrong with the plan of the problem, or an empty text.
std::string fault(const Problem& p) {
  if (to_string(parse_problem(to_string(p))) != to_string(p)) return "its text is another problem";
  if (p.min_bytes() < 0) return "negative bytes";
  if (!(p.flops() >= 0)) return "negative FLOPs";
  for (const Isa isa : {Isa::baseline, Isa::avx2, Isa::avx512, Isa::avx512bf16}) {
    Constraints constraints;
    constraints.available = isa;
    constraints.precision = Precision::medium;
    std::vector<Rejection> rejected;
    Chooser chooser(cpu::kernel_list(), p, constraints);
    chooser.choose(&rejected);
    for (const Kernel& kernel : cpu::kernel_list()) {
      if (kernel.pass != p.pass || chooser.why_passed_over(kernel) != Reason::none) continue;
      const std::unique_ptr<const Plan> plan = chooser.take_plan(kernel);
      for (const int threads : {1, 2, 256}) {
        if (plan->workspace(threads) < 0) return std::string(kernel.name) + ": workspace";
      }
    }
  }
  return {};
}

}  // namespace

// libFuzzer calls this. The bytes are the text.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  try {
    if (const std::string what = fault(parse_problem(text)); !what.empty()) {
      std::printf("%s: %s\n", text.c_str(), what.c_str());
      std::abort();
    }
  } catch (const std::invalid_argument&) {  // refused
  }
  return 0;
}

int fuzz_plans(unsigned seed, int count) {
  Source source(seed);
  int planned = 0, faults = 0;
  for (int i = 0; i < count; ++i) {
    const std::string text = source.text();
    try {
      const std::string what = fault(parse_problem(text));
      ++planned;
      if (what.empty()) continue;
      ++faults;
      std::printf("%s: %s\n", text.c_str(), what.c_str());
    } catch (const std::invalid_argument&) {  // refused
    }
  }
  std::printf("%d texts, %d planned, %d faults\n", count, planned, faults);
  return faults == 0 && planned > 0 ? 0 : 1;
}
