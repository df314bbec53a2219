// Compares CPU kernels with the plain sum. It runs every kernel that supports a problem and that
// this processor can run, and prints a line for each difference.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>

#include "../../support/compare.h"
#include "core/reference.h"
#include "cpu/cpu_features.h"
#include "cpu/kernel_list.h"
#include "programs.h"
#include "thread_pool.h"

namespace {

using namespace convkern;

// Numbers in memory of exactly their size, so that ASan finds accesses beyond it. Like a tensor
// that is a view, they are aligned to one element only.
template <class T>
class Numbers {
 public:
  explicit Numbers(int64_t size) : size_(size) {
    const size_t bytes = (size + 1) * sizeof(T);
    if (size > 0) memory_.reset(static_cast<char*>(std::malloc(bytes)));
  }
  T* data() const { return size_ > 0 ? reinterpret_cast<T*>(memory_.get()) + 1 : nullptr; }
  int64_t size() const { return size_; }
  const Numbers& fill(double number) const {
    std::fill_n(data(), size_, from_double<T>(number));
    return *this;
  }
  const Numbers& randomize(std::mt19937& engine) const {
    std::normal_distribution<double> normal;
    for (int64_t i = 0; i < size_; ++i) data()[i] = from_double<T>(normal(engine));
    return *this;
  }

 private:
  struct Free {
    void operator()(char* p) const { std::free(p); }
  };
  int64_t size_;
  std::unique_ptr<char, Free> memory_;
};

template <class T>
struct Tensors {
  Numbers<T> x, w, b, gy;

  explicit Tensors(const Problem& p)
      : x(p.N * p.C * p.H * p.W),
        w(p.O * p.Cg * p.R * p.S),
        b(p.bias ? p.O : 0),
        gy(p.N * p.O * p.OH() * p.OW()) {
    std::mt19937 engine(0);
    for (const Numbers<T>* numbers : {&x, &w, &b, &gy}) numbers->randomize(engine);
  }
  Operands operands(const Numbers<T>& out) const {
    return {x.data(), w.data(), b.data(), gy.data(), nullptr, out.data()};
  }
};

// The allowed error, relative to the largest result.
template <class T>
double tolerance(const Kernel& kernel) {
  if (std::is_same_v<T, double>) return 1e-13;
  return kernel.precision <= Precision::high ? 1e-5 : 1e-3;
}

struct Workspace {
  explicit Workspace(int64_t bytes) {
    if (bytes <= 0) return;
    // The size is not rounded up to the alignment, so that ASan guards the byte after the last.
    if (posix_memalign(&memory, 64, bytes) != 0) std::abort();
    std::fill_n(static_cast<unsigned char*>(memory), bytes, 0xff);  // all bits set are NaN
  }
  ~Workspace() { std::free(memory); }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  void* memory = nullptr;
};

struct Count {
  int runs = 0, faults = 0;
};

template <class T>
void check(const Problem& p, const Executor& executor, Count& count) {
  const Tensors<T> tensors(p);
  const int64_t size = Reference<T>(p, {}).size();
  const Numbers<T> expected(size), out(size);
  const Reference<T> reference(p, tensors.operands(expected));
  executor.run(size, 64, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) reference.element(i);
  });
  Constraints constraints;
  constraints.available = cpu::available_isa();
  constraints.precision = Precision::medium;
  auto run = [&](const Kernel& kernel, const Plan& plan, const Operands& operands,
                 const std::string& how) {
    out.fill(NAN);
    const Workspace workspace(plan.workspace(executor.threads()));
    plan.run(operands, workspace.memory, executor);
    const std::string what = difference(out.data(), expected.data(), size, tolerance<T>(kernel));
    ++count.runs;
    if (what.empty()) return;
    ++count.faults;
    std::printf("%s%s, %s: %s\n", kernel.name, how.c_str(), to_string(p).c_str(), what.c_str());
  };
  Chooser chooser(cpu::kernel_list(), p, constraints);
  for (const Kernel& kernel : cpu::kernel_list()) {
    if (kernel.pass != p.pass || chooser.why_not(kernel) != Reason::none) continue;
    const std::unique_ptr<const Plan> plan = chooser.take_plan(kernel);
    Operands operands = tensors.operands(out);
    run(kernel, *plan, operands, "");
    if (plan->packed_bytes() == 0) continue;
    const Workspace packed(plan->packed_bytes());
    plan->pack(operands.w, packed.memory, executor);
    operands.w = nullptr;
    operands.packed = packed.memory;
    run(kernel, *plan, operands, " with packed weights");
  }
}

}  // namespace

int check_kernels(int threads, const std::vector<std::string>& problems) {
  const ThreadPool pool(threads);
  Count count;
  for (const std::string& text : problems) {
    const Problem p = parse_problem(text);
    with_element(p.dtype, [&](auto element) { check<decltype(element)>(p, pool, count); });
  }
  std::printf("%s: %d runs, %d faults\n", to_string(cpu::available_isa()), count.runs,
              count.faults);
  return count.faults == 0 && count.runs > 0 ? 0 : 1;
}
