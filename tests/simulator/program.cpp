// Compares every CUDA kernel with the plain sum, on the problems of the command line, in several
// schedules: what tests build with sanitizers. Prints a line for each difference.
#include <cmath>
#include <cstdio>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/problem.h"
#include "core/reference.h"

extern "C" {
const char* convkern_kernel_name(int index);
const char* convkern_rejection(const char* name, const char* problem);
int64_t convkern_workspace(const char* name, const char* problem);
const char* convkern_run(const char* name, const char* problem, unsigned schedule, const void* x,
                         const void* w, const void* b, const void* gy, void* out, void* workspace);
}

namespace {

using namespace convkern;
using Floats = std::vector<float>;

Floats random(int64_t size) {
  static std::mt19937 engine(0);
  std::normal_distribution<float> normal;
  Floats numbers(size);
  for (float& number : numbers) number = normal(engine);
  return numbers;
}

struct Tensors {
  Floats x, w, b, gy;

  explicit Tensors(const Problem& p)
      : x(random(p.N * p.C * p.H * p.W)),
        w(random(p.O * p.Cg * p.R * p.S)),
        b(random(p.bias ? p.O : 0)),
        gy(random(p.N * p.O * p.OH() * p.OW())) {}
  Operands operands(Floats& out) const {
    return {x.data(), w.data(), b.empty() ? nullptr : b.data(), gy.data(), out.data()};
  }
};

Floats plain_sums(const Problem& p, const Tensors& tensors) {
  Floats out(Reference<float>(p, {}).size());
  const Reference<float> reference(p, tensors.operands(out));
  for (int64_t i = 0; i < reference.size(); ++i) reference.element(i);
  return out;
}

// What a kernel does wrong in a schedule; empty if nothing.
std::string fault(const char* kernel, const std::string& text, const Tensors& tensors,
                  const Floats& expected, unsigned schedule) {
  // Memory of exactly the sizes that are written, for ASan.
  Floats out(expected.size(), NAN);
  const int64_t bytes = convkern_workspace(kernel, text.c_str());
  Floats workspace(bytes / sizeof(float), NAN);
  const Operands ops = tensors.operands(out);
  const std::string error = convkern_run(kernel, text.c_str(), schedule, ops.x, ops.w, ops.b,
                                         ops.gy, ops.out, workspace.data());
  if (!error.empty()) return error;
  float largest = 1;
  for (const float number : expected) largest = std::max(largest, std::abs(number));
  for (size_t i = 0; i < out.size(); ++i) {
    // Written so that NaN fails.
    if (!(std::abs(out[i] - expected[i]) <= 1e-5f * largest)) {
      return "element " + std::to_string(i) + " is " + std::to_string(out[i]) + ", not " +
             std::to_string(expected[i]);
    }
  }
  return {};
}

}  // namespace

int main(int count, char** texts) {
  int runs = 0, faults = 0;
  for (int i = 1; i < count; ++i) {
    const std::string text = texts[i];
    const Problem p = parse_problem(text);
    const Tensors tensors(p);
    const Floats expected = plain_sums(p, tensors);
    for (int k = 0; const char* kernel = convkern_kernel_name(k); ++k) {
      const std::string pass = std::string(to_string(p.pass)) + ".";
      if (std::string(kernel).rfind(pass, 0) != 0) continue;
      if (*convkern_rejection(kernel, text.c_str()) != '\0') continue;
      for (const unsigned schedule : {0u, 1u, 7u}) {
        ++runs;
        const std::string what = fault(kernel, text, tensors, expected, schedule);
        if (what.empty()) continue;
        ++faults;
        std::printf("%s, %s, schedule %u: %s\n", kernel, text.c_str(), schedule, what.c_str());
      }
    }
  }
  std::printf("%d runs, %d faults\n", runs, faults);
  return faults == 0 && runs > 0 ? 0 : 1;
}
