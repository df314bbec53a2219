// The reference kernels: one thread for each element of the result, which computes a plain sum
// (core/reference.h). They support every problem. They are made to be right, not fast.
#include "core/reference.h"

#include "cuda/elements.cuh"
#include "cuda/kernel_list.h"

namespace convkern::cuda {
namespace {

template <class T>
__global__ void reference_kernel(const Reference<T> reference, int64_t size) {
  for_each_element(size, [&](auto index) { reference.element(index); });
}

template <class T>
void launch_reference(const Problem& p, const Operands& ops, const Executor& executor) {
  const Reference<T> reference(p, ops);
  const int64_t size = reference.size();
  launch(reference_kernel<T>, element_shape(size), executor, reference, size);
}

struct ReferencePlan final : Plan {
  const Problem p;

  explicit ReferencePlan(const Problem& problem) : p(problem) {}
  void run(const Operands& ops, void*, const Executor& executor) const override {
    with_element(p.dtype,
                 [&](auto element) { launch_reference<decltype(element)>(p, ops, executor); });
  }
};

Planned plan(const Problem& p) { return std::make_unique<const ReferencePlan>(p); }

}  // namespace

void add_reference(std::vector<Kernel>& kernels) {
  add_kernels({"reference", plan, plan, plan}, KernelDType::any, kernels);
}

}  // namespace convkern::cuda
