// Compares the CUDA kernels of an algorithm with the plain sum, in several schedules. The first
// argument names the algorithm, and the others are problems. Tests build this program with
// sanitizers. It prints a line for each difference.
#include <cmath>
#include <cstdio>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "../../support/compare.h"
#include "core/problem.h"
#include "core/reference.h"

extern "C" {
const char* convkern_kernel_name(int index);
const char* convkern_kernel_pass(const char* name);
const char* convkern_kernel_algorithm(const char* name);
const char* convkern_rejection(const char* name, const char* problem);
int64_t convkern_workspace(const char* name, const char* problem);
const char* convkern_run(const char* name, const char* problem, unsigned schedule, const void* x,
                         const void* w, const void* b, const void* gy, const void* residual,
                         void* out, void* workspace);
}

namespace {

using namespace convkern;

// Returns random numbers with at most 11 significant bits, which rounding to TF32 does not change.
template <class T>
std::vector<T> random(int64_t size) {
  static std::mt19937 engine(0);
  std::normal_distribution<double> normal;
  std::vector<T> numbers(size);
  for (T& number : numbers) {
    number = from_double<T>(to_double(from_double<Half>(normal(engine))));
  }
  return numbers;
}

template <class T>
struct Tensors {
  std::vector<T> x, w, b, gy, residual;

  explicit Tensors(const Problem& p)
      : x(random<T>(p.N * p.C * p.H * p.W)),
        w(random<T>(p.O * p.Cg * p.R * p.S)),
        b(random<T>(p.bias ? p.O : 0)),
        gy(random<T>(p.N * p.O * p.OH() * p.OW())),
        residual(random<T>(p.residual ? gy.size() : 0)) {}
  Operands operands(std::vector<T>& out) const {
    auto if_any = [](const std::vector<T>& v) { return v.empty() ? nullptr : v.data(); };
    return {x.data(), w.data(), if_any(b), gy.data(), if_any(residual), out.data()};
  }
};

template <class T>
std::vector<T> plain_sums(const Problem& p, const Tensors<T>& tensors) {
  std::vector<T> out(Reference<T>(p, {}).size());
  const Reference<T> reference(p, tensors.operands(out));
  for (int64_t i = 0; i < reference.size(); ++i) reference.element(i);
  return out;
}

// The largest allowed error of a sum, relative to the largest result.
template <class T>
constexpr double kSumError = 1e-5;
template <>
constexpr double kSumError<double> = 1e-13;

// Returns what a kernel does wrong in a schedule, or an empty text.
template <class T>
std::string fault(const char* kernel, const std::string& text, const Tensors<T>& tensors,
                  const std::vector<T>& expected, unsigned schedule) {
  // The memory has exactly the size that is written, so that ASan finds accesses beyond it.
  std::vector<T> out(expected.size(), from_double<T>(NAN));
  std::vector<char> workspace(convkern_workspace(kernel, text.c_str()), '\xff');  // NaN
  const Operands ops = tensors.operands(out);
  const std::string error = convkern_run(kernel, text.c_str(), schedule, ops.x, ops.w, ops.b,
                                         ops.gy, ops.residual, ops.out, workspace.data());
  if (!error.empty()) return error;
  return difference(out.data(), expected.data(), static_cast<int64_t>(out.size()), kSumError<T>);
}

struct Count {
  int runs = 0, faults = 0;
};

template <class T>
void check(const Problem& p, const std::string& algorithm, const std::string& text, Count& count) {
  const Tensors<T> tensors(p);
  const std::vector<T> expected = plain_sums(p, tensors);
  for (int k = 0; const char* kernel = convkern_kernel_name(k); ++k) {
    if (convkern_kernel_pass(kernel) != std::string(to_string(p.pass))) continue;
    if (convkern_kernel_algorithm(kernel) != algorithm) continue;
    if (*convkern_rejection(kernel, text.c_str()) != '\0') continue;
    for (const unsigned schedule : {0u, 1u, 7u}) {
      ++count.runs;
      const std::string what = fault(kernel, text, tensors, expected, schedule);
      if (what.empty()) continue;
      ++count.faults;
      std::printf("%s, %s, schedule %u: %s\n", kernel, text.c_str(), schedule, what.c_str());
    }
  }
}

}  // namespace

int main(int arguments, char** texts) {
  Count count;
  for (int i = 2; i < arguments; ++i) {
    const Problem p = parse_problem(texts[i]);
    with_element(p.dtype,
                 [&](auto element) { check<decltype(element)>(p, texts[1], texts[i], count); });
  }
  std::printf("%d runs, %d faults\n", count.runs, count.faults);
  return count.faults == 0 && count.runs > 0 ? 0 : 1;
}
